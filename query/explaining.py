"""DuckDB's plan of a statement as text for whoever wrote it: without our columns, files and ways to read them. Pure."""

import json
from typing import Any

OURS = "_duckmesh"
# What else DuckDB tells of an operator may name files, or what stands behind a table.
SHOWN = {
    "Projections": "columns",
    "Filters": "filters",
    "Expression": "condition",
    "Groups": "groups",
    "Aggregates": "aggregates",
    "Join Type": "join",
    "Conditions": "on",
    "Order By": "order",
    "Top": "top",
    "Estimated Cardinality": "rows, estimated",
}
NAMES = {"READ_PARQUET": "READ_FILES"}


def plan_text(document: str) -> str:
    """The operators of the plan that `EXPLAIN (FORMAT JSON)` gave, one a line, each below the one that reads it."""
    lines: list[str] = []
    stack: list[tuple[Any, int]] = [(node, 0) for node in reversed(json.loads(document))]
    while stack:
        node, depth = stack.pop()
        children, told = node.get("children", []), node.get("extra_info", {})
        name = str(node.get("name", "")).strip()
        hidden = any(OURS in item for value in told.values() for item in _items(value))
        if hidden and len(children) == 1:
            stack.append((children[0], depth))  # it only makes the table's rows of what its files hold
            continue
        lines.append("  " * depth + NAMES.get(name, name))
        for key, label in SHOWN.items():
            if shown := [item for item in _items(told.get(key, [])) if OURS not in item]:
                lines.append("  " * depth + f"    {label}: {', '.join(shown)}")
        stack.extend((child, depth + 1) for child in reversed(children))
    return "\n".join(lines) + "\n"


def _items(value: Any) -> list[str]:
    return [str(item) for item in value] if isinstance(value, list) else [str(value)]
