"""CONTRACT.md, section 4: Arrow streams and Parquet files of every type, exactly or refused by row and column."""

import io
import json
from collections.abc import Callable
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from duckmesh.devstack.http import Answer
from tests.acceptance.caller import Caller, problem_of

ARROW = "application/vnd.apache.arrow.stream"
PARQUET = "application/vnd.apache.parquet"
UUID = "123e4567-e89b-12d3-a456-426614174000"
NOON = datetime(2013, 1, 1, 12, 0, 0, 123456, tzinfo=UTC)

COLUMNS = {
    "b": "bool",
    "i32": "int32",
    "i64": "int64",
    "f32": "float32",
    "f64": "float64",
    "d": "decimal(38,10)",
    "s": "string",
    "bin": "binary",
    "dt": "date",
    "ts": "timestamp",
    "j": "json",
    "u": "uuid",
    "l": "list<int64>",
    "ll": "list<list<string>>",
}
TABLE = pa.table(
    {
        "b": pa.array([True, None]),
        "I32": pa.array([200, None], pa.uint8()),
        "i64": pa.array([2**53 + 1, None], pa.uint64()),
        "f32": pa.array([0.5, None], pa.float16()),
        "f64": pa.array([0.1, None]),
        "d": pa.array([Decimal("1234567890123456789012345678.01"), None], pa.decimal128(30, 2)),
        "s": pa.array(["ü\0", None]).dictionary_encode(),
        "bin": pa.array([b"\0\xff", None], pa.large_binary()),
        "dt": pa.array([date(1, 1, 1), None], pa.date32()),
        "ts": pa.array([NOON, None], pa.timestamp("ns", "Europe/Paris")),
        "j": pa.array([{"a": [1, None], "b": "x"}, None]),
        "u": pa.array([bytes.fromhex(UUID.replace("-", "")), None], pa.binary(16)),
        "l": pa.array([[1, None, 3], None], pa.large_list(pa.int16())),
        "ll": pa.array([[["x"], [], None], None]),
    }
)
STORED: list[Any] = [
    *(True, 200, 2**53 + 1, 0.5, 0.1, "1234567890123456789012345678.0100000000", "ü\0", "AP8=", "0001-01-01"),
    *("2013-01-01T12:00:00.123456Z", {"a": [1, None], "b": "x"}, UUID, [1, None, 3], [["x"], [], None]),
]


def arrow(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(compression="lz4")) as writer:
        writer.write_table(table)
    return sink.getvalue()


def parquet(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue()


Write = Callable[[pa.Table], bytes]
KINDS = pytest.mark.parametrize(("kind", "write"), [(ARROW, arrow), (PARQUET, parquet)])


def send(demo: Caller, table: str, kind: str, body: bytes, *, query: str = "") -> Answer:
    return demo.send(table, body, headers={"Content-Type": kind}, query=query)


def count_after_refusal(demo: Caller, table: str) -> int:
    """The records of the table once a later write to it is visible."""
    acknowledged = demo.ingest(table, {"payload": {}}, wait=True)
    [[count]] = demo.rows(f"SELECT count(*) FROM {table}", min_visibility_token=acknowledged["max_visibility_token"])
    return int(count)


@KINDS
def test_every_type_survives_from_a_file_to_a_query(demo: Caller, kind: str, write: Write) -> None:
    table = demo.create(COLUMNS)
    answer = send(demo, table, kind, write(TABLE), query="?wait_for_visibility=true&event_time_column=ts")
    assert answer.status == 200, answer.body
    assert (answer.json()["accepted_count"], answer.json()["status"]) == (2, "visible")
    stored, nulls = demo.rows(f"SELECT {', '.join(COLUMNS)} FROM {table} ORDER BY i64 NULLS LAST")
    json_at = list(COLUMNS).index("j")
    assert json.loads(stored[json_at]) == STORED[json_at]
    assert [v for at, v in enumerate(stored) if at != json_at] == [v for at, v in enumerate(STORED) if at != json_at]
    assert nulls == [None] * len(COLUMNS)


@KINDS
def test_rows_that_do_not_fit_are_named_and_none_is_written(demo: Caller, kind: str, write: Write) -> None:
    table = demo.create({"i": "int32", "f": "float64"})
    body = write(pa.table({"i": pa.array([*range(1_000), 2**31, None]), "f": [0.5] * 1_001 + [float("nan")]}))
    problem = problem_of(send(demo, table, kind, body), 400, "INVALID_RECORD")
    assert [(e["index"], e["column"]) for e in problem["context"]["errors"]] == [(1_000, "i"), (1_001, "f")]
    assert count_after_refusal(demo, table) == 1


@KINDS
def test_columns_of_other_types_and_names_are_named(demo: Caller, kind: str, write: Write) -> None:
    table = demo.create({"i": "int64", "s": "string"})
    problem = problem_of(send(demo, table, kind, write(pa.table({"i": ["1"], "s": [1]}))), 400, "INVALID_RECORD")
    assert [(e["index"], e["column"]) for e in problem["context"]["errors"]] == [(0, "i"), (0, "s")]
    problem = problem_of(send(demo, table, kind, write(pa.table({"i": [1], "nope": [1]}))), 400, "INVALID_RECORD")
    assert [(e["column"], e["reason"]) for e in problem["context"]["errors"]] == [("nope", "unknown field")]
    assert count_after_refusal(demo, table) == 1


@KINDS
def test_a_body_cut_off_is_named_and_nothing_is_written(demo: Caller, kind: str, write: Write) -> None:
    table = demo.create({"i": "int64"})
    body = write(pa.table({"i": range(1_000)}))
    for end in (0, 8, len(body) // 2, len(body) - 8, len(body) - 1):
        problem_of(send(demo, table, kind, body[:end]), 400, "INVALID_REQUEST")
    assert count_after_refusal(demo, table) == 1


@KINDS
def test_a_bomb_is_refused(demo: Caller, kind: str, write: Write) -> None:
    table = demo.create({"s": "string"})
    body = write(pa.table({"s": pa.nulls(400, pa.string()).fill_null("\0" * 2**16)}))
    assert len(body) < 2**20
    problem_of(send(demo, table, kind, body), 413, "PAYLOAD_TOO_LARGE")


@KINDS
def test_deletes_need_the_key_columns_only(demo: Caller, kind: str, write: Write) -> None:
    table = demo.create({"id": "int64", "s": "string"}, required=["id", "s"], primary_key_cols=["id"])
    send(demo, table, kind, write(pa.table({"id": [1, 2, 3], "s": ["a", "b", "c"]})), query="?op=upsert")
    gone = send(demo, table, kind, write(pa.table({"id": [1, 3]})), query="?op=delete&wait_for_visibility=true")
    assert gone.status == 200, gone.body
    assert demo.rows(f"SELECT id, s FROM {table}") == [[2, "b"]]
