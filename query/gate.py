"""What a tenant's statement may be, judged on its syntax tree as DuckDB serialises it.

An allow-list all the way down: kinds of nodes, table functions and functions that are not named here are refused, so
that a new DuckDB version can add nothing unseen. Pure: the engine serialises, this module only reads the document.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass

from query.errors import QueryForbidden, QueryInvalid, error_of
from query.failures import TOO_DEEP, too_deep
from query.functions import SCALAR, TABLE, allowed
from query.predicates import TableUse, table_uses
from query.refusals import function_refused, function_unknown, statement_refused, table_function_refused

MAX_DOCUMENT = 16 * 2**20
MAX_NODES = 250_000
MAX_NAMED_SUBQUERIES = 500

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,62}")
_SYSTEM = re.compile(r"(pg_|duckdb_|sqlite_|pragma_|information_schema|_duckmesh)")
_SYSTEM_PLACES = frozenset({"memory", "temp", "system", "pg_catalog", "information_schema"})
_EXPRESSIONS = frozenset(
    {"BETWEEN", "CASE", "CAST", "COLLATE", "COLUMN_REF", "COMPARISON", "CONJUNCTION", "CONSTANT", "FUNCTION"}
    | {"LAMBDA", "OPERATOR", "PARAMETER", "POSITIONAL_REFERENCE", "STAR", "SUBQUERY", "TYPE", "WINDOW"}
)
_NODES = frozenset(
    {"SELECT_NODE", "SET_OPERATION_NODE", "RECURSIVE_CTE_NODE"}
    | {"BASE_TABLE", "SUBQUERY", "JOIN", "TABLE_FUNCTION", "EXPRESSION_LIST", "EMPTY", "PIVOT"}
    | {"ORDER_MODIFIER", "LIMIT_MODIFIER", "LIMIT_PERCENT_MODIFIER", "DISTINCT_MODIFIER"}
    | {"ORDER_DEFAULT", "ASCENDING", "DESCENDING"}
)

Json = object  # the document comes from json.loads; every use looks at its type first
Scope = frozenset[str]


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Either a refusal (`code` and `message`) or the names, in lower case, that the statement reads as tables.

    `uses` say what it needs of them; none if that cannot be said.
    """

    tables: frozenset[str] = frozenset()
    uses: tuple[TableUse, ...] = ()
    code: str = ""
    message: str = ""

    def insist(self) -> "Verdict":
        """This verdict, if it allows the statement; else the refusal is raised."""
        if self.code:
            raise error_of(self.code, self.message)
        return self


class _RefusedError(Exception):
    """Carries the verdict out of the walk."""

    def __init__(self, message: str, code: str = QueryForbidden.code) -> None:
        super().__init__(message)
        self.verdict = Verdict(code=code, message=message)


def judge(serialised: str, *, sql: str) -> Verdict:
    """The verdict on the statement `sql`, which `json_serialize_sql` rendered as `serialised`.

    Only the tree decides; the text serves to say no in its words.
    """
    try:
        statement = _single_select(serialised, sql)
        return Verdict(tables=_tables_read(statement), uses=table_uses(statement))
    except _RefusedError as refusal:
        return refusal.verdict


def _single_select(serialised: str, sql: str) -> dict[str, Json]:
    if len(serialised) > MAX_DOCUMENT:
        raise _RefusedError("The statement is too long.", QueryInvalid.code)
    try:
        document = json.loads(serialised)
    except RecursionError:
        raise _RefusedError(TOO_DEEP, QueryInvalid.code) from None
    if document.get("error"):
        raise _unserialisable(document, sql)
    statements = document["statements"]
    if not statements:
        raise _RefusedError("There is no statement.", QueryInvalid.code)
    if len(statements) > 1:
        raise _RefusedError(f"One statement at a time; there are {len(statements)}.")
    statement: dict[str, Json] = statements[0]
    return statement


def _unserialisable(document: dict[str, Json], sql: str) -> _RefusedError:
    message = str(document.get("error_message", ""))
    if too_deep(message):
        return _RefusedError(TOO_DEEP, QueryInvalid.code)
    if document.get("error_type") == "parser" and message != "A CTE needs a SELECT":
        place = document.get("position")
        where = f" (at character {int(place) + 1})" if isinstance(place, str) and place.isdigit() else ""
        return _RefusedError(message[:1].upper() + message[1:] + where, QueryInvalid.code)
    if document.get("error_type") in ("parser", "not implemented"):
        return _RefusedError(statement_refused(sql))
    return _RefusedError("The statement cannot be read.", QueryInvalid.code)


def _tables_read(statement: dict[str, Json]) -> frozenset[str]:
    """Walks the tree without recursion, each node with the names of the subqueries (WITH) that are in scope there."""
    tables: set[str] = set()
    stack: list[tuple[Json, Scope]] = [(statement, frozenset())]
    seen = subqueries = 0
    while stack:
        node, scope = stack.pop()
        seen += 1
        if seen > MAX_NODES:
            raise _RefusedError("The statement has too many parts.", QueryInvalid.code)
        if isinstance(node, list):
            stack.extend((child, scope) for child in node if isinstance(child, dict | list))
        elif isinstance(node, dict):
            _check_node(node)
            if node.get("type") == "BASE_TABLE":
                name = _table_name(node)
                if name not in scope:
                    tables.add(name)
            inner = scope
            for name, query, visible in _named_subqueries(node, scope):
                subqueries += 1
                if subqueries > MAX_NAMED_SUBQUERIES:
                    raise _RefusedError("The statement has too many WITH subqueries.", QueryInvalid.code)
                stack.append((query, visible))
                inner = visible | {name}
            stack.extend(_children(node, inner))
    return frozenset(tables)


def _named_subqueries(node: dict[str, Json], scope: Scope) -> Iterator[tuple[str, Json, Scope]]:
    """The WITH subqueries of `node` in order: name, definition, and the names its definition sees (not its own)."""
    entries = node.get("cte_map")
    for entry in _list(entries.get("map")) if isinstance(entries, dict) else ():
        if not isinstance(entry, dict):
            raise _RefusedError("The statement cannot be read.", QueryInvalid.code)
        name = _subquery_name(str(entry.get("key")))
        yield name, entry.get("value"), scope
        scope = scope | {name}


def _children(node: dict[str, Json], scope: Scope) -> Iterator[tuple[Json, Scope]]:
    # Only the second half of a recursive subquery sees its own name; in the first half the name is a table's.
    own = {_subquery_name(str(node.get("cte_name")))} if node.get("type") == "RECURSIVE_CTE_NODE" else set()
    for key, child in node.items():
        if key != "cte_map" and isinstance(child, dict | list):
            yield child, scope | own if own and key == "right" else scope


def _check_node(node: dict[str, Json]) -> None:
    kind, expression = node.get("type"), node.get("class")
    if expression is not None:
        if str(expression) not in _EXPRESSIONS:
            raise _RefusedError(f"This kind of expression is not allowed: {_words(expression)}.")
    elif isinstance(kind, str) and kind not in _NODES and not kind.endswith("_TYPE_INFO"):
        if kind == "SHOW_REF":
            raise _RefusedError(
                "SHOW, DESCRIBE and SUMMARIZE are not allowed; GET /v1/query/schema tells about tables."
            )
        raise _RefusedError(f"This part of a statement is not allowed: {_words(kind)}.")
    if kind == "TABLE_FUNCTION":
        function = node.get("function")
        name = function.get("function_name") if isinstance(function, dict) else _words(kind)
        if str(name).lower() not in allowed(TABLE):
            raise _RefusedError(table_function_refused(str(name)))
    if "function_name" in node:
        _check_function(node)
    if kind == "UNBOUND_TYPE_INFO" and (node.get("catalog") or node.get("schema")):
        raise _RefusedError(f"Names of types are given alone, without a schema: {node.get('name')}.")


def _check_function(node: dict[str, Json]) -> None:
    name = str(node["function_name"])
    # `note.upper()` and `t.note.upper()` have a column and its table where a schema and its catalog would be.
    # The parser itself puts `main` to what it makes of [1, 2] and {'a': 1}.
    qualifiers = {str(node.get(place) or "").lower() for place in ("catalog", "schema")}
    if qualifiers & _SYSTEM_PLACES or (node.get("catalog") and "main" in qualifiers):
        raise _RefusedError(f"Functions are named alone, without a schema: {name}.")
    if name.lower() not in allowed(SCALAR) and name.lower() not in allowed(TABLE):
        if reason := function_refused(name):
            raise _RefusedError(reason)
        raise _RefusedError(function_unknown(name), QueryInvalid.code)


def belongs_to_system(name: str) -> bool:
    """Whether DuckDB may have a view of its own under this lower-case name, which only a tenant's table hides."""
    return _SYSTEM.match(name) is not None


def system_name_refused(name: str) -> str:
    """What to tell who reads such a name without having a table of it."""
    return f"Names such as {name} belong to the system, and there is no table of this name."


def _table_name(node: dict[str, Json]) -> str:
    name = str(node.get("table_name"))
    if node.get("catalog_name") or node.get("schema_name"):
        raise _RefusedError(f"Tables are named alone, without a catalog or schema: {name}.")
    if node.get("at_clause"):
        raise _RefusedError("AT is not allowed; choose a snapshot with snapshot_id or snapshot_time.")
    return _plain_name(name, "table")


def _plain_name(name: str, what: str) -> str:
    if not _NAME.fullmatch(name):
        raise _RefusedError(
            f"The name of a {what} is letters, digits and _, at most 63; this is not one: {name[:80]!r}."
            " Files are not read."
        )
    return name.lower()


def _subquery_name(name: str) -> str:
    # A tenant's table may have such a name. Subqueries may not: whatever this gate and DuckDB's binder might think
    # differently of a scope, a name of the system is then always a table that must be there.
    lowered = _plain_name(name, "WITH subquery")
    if belongs_to_system(lowered):
        raise _RefusedError(f"Names such as {name} belong to the system; no WITH subquery has one.")
    return lowered


def _list(value: Json) -> list[Json]:
    return value if isinstance(value, list) else []


def _words(kind: Json) -> str:
    return str(kind).replace("_", " ").lower()
