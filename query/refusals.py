"""What to tell whose statement is refused: what is not allowed, why, and what to use instead. Pure."""

import re
from difflib import get_close_matches

from query.functions import SCALAR, TABLE, allowed, reason_against, reviewed

ONE_SELECT = (
    "Only a single SELECT is allowed, also as WITH, VALUES, FROM …, a set operation, or PIVOT with its values listed by"
    " IN."
)

# By the first word of the statement.
STATEMENTS = {
    "insert": "Write with POST /v1/ingest/{table}.",
    "update": "Write with POST /v1/ingest/{table}: op upsert, in a table with primary_key_cols.",
    "merge": "Write with POST /v1/ingest/{table}: op upsert, in a table with primary_key_cols.",
    "delete": "Write with POST /v1/ingest/{table}: op delete, in a table with primary_key_cols.",
    "truncate": "DELETE /v1/tables/{table} drops a table.",
    "copy": "Write with POST /v1/ingest/{table}; Accept chooses the form of an answer, Parquet and CSV among them.",
    "export": "Accept chooses the form of an answer, Parquet and CSV among them.",
    "create": "POST /v1/tables makes tables; WITH names a query within a statement.",
    "alter": "PATCH /v1/tables/{table} changes a table.",
    "drop": "DELETE /v1/tables/{table} drops a table.",
    "explain": 'The member "explain": true asks for the plan of a statement.',
    "describe": "GET /v1/query/schema tells about tables and columns.",
    "desc": "GET /v1/query/schema tells about tables and columns.",
    "show": "GET /v1/query/schema tells about tables and columns.",
    "pragma": "GET /v1/query/schema tells about tables and columns.",
    "summarize": "GET /v1/query/schema tells about tables and columns.",
    "begin": "Each statement reads one snapshot; snapshot_id reads the same one again.",
    "start": "Each statement reads one snapshot; snapshot_id reads the same one again.",
    "set": "The members of the request are all that can be set; values go into params.",
    "prepare": "Values go into params.",
    "execute": "Values go into params.",
    "pivot": "PIVOT needs its values listed: PIVOT t ON c IN ('a', 'b') USING sum(x).",
}

_FUNCTIONS = (
    (r"read_.*|parquet_scan|sniff_csv|glob|.*_scan", "Data come with POST /v1/ingest/{table}; then name the table."),
    (
        r"(duckdb|pragma|pg)_.*|parquet_.*|current_(schemas?|database|catalog)|summary",
        "GET /v1/query/schema tells about tables.",
    ),
    (r"query|query_table", "Name the table, or write the query in parentheses."),
    (r"getvariable|current_setting", "Values go into params."),
    (r"histogram(_values)?", "histogram(column) is an aggregate."),
)
# Atomic and possessive: whatever stands there is looked at once.
_FIRST_WORD = re.compile(r"(?>\s+|--[^\n]*|/\*.*?\*/|[(;])*+([a-z]+)", re.IGNORECASE | re.DOTALL)


def statement_refused(sql: str) -> str:
    """Why a statement that parses, and is no single SELECT, is not run."""
    first = _FIRST_WORD.match(sql)
    word = first[1].lower() if first else ""
    if word in ("pivot", "select", "from", "with") and re.search(r"\bpivot\b", sql, re.IGNORECASE):
        word = "pivot"
    return f"{ONE_SELECT} {STATEMENTS[word]}" if word in STATEMENTS else ONE_SELECT


def function_refused(name: str) -> str:
    """Why a function that is not allowed may not be called; empty if there is none of this name to call."""
    lowered = name.lower()
    reason = reviewed(SCALAR).get(lowered) or reviewed(TABLE).get(lowered) or reason_against(lowered)
    return reason and _with_alternative(f"The function {name[:80]} is not allowed: {reason}.", lowered)


def function_unknown(name: str) -> str:
    """There is no such function; the one that may be meant."""
    near = get_close_matches(name.lower(), allowed(SCALAR), n=1, cutoff=0.75)
    return f"There is no function {name[:80]}" + (f"; {near[0]} is similar." if near else ".")


def table_function_refused(name: str) -> str:
    """Why no table is made by this function."""
    names = ", ".join(sorted(allowed(TABLE)))
    reason = reviewed(TABLE).get(name.lower()) or reason_against(name.lower())
    told = f"The table function {name[:80]} is not allowed{': ' + reason if reason else ''}."
    return _with_alternative(f"{told} Allowed are {names}.", name.lower())


def _with_alternative(sentence: str, name: str) -> str:
    instead = next((words for names, words in _FUNCTIONS if re.fullmatch(names, name)), "")
    return f"{sentence} {instead}" if instead else sentence
