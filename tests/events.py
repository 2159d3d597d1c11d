"""The events that the code logs, read from the code itself."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from duckmesh.kernel.config import ROOT

PACKAGES = ("duckmesh", "storage", "catalog", "ingest", "query", "maintenance", "api")
LEVELS = {"debug": "debug", "info": "info", "warning": "warning", "error": "error", "exception": "error"}


@dataclass(frozen=True, kw_only=True)
class Call:
    """One place that logs. `members` are those that it names."""

    place: str
    level: str
    event: str
    members: frozenset[str]


def logged() -> list[Call]:
    """Every call of a module's `log`, in every package."""
    return [call for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py")) for call in _calls(path)]


def _calls(path: Path) -> Iterator[Call]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        if not isinstance(node.func.value, ast.Name) or node.func.value.id != "log" or node.func.attr not in LEVELS:
            continue
        place = f"{path.relative_to(ROOT)}:{node.lineno}"
        first = node.args[0]
        names = [first.body, first.orelse] if isinstance(first, ast.IfExp) else [first]
        for name in names:
            assert isinstance(name, ast.Constant), f"{place}: an event's name is written where it is logged"
            members = {keyword.arg for keyword in node.keywords if keyword.arg} - {"exc_info"}
            yield Call(place=place, level=LEVELS[node.func.attr], event=str(name.value), members=frozenset(members))
