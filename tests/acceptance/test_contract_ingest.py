"""CONTRACT.md, section 4: acknowledgements, idempotency, operations, waits and limits."""

import threading
import time
from typing import Any

import pytest

from tests.acceptance.caller import Caller, Record, problem_of
from tests.stack import Stack


@pytest.fixture
def table(demo: Caller) -> str:
    return demo.create({"id": "string", "n": "int64"}, required=["id"])


def record(identity: str, *, n: int = 0, **members: object) -> Record:
    return {"payload": {"id": identity, "n": n}, **members}


def keyed(identity: str, *, n: int = 0) -> Record:
    """A record whose idempotency key is its identity."""
    return record(identity, n=n, idempotency_key=identity)


def counts(acknowledged: dict[str, Any]) -> tuple[int, int, str]:
    return acknowledged["accepted_count"], acknowledged["duplicate_count"], acknowledged["status"]


def test_an_acknowledgement_has_its_members_and_tokens_grow_without_gaps(demo: Caller, table: str) -> None:
    first = demo.ingest(table, record("a"), record("b"), record("c"))
    assert set(first) == {
        "accepted_count",
        "duplicate_count",
        "max_visibility_token",
        "status",
        "visible_snapshot_id",
    }
    assert counts(first) == (3, 0, "accepted")
    assert first["visible_snapshot_id"] is None
    problem_of(demo.send(table, {"records": [record("x"), {"payload": {}}]}), 400, "INVALID_RECORD")
    second = demo.ingest(table, record("d"))
    assert second["max_visibility_token"] == first["max_visibility_token"] + 1


def test_who_waits_gets_a_snapshot_that_holds_the_records(demo: Caller, table: str) -> None:
    acknowledged = demo.ingest(table, record("a"), wait=True)
    assert counts(acknowledged) == (1, 0, "visible")
    snapshot_id = acknowledged["visible_snapshot_id"]
    assert demo.rows(f"SELECT id FROM {table}", snapshot_id=snapshot_id) == [["a"]]


def test_records_without_a_key_are_never_duplicates(demo: Caller, table: str) -> None:
    for _ in range(2):
        assert counts(demo.ingest(table, record("a"), record("a", idempotency_key=None))) == (2, 0, "accepted")
    token = demo.ingest(table, record("b"))["max_visibility_token"]
    assert demo.rows(f"SELECT count(*) FROM {table} WHERE id = 'a'", min_visibility_token=token) == [[4]]


def test_duplicates_are_counted_left_out_and_covered_by_the_token(demo: Caller, table: str) -> None:
    first = demo.ingest(table, keyed("a"), keyed("b"), keyed("a"))
    assert counts(first) == (2, 1, "partial_duplicate")
    again = demo.ingest(table, keyed("b"))
    assert counts(again) == (0, 1, "partial_duplicate")
    assert again["max_visibility_token"] >= first["max_visibility_token"]
    mixed = demo.ingest(table, keyed("a"), keyed("c"), keyed("c"))
    assert counts(mixed) == (1, 2, "partial_duplicate")
    assert mixed["max_visibility_token"] == first["max_visibility_token"] + 1
    waited = demo.ingest(table, keyed("a"), wait=True)
    assert counts(waited) == (0, 1, "visible")
    assert demo.rows(f"SELECT id FROM {table} ORDER BY id", min_visibility_token=mixed["max_visibility_token"]) == [
        ["a"],
        ["b"],
        ["c"],
    ]


def test_a_key_means_one_payload_and_op_whatever_else_is_said(demo: Caller, table: str) -> None:
    demo.ingest(table, {"idempotency_key": "k", "payload": {"id": "a"}, "event_time": "2013-01-01T10:00:00Z"})
    for same in (
        {"payload": {"id": "a", "n": None}},
        {"payload": {"ID": "a"}, "op": "insert"},
        {"payload": {"id": "a"}, "event_time": None},
    ):
        assert counts(demo.ingest(table, {"idempotency_key": "k", **same})) == (0, 1, "partial_duplicate")
    other = {"idempotency_key": "k", "payload": {"id": "a", "n": 1}}
    problem = problem_of(demo.send(table, {"records": [keyed("new"), other]}), 409, "IDEMPOTENCY_CONFLICT")
    assert problem["context"]["errors"][0]["index"] == 1
    assert counts(demo.ingest(table, keyed("new"))) == (1, 0, "accepted"), "a refused request writes nothing"
    inside = {"records": [keyed("x", n=1), keyed("x", n=2)]}
    problem_of(demo.send(table, inside), 409, "IDEMPOTENCY_CONFLICT")


@pytest.mark.parametrize("key", ["\0", "é😀", " ", "x" * 512, "'; DROP TABLE x"])
def test_any_text_is_a_key(demo: Caller, table: str, key: str) -> None:
    assert [counts(demo.ingest(table, record("a", idempotency_key=key)))[:2] for _ in range(2)] == [(1, 0), (0, 1)]


@pytest.mark.parametrize("key", ["", "x" * 513, 5, ["a"], True])
def test_what_cannot_be_a_key_is_refused(demo: Caller, table: str, key: object) -> None:
    answer = demo.send(table, {"records": [record("a", idempotency_key=key)]})
    assert "idempotency_key" in problem_of(answer, 400, "INVALID_RECORD")["message"]


def test_many_retries_at_once_write_a_record_once(demo: Caller, table: str, contract_stack: Stack) -> None:
    answers: list[tuple[int, int, str]] = []

    def retry() -> None:
        caller = Caller(contract_stack.base_url, contract_stack.key)
        answers.extend(counts(caller.ingest(table, keyed("a"))) for _ in range(5))
        caller.close()

    threads = [threading.Thread(target=retry) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answers) == [(0, 1, "partial_duplicate")] * 39 + [(1, 0, "accepted")]


def test_a_request_key_answers_a_retry_with_the_first_result(demo: Caller, table: str) -> None:
    demo.ingest(table, keyed("known"))
    for number, records in enumerate(([record("a"), record("b")], [keyed("known"), keyed("fresh")])):
        headers, body = {"Idempotency-Key": f"request {number}"}, {"records": records}
        first, again = (demo.send(table, body, headers=headers) for _ in range(2))
        assert (first.status, again.status) == (200, 200)
        assert "idempotency-replayed" not in first.headers
        assert again.headers["idempotency-replayed"] == "true"
        assert again.json() == first.json()
        waited = demo.send(table, {**body, "wait_for_visibility": True}, headers=headers)
        assert (waited.headers["idempotency-replayed"], waited.json()["status"]) == ("true", "visible")
        other = demo.send(table, {"records": [record("c")]}, headers=headers)
        problem_of(other, 409, "IDEMPOTENCY_CONFLICT")
    rows = demo.rows(f"SELECT id FROM {table} ORDER BY id")
    assert rows == [["a"], ["b"], ["fresh"], ["known"]]
    for wrong in ("", "x" * 513):
        answer = demo.send(table, {"records": [record("a")]}, headers={"Idempotency-Key": wrong})
        problem_of(answer, 400, "INVALID_REQUEST")


def test_a_keyed_table_shows_the_last_state_of_each_key(demo: Caller) -> None:
    table = demo.create(
        {"id": "int64", "part": "string", "v": "string", "w": "float64"},
        primary_key_cols=["id", "part"],
        required=["v"],
    )

    def write(*records: tuple[str, int, str, str | None]) -> list[list[Any]]:
        """Op, id, part and v of each; the table after them."""
        sent = [{"op": op, "payload": {"id": i, "part": p} | ({"v": v} if v else {})} for op, i, p, v in records]
        token = demo.ingest(table, *sent)["max_visibility_token"]
        return demo.rows(f"SELECT id, part, v FROM {table} ORDER BY ALL", min_visibility_token=token)

    start = write(("insert", 1, "a", "one"), ("upsert", 2, "a", "two"), ("insert", 2, "b", "two b"))
    assert start == [[1, "a", "one"], [2, "a", "two"], [2, "b", "two b"]]
    assert write(("insert", 1, "a", "ONE"), ("upsert", 2, "a", "TWO")) == [
        [1, "a", "ONE"],
        [2, "a", "TWO"],
        [2, "b", "two b"],
    ], "insert means upsert here"
    assert write(("delete", 1, "a", None), ("delete", 99, "z", None)) == [[2, "a", "TWO"], [2, "b", "two b"]]
    within_one_request = [("insert", 2, "b", "x"), ("delete", 2, "b", None), ("insert", 1, "a", "back")]
    assert write(*within_one_request, ("delete", 2, "a", None)) == [[1, "a", "back"]]
    assert write(("delete", 1, "a", None)) == []
    assert demo.rows(f"SELECT count(*), max(v) FROM {table}") == [[0, None]]


def test_what_an_operation_needs_is_named(demo: Caller, table: str) -> None:
    with_key = demo.create({"id": "int64", "v": "string"}, primary_key_cols=["id"], required=["v"])
    for name, sent, words in (
        (table, {"op": "upsert", "payload": {"id": "a"}}, "primary_key_cols"),
        (table, {"op": "delete", "payload": {"id": "a"}}, "primary_key_cols"),
        (table, {"op": "merge", "payload": {"id": "a"}}, "insert, upsert or delete"),
        (with_key, {"op": "delete", "payload": {"v": "x"}}, "column id"),
        (with_key, {"op": "delete", "payload": {"id": None}}, "column id"),
        (with_key, {"op": "delete", "payload": {"id": 1, "nope": 1}}, "column nope"),
        (with_key, {"payload": {"id": None, "v": "x"}}, "column id"),
        (with_key, {"op": "upsert", "payload": {"id": 1}}, "column v"),
    ):
        answer = demo.send(name, {"records": [sent]})
        assert words in problem_of(answer, 400, "INVALID_RECORD")["message"]
    key = {"idempotency_key": "k"}
    assert demo.ingest(with_key, {**key, "payload": {"id": 1, "v": "x"}})["accepted_count"] == 1
    assert demo.ingest(with_key, {**key, "op": "upsert", "payload": {"id": 1, "v": "x"}})["duplicate_count"] == 1
    answer = demo.send(with_key, {"records": [{**key, "op": "delete", "payload": {"id": 1, "v": "x"}}]})
    problem_of(answer, 409, "IDEMPOTENCY_CONFLICT")


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({}, "INVALID_REQUEST"),
        ({"records": []}, "INVALID_REQUEST"),
        ({"records": {}}, "INVALID_REQUEST"),
        ({"records": [record("a")], "colour": "red"}, "INVALID_REQUEST"),
        ({"records": [record("a")], "wait_for_visibility": "yes"}, "INVALID_REQUEST"),
        ({"records": [record("a")], "visibility_timeout_ms": -1}, "INVALID_REQUEST"),
        ({"records": [record("a")], "visibility_timeout_ms": 1.5}, "INVALID_REQUEST"),
        ({"records": ["a"]}, "INVALID_RECORD"),
        ({"records": [{}]}, "INVALID_RECORD"),
        ({"records": [{"payload": []}]}, "INVALID_RECORD"),
        ({"records": [record("a", colour="red")]}, "INVALID_RECORD"),
        ({"records": [record("a", event_time="yesterday")]}, "INVALID_RECORD"),
        ({"records": [{"payload": {"id": None}}]}, "INVALID_RECORD"),
        ({"records": [{"payload": {"n": 1}}]}, "INVALID_RECORD"),
    ],
)
def test_a_request_of_the_wrong_shape_is_refused(demo: Caller, table: str, body: object, code: str) -> None:
    problem_of(demo.send(table, body), 400, code)


def test_a_request_has_a_greatest_number_of_records(demo: Caller, table: str) -> None:
    assert demo.ingest(table, *(record("a") for _ in range(1_000)))["accepted_count"] == 1_000
    problem = problem_of(demo.send(table, {"records": [record("a")] * 1_001}), 413, "PAYLOAD_TOO_LARGE")
    assert problem["context"]["limit"] == 1_000


def test_waits_that_run_out_say_what_is_accepted_and_how_far_visibility_is(
    demo: Caller, table: str, contract_stack: Stack
) -> None:
    seen = demo.ingest(table, record("seen"), wait=True)["max_visibility_token"]
    for worker in contract_stack.publishers:
        contract_stack.freeze(worker)
    try:
        body = {"records": [record("late")], "wait_for_visibility": True, "visibility_timeout_ms": 200}
        problem = problem_of(demo.send(table, body), 504, "CONSISTENCY_TIMEOUT")
        token = problem["context"].pop("max_visibility_token")
        assert problem["context"] == {
            "accepted": True,
            "accepted_count": 1,
            "duplicate_count": 0,
            "latest_visibility_token": seen,
        }
        assert token == seen + 1
        began = time.monotonic()
        refused = demo.refused(
            504, "CONSISTENCY_TIMEOUT", f"FROM {table}", min_visibility_token=token, consistency_timeout_ms=200
        )
        assert 0.2 <= time.monotonic() - began < 2
        assert refused["context"]["latest_visibility_token"] == seen
        assert demo.rows(f"SELECT id FROM {table}", min_visibility_token=seen) == [["seen"]]
        lag = demo.call("GET", "/v1/lag").json()
        assert (lag["pending_events"], lag["token_lag"]) == (1, 1)
        assert lag["oldest_pending_lag_ms"] >= 200
        assert b"\nduckmesh_ingest_lag_events 1.0" in demo.call("GET", "/v1/metrics").body
    finally:
        for worker in contract_stack.publishers:
            contract_stack.thaw(worker)
    rows = demo.rows(f"SELECT id FROM {table} ORDER BY id", min_visibility_token=token, consistency_timeout_ms=20_000)
    assert rows == [["late"], ["seen"]]
