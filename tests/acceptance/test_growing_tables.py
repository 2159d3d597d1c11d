"""CONTRACT.md, section 3, a table without `schema_json`: its columns come with its data and are never narrowed."""

import io
import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pytest

from tests.acceptance.caller import Caller, new_name, problem_of
from tests.stack import Stack

WIDE = 2**53 + 1


def make_growing(caller: Caller) -> str:
    name = new_name("growing")
    answer = caller.call("POST", "/v1/tables", {"table_name": name})
    assert answer.status == 201, answer.body
    assert (answer.json()["grows"], answer.json()["schema_json"]) == (True, {"columns": []})
    return name


def columns(caller: Caller, table: str) -> dict[str, str]:
    info = caller.call("GET", f"/v1/tables/{table}").json()
    return {column["name"]: column["type"] for column in info["schema_json"]["columns"]}


def write(caller: Caller, table: str, *payloads: dict[str, Any], **members: Any) -> dict[str, Any]:
    return caller.ingest(table, *({"payload": payload, **members} for payload in payloads), wait=True)


def test_a_table_without_columns_says_so_and_takes_its_first_write(demo: Caller) -> None:
    table = make_growing(demo)
    problem = demo.refused(400, "QUERY_INVALID", f"SELECT count(*) FROM {table}")
    assert "no columns yet" in problem["message"]
    problem = problem_of(demo.send(table, {"records": [{"payload": {}}]}), 400, "INVALID_RECORD")
    assert "no columns yet" in problem["message"]
    write(demo, table, {"a": 1})
    assert demo.rows(f"SELECT a, count(*) FROM {table} GROUP BY a") == [[1, 1]]


def test_columns_appear_and_widen_and_old_snapshots_keep_theirs(demo: Caller) -> None:
    table = make_growing(demo)
    steps: list[tuple[dict[str, Any], dict[str, str]]] = [
        ({"n": 1}, {"n": "int64"}),
        ({"n": 2, "s": "x"}, {"n": "int64", "s": "string"}),
        ({"n": 0.5}, {"n": "float64", "s": "string"}),
        ({"n": WIDE, "s": "y"}, {"n": "string", "s": "string"}),
        ({"o": {"deep": [1, None]}}, {"n": "string", "s": "string", "o": "json"}),
        ({"s": 5}, {"n": "string", "s": "json", "o": "json"}),
    ]
    snapshots: list[int] = []
    for version, (payload, expected) in enumerate(steps, start=2):
        snapshots.append(write(demo, table, payload)["visible_snapshot_id"])
        assert columns(demo, table) == expected
        assert demo.call("GET", f"/v1/tables/{table}").json()["schema_version"] == version
    assert sorted(demo.rows(f"SELECT n FROM {table} WHERE n IS NOT NULL")) == sorted(
        [["1"], ["2"], ["0.5"], [str(WIDE)]]
    )
    assert demo.rows(f"SELECT o->'deep'->>0 FROM {table} WHERE o IS NOT NULL") == [["1"]]
    first = demo.query(f"FROM {table}", snapshot_id=snapshots[0])
    assert (first["columns"], first["column_types"], first["rows"]) == (["n"], ["BIGINT"], [[1]])
    third = demo.query(f"SELECT n FROM {table} ORDER BY n", snapshot_id=snapshots[2])
    assert (third["column_types"], third["rows"]) == (["DOUBLE"], [[0.5], [1.0], [2.0]])


def test_exact_integers_become_floats_and_others_text(demo: Caller) -> None:
    exact, other = make_growing(demo), make_growing(demo)
    write(demo, exact, {"v": 2**53})
    write(demo, exact, {"v": 0.5})
    assert columns(demo, exact) == {"v": "float64"}
    assert demo.rows(f"SELECT v FROM {exact} ORDER BY v") == [[0.5], [float(2**53)]]
    write(demo, other, {"v": WIDE})
    write(demo, other, {"v": 0.5}, {"v": 1.0})
    assert columns(demo, other) == {"v": "string"}
    assert demo.rows(f"SELECT v FROM {other} ORDER BY v") == [["0.5"], ["1"], [str(WIDE)]]


@pytest.mark.parametrize("value", [0.5, WIDE, "text", {"a": [1]}, True])
def test_a_retry_after_growth_is_no_conflict(demo: Caller, value: object) -> None:
    table = make_growing(demo)
    first = write(demo, table, {"v": 1}, idempotency_key="k")
    header = {"Idempotency-Key": "whole"}
    whole = demo.ingest(table, {"payload": {"v": 2}}, headers=header)
    write(demo, table, {"v": value})
    again = write(demo, table, {"v": 1}, idempotency_key="k")
    assert (again["accepted_count"], again["duplicate_count"]) == (0, 1)
    assert again["max_visibility_token"] == first["max_visibility_token"]
    assert demo.ingest(table, {"payload": {"v": 2}}, headers=header) == whole
    assert demo.rows(f"SELECT count(*) FROM {table}") == [[3]]


def test_writers_that_grow_a_table_at_once_lose_nothing(demo: Caller, contract_stack: Stack) -> None:
    table = make_growing(demo)

    def grow(writer: int) -> None:
        with closing(Caller(contract_stack.base_url, contract_stack.key)) as caller:
            for number in range(4):
                caller.ingest(table, {"payload": {"writer": writer, "number": number, f"w{writer}_{number}": number}})

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(grow, range(8)))
    write(demo, table, {"writer": -1})
    names = {f"w{writer}_{number}" for writer in range(8) for number in range(4)}
    assert set(columns(demo, table)) == names | {"writer", "number"}
    answer = demo.query(f"SELECT * FROM {table} WHERE writer >= 0")
    rows = [dict(zip(answer["columns"], row, strict=True)) for row in answer["rows"]]
    assert len(rows) == 32
    for row in rows:
        given = {name: value for name, value in row.items() if value is not None}
        writer, number = row["writer"], row["number"]
        assert given == {"writer": writer, "number": number, f"w{writer}_{number}": number}


def test_what_cannot_become_a_column_is_named_and_leaves_nothing(demo: Caller) -> None:
    table = make_growing(demo)
    write(demo, table, {"a": 1})
    before = demo.call("GET", f"/v1/tables/{table}").json()
    many = {f"c{n}": n for n in range(1_000)}
    for payload, column in (({"no name": 1}, "no name"), ({"_duckmesh_x": 1}, "_duckmesh_x"), (many, "c999")):
        answer = demo.send(table, {"records": [{"payload": {"b": 1}}, {"payload": payload}]})
        errors = problem_of(answer, 400, "INVALID_RECORD")["context"]["errors"]
        assert (errors[-1]["index"], errors[-1]["column"]) == (1, column)
    assert demo.call("GET", f"/v1/tables/{table}").json() == before


def test_lines_grow_a_table_too(demo: Caller) -> None:
    table = make_growing(demo)
    lines = "".join(json.dumps(row) + "\n" for row in ({"id": 1, "a": 1}, {"id": 2, "b": True}, {"id": 3, "a": 0.5}))
    for duplicates in (0, 3):
        answer = demo.send(
            table,
            lines.encode(),
            headers={"Content-Type": "application/x-ndjson"},
            query="?key_column=id&wait_for_visibility=true&visibility_timeout_ms=20000",
        )
        assert answer.status == 200, answer.body
        assert answer.json()["duplicate_count"] == duplicates
    assert demo.rows(f"SELECT id, a, b FROM {table} ORDER BY id") == [[1, 1.0, None], [2, None, True], [3, 0.5, None]]


def test_typed_bodies_and_texts_grow_a_table_too(demo: Caller) -> None:
    table = make_growing(demo)
    sink = io.BytesIO()
    at = datetime(2013, 1, 1, 10, tzinfo=UTC)
    batch = pa.record_batch({"id": pa.array([1, 2]), "at": pa.array([at, None]), "v": pa.array([0.5, 1.0])})
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    bodies = [
        ("text/csv", b"id,v,word\n3,7,x\n4,,true\n"),
        ("application/vnd.apache.arrow.stream", sink.getvalue()),
        ("text/csv", b"id,v\n5,9007199254740993\n"),
    ]
    for duplicates in (False, True):
        for media_type, body in bodies:
            answer = demo.send(
                table,
                body,
                headers={"Content-Type": media_type},
                query="?key_column=id&wait_for_visibility=true&visibility_timeout_ms=20000",
            )
            assert answer.status == 200, answer.body
            assert (answer.json()["accepted_count"] == 0) == duplicates
    assert columns(demo, table) == {"id": "int64", "v": "string", "word": "string", "at": "timestamp"}
    assert demo.rows(f'SELECT id, v, word, "at" FROM {table} ORDER BY id') == [
        [1, "0.5", None, "2013-01-01T10:00:00Z"],
        [2, "1", None, None],
        [3, "7", "x", None],
        [4, None, "true", None],
        [5, "9007199254740993", None, None],
    ]
