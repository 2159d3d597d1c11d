"""What a DuckDB user expects to run answers over HTTP as bare DuckDB does over the same rows."""

from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest
from pyarrow import ipc

from tests.acceptance.caller import Caller
from tests.acceptance.conftest import make_key
from tests.stack import Stack

CORPUS = Path(__file__).resolve().parents[1] / "data" / "sql_corpus.txt"
STATEMENTS = [line for line in CORPUS.read_text(encoding="utf-8").splitlines() if line and not line.startswith("# ")]
ARROW = "application/vnd.apache.arrow.stream"

Shown = tuple[list[str], list[str], list[str]]

# A table's columns as they are defined, and the rows that it has, as DuckDB makes them.
TABLES = {
    "trips": (
        {
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
        """SELECT i::BIGINT AS id, ['UA', 'AA', 'DL', 'B6'][1 + i % 4] AS carrier,
           ['EWR', 'JFK', 'LGA'][1 + i % 3] AS origin, i * 2.5::DOUBLE AS fare, (i * 37 % 1000)::INTEGER AS distance,
           CASE WHEN i % 5 > 0 THEN 'row ' || i END AS note, TIMESTAMP '2024-01-01' + INTERVAL (i) HOUR AS ts,
           ['a', 'b' || i] AS tags, ('{"a":' || i || ',"b":{"c":"x"}}')::JSON AS payload,
           (i * 1.25)::DECIMAL(10, 2) AS d, encode('r' || i) AS raw,
           ('00000000-0000-0000-0000-' || lpad(i::VARCHAR, 12, '0'))::UUID AS uid FROM range(1, 41) t(i)""",
    ),
    "carriers": (
        {"code": "string", "name": "string", "country": "string"},
        """FROM (VALUES ('UA', 'United', 'US'), ('AA', 'American', 'US'), ('LH', 'Lufthansa', 'DE'))
           t(code, name, country)""",
    ),
    "prices": (
        {"carrier": "string", "since": "timestamp", "ts": "timestamp", "price": "float64"},
        """SELECT c AS carrier, TIMESTAMP '2024-01-01' + INTERVAL (k * 10) HOUR AS since, since AS ts,
           k * 10.0::DOUBLE + 5 AS price FROM (VALUES ('UA'), ('AA')) a(c), range(3) t(k)""",
    ),
    "edges": (
        {"src": "int64", "dst": "int64"},
        "FROM (VALUES (1::BIGINT, 2::BIGINT), (2, 3), (3, 1), (2, 4)) t(src, dst)",
    ),
}


@pytest.fixture(scope="module")
def bare() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        for name, (_, select) in TABLES.items():
            connection.execute(f"CREATE TABLE {name} AS {select}")
        yield connection


@pytest.fixture(scope="module")
def analyst(contract_stack: Stack, bare: duckdb.DuckDBPyConnection) -> Iterator[Caller]:
    """A tenant whose tables have these names."""
    assert contract_stack.manage("create_tenant", "analyst").returncode == 0
    key = make_key(contract_stack, "analyst", "ingest_writer", "query_reader", "table_admin")
    with closing(Caller(contract_stack.base_url, key)) as caller:
        fill(caller, bare)
        yield caller


def fill(caller: Caller, bare: duckdb.DuckDBPyConnection) -> None:
    """The tables are there with their rows."""
    for name, (columns, _) in TABLES.items():
        caller.create(columns, name=name)
        rows = bare.execute(f"FROM {name}").to_arrow_table()
        for part in (rows.slice(0, 2), rows.slice(2)):  # so that it has more than one file
            answer = caller.send(
                name, stream_of(part), headers={"Content-Type": ARROW}, query="?wait_for_visibility=true"
            )
            assert answer.status == 200, answer.body


def stream_of(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


def shown(table: pa.Table, *, ordered: bool) -> Shown:
    """Names, types and rows; rows without an order in one of their own, and the last digits of floats left out."""
    rows = [str(plain(row)) for row in zip(*map(values, table.columns), strict=True)]
    return table.column_names, [str(kind) for kind in table.schema.types], rows if ordered else sorted(rows)


def difference(found: Shown, expected: Shown) -> list[tuple[str, str]]:
    """The first few things that are not alike."""
    pairs = [
        (one, other)
        for here, there in zip(found, expected, strict=True)
        for one, other in zip(here, there, strict=False)
    ]
    return [(one, other) for one, other in pairs if one != other][:3] or [("lengths", str(list(map(len, expected))))]


def values(column: pa.ChunkedArray) -> list[object]:
    try:
        found: list[object] = column.to_pylist()
    except ValueError:  # a struct whose fields have no names
        return [column.slice(row, 1).combine_chunks().to_string() for row in range(len(column))]
    return found


def plain(value: object) -> object:
    match value:
        case float():
            return float(f"{value:.9g}")
        case list() | tuple():
            return [plain(item) for item in value]
        case dict():
            return {key: plain(item) for key, item in value.items()}
        case datetime(tzinfo=zone) if zone:
            return value.astimezone(UTC).isoformat()
    return value


def test_there_are_enough_statements() -> None:
    assert len(set(STATEMENTS)) >= 150


def test_what_a_duckdb_user_expects_is_answered_as_duckdb_does(
    analyst: Caller, bare: duckdb.DuckDBPyConnection
) -> None:
    wrong = []
    for sql in STATEMENTS:
        expected = shown(bare.execute(sql).to_arrow_table(), ordered="ORDER BY" in sql)
        answer = analyst.call("POST", "/v1/query", {"sql": sql}, {"Accept": ARROW})
        if answer.status != 200:
            wrong.append((sql, answer.status, answer.body[:300]))
            continue
        found = shown(ipc.open_stream(answer.body).read_all(), ordered="ORDER BY" in sql)
        if found != expected:
            wrong.append((sql, *difference(found, expected)))
        document = analyst.query(sql)
        if len(document["rows"]) != len(expected[2]) or document["columns"] != expected[0]:
            wrong.append((sql, document, expected))
    assert not wrong, "\n".join(map(str, wrong))
