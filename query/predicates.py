"""What a statement's syntax tree says of the rows of its tables that matter: conditions on columns. Pure.

A `TableUse` is one place where a table stands in the statement; its conditions hold for every row of it that the
answer there depends on. Only what is certain is found, so that a tree that is understood in part tells less and never
something wrong: the rows of a side that an outer join fills with NULL are bound by what no NULL passes, those below
what is not known here (ASOF, POSITIONAL, PIVOT, samples, renamed columns) by nothing.

The runner finds them, in a process that has run a tenant's statements. Who is told does not believe more of it than
that it is of this shape: the worst that a lie does is that the liar's own answer lacks rows.
"""

import re
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

from query.constants import Json, Value, items, mapping, text_of, value_from_json, value_of

MAX_USES = 256
MAX_CONDITIONS = 64
MAX_VALUES = 1_000

_FLIPPED = {"=": "=", "<": ">", "<=": ">=", ">": "<", ">=": "<="}
_COMPARISONS = {
    "COMPARE_EQUAL": "=",
    "COMPARE_LESSTHAN": "<",
    "COMPARE_LESSTHANOREQUALTO": "<=",
    "COMPARE_GREATERTHAN": ">",
    "COMPARE_GREATERTHANOREQUALTO": ">=",
}
_PREFIXES = frozenset({"~~", "^@", "starts_with", "prefix"})
OPERATORS = frozenset({*_FLIPPED, "in", "between", "prefix", "null", "not null"})
_ARITY = {"in": (1, MAX_VALUES + 1), "between": (2, 3), "null": (0, 1), "not null": (0, 1)}


@dataclass(frozen=True, kw_only=True)
class Condition:
    """A column, named in lower case, is to `values` as `operator` says. NULL passes none but `null`.

    It speaks of the table only if none of the tables `beside` it has a column of this name.
    """

    column: str
    operator: str
    values: tuple[Value, ...] = ()
    beside: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class TableUse:
    """One place where the table, named in lower case, stands."""

    table: str
    conditions: tuple[Condition, ...] = ()


@dataclass(frozen=True, kw_only=True)
class _Conjunct:
    """A condition before it is known whose column it speaks of."""

    qualifier: str
    column: str
    operator: str
    values: tuple[Value, ...] = ()


def table_uses(statement: Mapping[str, Json]) -> tuple[TableUse, ...]:
    """Every place of every table that the statement, which has passed the gate, reads; none if they are too many."""
    placed: dict[int, tuple[Condition, ...]] = {}
    tables: list[Mapping[str, Json]] = []
    subqueries: set[str] = set()
    stack: list[Json] = [statement]
    while stack:
        node = stack.pop()
        if isinstance(node, list):
            stack.extend(node)
        elif isinstance(node, dict):
            if node.get("type") == "SELECT_NODE" and not node.get("sample"):
                placed.update(_placed(node))
            elif node.get("type") == "BASE_TABLE":
                tables.append(node)
            if "cte_map" in node:
                entries = mapping(node["cte_map"]).get("map")
                subqueries.update(str(mapping(entry).get("key")).lower() for entry in items(entries))
            if "cte_name" in node:
                subqueries.add(str(node["cte_name"]).lower())
            stack.extend(child for child in node.values() if isinstance(child, dict | list))
    uses = dict.fromkeys(_use(node, placed.get(id(node), ()), subqueries) for node in tables)
    return tuple(uses) if len(uses) <= MAX_USES else ()


def _use(table: Mapping[str, Json], conditions: tuple[Condition, ...], subqueries: Set[str]) -> TableUse:
    # Scopes are the gate's business: here a name that any WITH subquery has may be that subquery everywhere.
    sure = (condition for condition in conditions if subqueries.isdisjoint((_name(table), *condition.beside)))
    return TableUse(table=_name(table), conditions=tuple(sure))


def uses_to_json(uses: Sequence[TableUse]) -> Json:
    """The uses as they travel."""
    return [
        [
            use.table,
            [[c.column, c.operator, [[v.kind, v.of, v.cast] for v in c.values], c.beside] for c in use.conditions],
        ]
        for use in uses
    ]


def uses_from_json(data: Any) -> tuple[TableUse, ...]:  # Any: what a runner says
    """The uses that travelled. Raises `ValueError` or `TypeError` for what is not of their shape."""
    uses = tuple(
        TableUse(table=text_of(table), conditions=tuple(_condition(*condition) for condition in conditions))
        for table, conditions in data
    )
    if len(uses) > MAX_USES or any(len(use.conditions) > MAX_CONDITIONS for use in uses):
        raise ValueError("more than a runner of ours says")
    return uses


def _condition(column: Json, operator: Json, values: Any, beside: Any) -> Condition:
    if operator not in OPERATORS or len(values) not in range(*_ARITY.get(str(operator), (1, 2))):
        raise ValueError("no operator of ours")
    return Condition(
        column=text_of(column),
        operator=text_of(operator),
        values=tuple(value_from_json(*value) for value in values),
        beside=tuple(text_of(name) for name in beside),
    )


def _placed(select: Mapping[str, Json]) -> Iterator[tuple[int, tuple[Condition, ...]]]:
    """The conditions of the tables right in the FROM of `select`, by the identity of their nodes."""
    source = mapping(select.get("from_table"))
    relations, merged, all_known = _relations(source)
    names = [_alias(node) for node in relations]
    if len(set(names)) < len(names):
        return
    known = [_name(node) for node in relations if node.get("type") == "BASE_TABLE"]
    for table, conjuncts in _below(source, tuple(_conjuncts(select.get("where_clause")))):
        if table.get("column_name_alias") or table.get("sample"):
            continue
        alias, found = _alias(table), []
        others = list(known)
        others.remove(_name(table))
        for conjunct in conjuncts:
            bare = not conjunct.qualifier
            if conjunct.qualifier == alias or (bare and all_known and conjunct.column not in merged):
                found.append(
                    Condition(
                        column=conjunct.column,
                        operator=conjunct.operator,
                        values=conjunct.values,
                        beside=tuple(others) if bare else (),
                    )
                )
        yield id(table), tuple(found[:MAX_CONDITIONS])


def _relations(source: Mapping[str, Json]) -> tuple[list[Mapping[str, Json]], frozenset[str], bool]:
    """What a FROM joins, the names that stand for columns of several sides, and whether all columns are known."""
    relations: list[Mapping[str, Json]] = []
    merged: set[str] = set()
    all_known = True
    stack = [source]
    while stack:
        node = stack.pop()
        if node.get("type") == "JOIN":
            stack += [mapping(node.get("left")), mapping(node.get("right"))]
            merged.update(str(name).lower() for name in items(node.get("using_columns")))
            all_known = all_known and node.get("ref_type") != "NATURAL"
        else:
            relations.append(node)
            all_known = all_known and node.get("type") == "BASE_TABLE" and not node.get("column_name_alias")
    return relations, frozenset(merged), all_known


def _below(
    source: Mapping[str, Json], conjuncts: tuple[_Conjunct, ...]
) -> Iterator[tuple[Mapping[str, Json], tuple[_Conjunct, ...]]]:
    """The tables that `source` joins, each with those of the conjuncts, and of its joins', that bind its rows."""
    stack = [(source, conjuncts)]
    while stack:
        node, above = stack.pop()
        above = above[: 4 * MAX_CONDITIONS]
        if node.get("type") == "BASE_TABLE":
            yield node, above
        elif node.get("type") == "JOIN" and not node.get("sample"):
            left, right = _sides(node, above)
            stack += [(mapping(node.get("left")), left), (mapping(node.get("right")), right)]


def _sides(
    join: Mapping[str, Json], above: tuple[_Conjunct, ...]
) -> tuple[tuple[_Conjunct, ...], tuple[_Conjunct, ...]]:
    """What binds the rows of the left and of the right side of `join`."""
    kind = join.get("join_type")
    if join.get("ref_type") == "ASOF":
        # A row that is left out would give its place to the one before it.
        return (above if kind in ("INNER", "LEFT") else ()), ()
    if join.get("ref_type") not in ("REGULAR", "NATURAL", "CROSS"):
        return (), ()
    on = tuple(_conjuncts(join.get("condition")))
    # Without a match of its own, a row of the other side comes with NULLs, which these do not pass.
    filled = tuple(conjunct for conjunct in above if conjunct.operator != "null")
    return {
        "INNER": (above + on, above + on),
        "LEFT": (above, filled + on),
        "RIGHT": (filled + on, above),
        "OUTER": (filled, filled),
        "FULL": (filled, filled),
        "SEMI": (above + on, on),
        "ANTI": (above, on),
    }.get(str(kind), ((), ()))


def _conjuncts(condition: Json) -> Iterator[_Conjunct]:
    """The parts of a condition that are understood; all of its parts hold where it does."""
    stack, seen = [condition], 0
    while stack and seen < 4 * MAX_CONDITIONS:
        node = mapping(stack.pop())
        if node.get("type") == "CONJUNCTION_AND":
            stack.extend(reversed(items(node.get("children"))))
            continue
        seen += 1
        if (found := _conjunct(node)) is not None:
            yield found


def _conjunct(node: Mapping[str, Json]) -> _Conjunct | None:
    kind, children = str(node.get("type")), items(node.get("children"))
    if kind in _COMPARISONS:
        operator = _COMPARISONS[kind]
        return _about(node.get("left"), operator, [node.get("right")]) or _about(
            node.get("right"), _FLIPPED[operator], [node.get("left")]
        )
    if kind == "COMPARE_BETWEEN":
        return _about(node.get("input"), "between", [node.get("lower"), node.get("upper")])
    if kind == "COMPARE_IN":
        return _about(children[0], "in", children[1:]) if len(children) > 1 else None
    if kind in ("OPERATOR_IS_NULL", "OPERATOR_IS_NOT_NULL") and len(children) == 1:
        return _about(children[0], "null" if kind == "OPERATOR_IS_NULL" else "not null", [])
    if kind == "FUNCTION" and node.get("function_name") in _PREFIXES and len(children) == 2:
        return _prefix(children, pattern=node.get("function_name") == "~~")
    return None


def _about(column: Json, operator: str, constants: Sequence[Json]) -> _Conjunct | None:
    reference = mapping(column)
    names = items(reference.get("column_names"))
    if reference.get("type") != "COLUMN_REF" or not 1 <= len(names) <= 2 or len(constants) > MAX_VALUES:
        return None
    values = [value_of(mapping(constant)) for constant in constants]
    known = tuple(value for value in values if value is not None)
    if len(known) < len(values):
        return None
    qualifier = str(names[0]).lower() if len(names) == 2 else ""
    return _Conjunct(qualifier=qualifier, column=str(names[-1]).lower(), operator=operator, values=known)


def _prefix(children: Sequence[Json], *, pattern: bool) -> _Conjunct | None:
    found = _about(children[0], "prefix", [children[1]])
    if found is None or found.values[0].kind != "text":
        return None
    text = re.split("[%_]", found.values[0].of)[0] if pattern else found.values[0].of
    return _Conjunct(
        qualifier=found.qualifier, column=found.column, operator="prefix", values=(Value(kind="text", of=text),)
    )


def _name(table: Mapping[str, Json]) -> str:
    return str(table.get("table_name")).lower()


def _alias(relation: Mapping[str, Json]) -> str:
    return str(relation.get("alias") or relation.get("table_name")).lower()
