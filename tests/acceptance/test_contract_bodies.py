"""CONTRACT.md, section 4, other bodies: NDJSON, CSV, Arrow and Parquet, compressed or not, from outside."""

import gzip
import http.client
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from duckmesh.devstack.http import Answer
from tests.acceptance.caller import Caller, problem_of
from tests.stack import Stack

JSON = "application/json"
NDJSON = "application/x-ndjson"
CSV = "text/csv"
ARROW = "application/vnd.apache.arrow.stream"
PARQUET = "application/vnd.apache.parquet"

COLUMNS = {"id": "string", "n": "int64", "t": "timestamp", "note": "json"}
ROWS = [["a", 2**53 + 1, "2013-01-01T10:00:00Z", {"x": [1, None]}], ["b", None, None, None], ['ü, "b"\n', 0, None, 7]]
TABLE = pa.table(
    {
        "id": ["a", "b", 'ü, "b"\n'],
        "n": [2**53 + 1, None, 0],
        "t": ["2013-01-01T10:00:00Z", None, None],
        "note": pa.array(['{"x":[1,null]}', None, "7"], pa.json_()),
    }
)


def arrow() -> bytes:
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, TABLE.schema) as writer:
        writer.write_table(TABLE)
    return sink.getvalue()


def parquet() -> bytes:
    sink = io.BytesIO()
    pq.write_table(TABLE, sink)
    return sink.getvalue()


def zstd(data: bytes) -> bytes:
    packed: bytes = pa.Codec("zstd").compress(data, asbytes=True)
    return packed


PAYLOADS = [dict(zip(COLUMNS, row, strict=True)) for row in ROWS]
BODIES: dict[str, bytes] = {
    JSON: json.dumps({"records": [{"payload": payload} for payload in PAYLOADS]}).encode(),
    NDJSON: "\n".join(map(json.dumps, PAYLOADS)).encode(),
    CSV: 'id,n,t,note\na,9007199254740993,2013-01-01T10:00:00Z,"{""x"":[1,null]}"\nb,,,\n"ü, ""b""\n",0,,7\n'.encode(),
    ARROW: arrow(),
    PARQUET: parquet(),
}
PACK: dict[str, Callable[[bytes], bytes]] = {"identity": bytes, "gzip": gzip.compress, "zstd": zstd}


@pytest.fixture
def table(demo: Caller) -> str:
    return demo.create(COLUMNS, required=["id"])


@pytest.fixture
def scratch(contract_stack: Stack) -> Iterator[Path]:
    """Where bodies lie on disk; a test leaves there what was there before it."""
    directory = contract_stack.home.root / "scratch"
    before = {*directory.glob("spool-*")}
    yield directory
    assert {*directory.glob("spool-*")} == before


def send(demo: Caller, table: str, kind: str, body: bytes, *, query: str = "", **headers: str) -> Answer:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return demo.send(table, body, headers={"Content-Type": kind, **named}, query=query)


def rows_of(demo: Caller, table: str, token: int) -> list[list[object]]:
    return demo.rows(f"SELECT id, n, t, note FROM {table} ORDER BY id", min_visibility_token=token)


@pytest.mark.parametrize("encoding", PACK)
@pytest.mark.parametrize("kind", BODIES)
def test_every_kind_of_body_holds_the_same_records(
    demo: Caller, table: str, scratch: Path, kind: str, encoding: str
) -> None:
    answer = send(demo, table, kind, PACK[encoding](BODIES[kind]), Content_Encoding=encoding)
    assert answer.status == 200, answer.body
    acknowledged = answer.json()
    assert acknowledged["accepted_count"] == 3
    found = rows_of(demo, table, acknowledged["max_visibility_token"])
    assert [[*row[:3], row[3] and json.loads(str(row[3]))] for row in found] == ROWS


@pytest.mark.parametrize("kind", [NDJSON, CSV, ARROW, PARQUET])
def test_a_key_column_makes_retries_harmless_and_the_wait_is_asked_for_by_query(
    demo: Caller, table: str, kind: str
) -> None:
    query = "?key_column=id&event_time_column=t&wait_for_visibility=true&visibility_timeout_ms=20000"
    first = send(demo, table, kind, BODIES[kind], query=query).json()
    assert (first["accepted_count"], first["status"]) == (3, "visible")
    again = send(demo, table, kind, BODIES[kind], query=query).json()
    assert (again["accepted_count"], again["duplicate_count"], again["status"]) == (0, 3, "visible")
    assert len(rows_of(demo, table, again["max_visibility_token"])) == 3


def test_a_record_of_a_json_request_is_recognised_in_a_line(demo: Caller, table: str) -> None:
    demo.ingest(table, *({"payload": payload, "idempotency_key": payload["id"]} for payload in PAYLOADS))
    assert send(demo, table, NDJSON, BODIES[NDJSON], query="?key_column=id").json()["duplicate_count"] == 3
    other = json.dumps({"id": "a", "n": 1}).encode()
    problem_of(send(demo, table, NDJSON, other, query="?key_column=id"), 409, "IDEMPOTENCY_CONFLICT")


@pytest.mark.parametrize("kind", [NDJSON, CSV, ARROW, PARQUET])
def test_one_key_covers_a_whole_request(demo: Caller, table: str, kind: str) -> None:
    key = f"whole-{kind}"
    first = send(demo, table, kind, BODIES[kind], Idempotency_Key=key).json()
    again = send(demo, table, kind, gzip.compress(BODIES[kind]), Idempotency_Key=key, Content_Encoding="gzip")
    assert again.headers["idempotency-replayed"] == "true"
    assert again.json()["max_visibility_token"] == first["max_visibility_token"]
    other = send(demo, table, NDJSON, b'{"id":"other"}', Idempotency_Key=key)
    problem_of(other, 409, "IDEMPOTENCY_CONFLICT")
    assert len(rows_of(demo, table, first["max_visibility_token"])) == 3


def test_operations_are_asked_for_by_query(demo: Caller) -> None:
    keyed = demo.create(COLUMNS, required=["id"], primary_key_cols=["id"])
    send(demo, keyed, NDJSON, BODIES[NDJSON], query="?op=upsert")
    gone = send(demo, keyed, CSV, b"id\na\nb\n", query="?op=delete").json()
    assert [row[0] for row in rows_of(demo, keyed, gone["max_visibility_token"])] == [ROWS[2][0]]


BROKEN = [
    (NDJSON, b'{"id":"a"}\n{"id":"b","n":"x"}\n', "identity", 400, "INVALID_RECORD"),
    (NDJSON, b'{"id":"a"}\n{"id":', "identity", 400, "INVALID_RECORD"),
    (NDJSON, b'{"id":"\xff"}', "identity", 400, "INVALID_RECORD"),
    (NDJSON, b"\n\n", "identity", 400, "INVALID_REQUEST"),
    (NDJSON, b'{"id":"a"}\n' * 200_000, "identity", 413, "PAYLOAD_TOO_LARGE"),
    (NDJSON, gzip.compress(b'{"id":"a"}\n' * 200_000), "gzip", 413, "PAYLOAD_TOO_LARGE"),
    (NDJSON, zstd(bytes(2**28)), "zstd", 413, "PAYLOAD_TOO_LARGE"),
    (NDJSON, gzip.compress(BODIES[NDJSON])[:-5], "gzip", 400, "INVALID_REQUEST"),
    (NDJSON, zstd(BODIES[NDJSON])[:-5], "zstd", 400, "INVALID_REQUEST"),
    (NDJSON, BODIES[NDJSON], "gzip", 400, "INVALID_REQUEST"),
    (NDJSON, BODIES[NDJSON], "br", 415, "UNSUPPORTED_MEDIA_TYPE"),
    (NDJSON, BODIES[NDJSON], "gzip, zstd", 415, "UNSUPPORTED_MEDIA_TYPE"),
    ("application/xml", BODIES[NDJSON], "identity", 415, "UNSUPPORTED_MEDIA_TYPE"),
    (CSV, b"id,n\na,1\nb\n", "identity", 400, "INVALID_RECORD"),
    (CSV, b"id,nope\na,1\n", "identity", 400, "INVALID_RECORD"),
    (CSV, b'id,n\n"a,1\n', "identity", 400, "INVALID_RECORD"),
    (CSV, b"id,n\n", "identity", 400, "INVALID_REQUEST"),
    (CSV, b"", "identity", 400, "INVALID_REQUEST"),
    (ARROW, BODIES[ARROW][:200], "identity", 400, "INVALID_REQUEST"),
    (ARROW, BODIES[CSV], "identity", 400, "INVALID_REQUEST"),
    (PARQUET, BODIES[PARQUET][:-5], "identity", 400, "INVALID_REQUEST"),
]


@pytest.mark.parametrize(("kind", "body", "encoding", "status", "code"), BROKEN)
def test_what_cannot_be_taken_is_named_and_leaves_nothing_behind(
    demo: Caller, table: str, scratch: Path, kind: str, body: bytes, encoding: str, status: int, code: str
) -> None:
    problem_of(send(demo, table, kind, body, Content_Encoding=encoding), status, code)
    acknowledged = demo.ingest(table, {"payload": {"id": "only"}})
    assert [row[0] for row in rows_of(demo, table, acknowledged["max_visibility_token"])] == ["only"]


@pytest.mark.parametrize(
    ("kind", "query", "named"),
    [
        (NDJSON, "?nope=1", "'nope'"),
        (NDJSON, "?op=merge", "op must be"),
        (NDJSON, "?op=delete", "primary_key_cols"),
        (CSV, "?key_column=nope", "key_column"),
        (CSV, "?event_time_column=n", "event_time_column"),
        (ARROW, "?wait_for_visibility=yes", "wait_for_visibility"),
        (PARQUET, "?visibility_timeout_ms=99999999", "visibility_timeout_ms"),
        (JSON, "?op=insert", "'op'"),
    ],
)
def test_an_option_that_cannot_be_is_named(demo: Caller, table: str, kind: str, query: str, named: str) -> None:
    problem = problem_of(send(demo, table, kind, BODIES[kind], query=query), 400, "INVALID_REQUEST")
    assert named in problem["message"]


def test_a_line_of_an_error_is_told(demo: Caller, table: str) -> None:
    problem = problem_of(send(demo, table, NDJSON, b'{"id":"a"}\n\n{"id":"b","n":1.5}\n{}'), 400, "INVALID_RECORD")
    places = [(error["index"], error["line"], error["column"]) for error in problem["context"]["errors"]]
    assert places == [(1, 3, "n"), (2, 4, "id")]


def test_a_chunked_body_is_read_to_its_end(demo: Caller, table: str, contract_stack: Stack) -> None:
    address = urlsplit(contract_stack.base_url)
    connection = http.client.HTTPConnection(str(address.hostname), address.port, timeout=30)
    lines = (json.dumps(payload).encode() + b"\n" for payload in PAYLOADS)
    headers = {"Authorization": f"Bearer {contract_stack.key}", "Content-Type": NDJSON}
    connection.request("POST", f"/v1/ingest/{table}", body=lines, headers=headers, encode_chunked=True)
    answer = connection.getresponse()
    assert (answer.status, json.loads(answer.read())["accepted_count"]) == (200, 3)
    connection.close()
