"""The tables over which statements are held against bare DuckDB."""

from dataclasses import dataclass, field
from typing import Any

import duckdb
import pyarrow as pa
from pyarrow import ipc

from tests.acceptance.caller import Caller

ARROW = "application/vnd.apache.arrow.stream"


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A table's columns as they are defined over HTTP, and the SELECT by which bare DuckDB makes its rows."""

    columns: dict[str, str]
    select: str
    change: dict[str, Any] = field(default_factory=dict)  # a PATCH after the first rows; `select` shows what it makes
    key: tuple[str, ...] = ()


SAMPLES = {
    "trips": Sample(
        columns={
            "id": "int64",
            "carrier": "string",
            "origin": "string",
            "fare": "float64",
            "distance": "int32",
            "note": "string",
            "ts": "timestamp",
            "tags": "list<string>",
            "payload": "json",
            "d": "decimal(10,2)",
            "raw": "binary",
            "uid": "uuid",
        },
        select="""SELECT i::BIGINT AS id, ['UA', 'AA', 'DL', 'B6'][1 + i % 4] AS carrier,
           ['EWR', 'JFK', 'LGA'][1 + i % 3] AS origin, i * 2.5::DOUBLE AS fare, (i * 37 % 1000)::BIGINT AS distance,
           CASE WHEN i % 5 > 0 THEN 'row ' || i END AS note, TIMESTAMP '2024-01-01' + INTERVAL (i) HOUR AS ts,
           ['a', 'b' || i] AS tags, ('{"a":' || i || ',"b":{"c":"x"}}')::JSON AS payload,
           (i * 1.25)::DECIMAL(10, 2) AS d, encode('r' || i) AS raw,
           ('00000000-0000-0000-0000-' || lpad(i::VARCHAR, 12, '0'))::UUID AS uid FROM range(1, 41) t(i)""",
        change={"widen": {"distance": "int64"}},
    ),
    "carriers": Sample(
        columns={"code": "string", "name": "string", "country": "string"},
        select="""FROM (VALUES ('UA', 'United', 'US'), ('AA', 'American', 'US'), ('LH', 'Lufthansa', 'DE'))
           t(code, name, country)""",
    ),
    "prices": Sample(
        columns={"carrier": "string", "since": "timestamp", "ts": "timestamp", "price": "float64"},
        select="""SELECT c AS carrier, TIMESTAMP '2024-01-01' + INTERVAL (k * 10) HOUR AS since, since AS ts,
           k * 10.0::DOUBLE + 5 AS price FROM (VALUES ('UA'), ('AA')) a(c), range(3) t(k)""",
    ),
    "edges": Sample(
        columns={"src": "int64", "dst": "int64"},
        select="FROM (VALUES (1::BIGINT, 2::BIGINT), (2, 3), (3, 1), (2, 4)) t(src, dst)",
        key=("src", "dst"),
    ),
}


def bare_duckdb() -> duckdb.DuckDBPyConnection:
    """DuckDB without anything of ours, with the tables in it."""
    connection = duckdb.connect(config={"threads": 1, "max_expression_depth": 250})
    connection.execute("SET TimeZone = 'UTC'")
    for name, sample in SAMPLES.items():
        connection.execute(f"CREATE TABLE {name} AS {sample.select}")
    return connection


def fill(caller: Caller, bare: duckdb.DuckDBPyConnection) -> None:
    """The caller's tenant has the tables, with the rows that `bare` has: in files of more than one schema, and twice
    what has a key.
    """
    for name, sample in SAMPLES.items():
        caller.create(sample.columns, name=name, required=sample.key, primary_key_cols=list(sample.key))
        rows = bare.execute(f"FROM {name}").to_arrow_table()
        _send(caller, name, rows.slice(0, 2))
        if sample.change:
            answer = caller.call("PATCH", f"/v1/tables/{name}", sample.change)
            assert answer.status == 200, answer.body
        _send(caller, name, rows.slice(1 if sample.key else 2))


def _send(caller: Caller, name: str, rows: pa.Table) -> None:
    query = "?wait_for_visibility=true"
    answer = caller.send(name, _stream_of(rows), headers={"Content-Type": ARROW}, query=query)
    assert answer.status == 200, answer.body


def _stream_of(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    found: bytes = sink.getvalue().to_pybytes()
    return found


def shown(table: pa.Table, *, ordered: bool) -> tuple[list[str], list[str], list[str]]:
    """Names, types and rows; rows without an order in one of their own, and the last digits of floats left out."""
    rows = [str(_plain(row)) for row in zip(*map(_values, table.columns), strict=True)]
    return table.column_names, [str(kind) for kind in table.schema.types], rows if ordered else sorted(rows)


def _values(column: pa.ChunkedArray) -> list[Any]:
    try:
        found: list[Any] = column.to_pylist()
    except (ValueError, OverflowError):  # a struct whose fields have no names; an infinite time
        return [column.slice(row, 1).combine_chunks().to_string() for row in range(len(column))]
    return found


def _plain(value: Any) -> Any:
    match value:
        case float():
            return float(f"{value:.9g}") + 0.0
        case list() | tuple():
            return [_plain(item) for item in value]
        case dict():
            return {key: _plain(item) for key, item in value.items()}
    return value
