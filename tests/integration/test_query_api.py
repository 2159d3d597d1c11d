"""Queries over HTTP, with sealed runners behind them."""

import json
import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.test import Client

from catalog.definition import parse_definition
from catalog.incarnation import begin_incarnation
from catalog.tables import create_table
from duckmesh.kernel import clock
from query.models import QueryAudit
from tests.factories import make_tenant
from tests.http import bearer, make_key, problem_of
from tests.serving import query_runners, serving, worker

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(scope="module", autouse=True)
def _runners() -> Iterator[None]:
    with query_runners():
        yield


@pytest.fixture(autouse=True)
def _serving() -> Iterator[None]:
    with serving():
        yield


class Caller:
    """A key of every role of a new tenant, which has an empty table `t`."""

    def __init__(self) -> None:
        self.tenant_id = make_tenant()
        columns = [
            {"name": "a", "type": "int64"},
            {"name": "price", "type": "decimal(10,2)"},
            {"name": "at", "type": "timestamp"},
        ]
        definition = parse_definition({"table_name": "t", "schema_json": {"columns": columns}})
        create_table(tenant_id=self.tenant_id, definition=definition, actor="test")
        self.headers = bearer(make_key(self.tenant_id))

    def query(self, sql: str, *, headers: dict[str, str] | None = None, **members: object) -> Any:
        """Django's test response; its stubs have no one type for it."""
        body = json.dumps({"sql": sql, **members})
        sent = self.headers | (headers or {})
        return Client().post("/v1/query", body, content_type="application/json", headers=sent)

    def write(self, *payloads: dict[str, object], wait: bool = True) -> int:
        body = json.dumps({"records": [{"payload": payload} for payload in payloads], "wait_for_visibility": wait})
        response = Client().post("/v1/ingest/t", body, content_type="application/json", headers=self.headers)
        assert response.status_code == 200, response.content
        return int(response.json()["max_visibility_token"])


@pytest.fixture
def caller() -> Caller:
    return Caller()


def test_a_write_is_read_back_by_its_token_with_every_digit(caller: Caller) -> None:
    with worker(caller.tenant_id):
        token = caller.write(
            {"a": 2**53 + 1, "price": "12345678.90", "at": "2013-01-01T10:00:00Z"}, {"a": None}, wait=False
        )
        response = caller.query("SELECT * FROM T ORDER BY a", min_visibility_token=token)
    assert response.status_code == 200, response.content
    assert response["Content-Type"] == "application/json"
    answer = response.json()
    assert answer["columns"] == ["a", "price", "at"]
    assert answer["rows"] == [[2**53 + 1, "12345678.90", "2013-01-01T10:00:00Z"], [None, None, None]]
    assert answer["max_visibility_token"] >= token
    assert answer["snapshot_time"].endswith("Z")
    assert not answer["truncated"]
    assert set(answer["stats"]) == {
        "duration_ms", "queue_ms", "barrier_ms", "scanned_files", "pruned_files", "scanned_bytes", "cache_hit_bytes"
    }  # fmt: skip
    assert answer["stats"]["scanned_files"] == 1


def test_an_empty_table_answers_typed_columns_and_no_rows(caller: Caller) -> None:
    answer = caller.query("SELECT * FROM t").json()
    assert answer["columns"] == ["a", "price", "at"]
    assert answer["column_types"] == ["BIGINT", "DECIMAL(10,2)", "TIMESTAMP"]
    assert answer["rows"] == []


def test_an_old_snapshot_is_read_by_id_and_by_time(caller: Caller) -> None:
    with worker(caller.tenant_id):
        caller.write({"a": 1})
        old = caller.query("SELECT count(*) FROM t").json()
        caller.write({"a": 2})
    by_id = caller.query("SELECT count(*) FROM t", snapshot_id=old["snapshot_id"]).json()
    by_time = caller.query("SELECT count(*) FROM t", snapshot_time=old["snapshot_time"]).json()
    assert old["rows"] == by_id["rows"] == by_time["rows"] == [[1]]
    assert caller.query("SELECT count(*) FROM t").json()["rows"] == [[2]]


def test_parameters_are_bound_and_rows_limited(caller: Caller) -> None:
    answer = caller.query("SELECT * FROM range(100) r(i) WHERE i > ?", params=[10], row_limit=3).json()
    assert (answer["rows"], answer["truncated"]) == ([[11], [12], [13]], True)
    assert caller.query("SELECT $x + 1", params={"x": 41}).json()["rows"] == [[42]]


def test_each_refusal_has_its_code(caller: Caller) -> None:
    future = clock.rfc3339(clock.now() + timedelta(hours=1))
    for members, status, code in (
        ({"sql": "SELEC"}, 400, "QUERY_INVALID"),
        ({"sql": "SELECT * FROM read_csv('/etc/passwd')"}, 403, "QUERY_FORBIDDEN"),
        ({"sql": "SELECT * FROM nothing"}, 404, "TABLE_NOT_FOUND"),
        ({"sql": "SELECT 1", "snapshot_id": 99}, 404, "SNAPSHOT_NOT_FOUND"),
        ({"sql": "SELECT 1", "snapshot_id": 2**63}, 400, "INVALID_REQUEST"),
        ({"sql": "SELECT 1", "snapshot_time": "2001-01-01T00:00:00Z"}, 404, "SNAPSHOT_NOT_FOUND"),
        ({"sql": "SELECT 1", "snapshot_time": future}, 400, "INVALID_REQUEST"),
        ({"sql": "SELECT 1", "snapshot_time": "2001-01-01"}, 400, "INVALID_REQUEST"),
        ({"sql": "SELECT 1", "snapshot_id": 0, "snapshot_time": future}, 400, "INVALID_REQUEST"),
        ({"sql": "SELECT 1", "min_visibility_token": 1}, 400, "VISIBILITY_TOKEN_INVALID"),
        ({"sql": "SELECT 1", "min_visibility_token": -1}, 400, "VISIBILITY_TOKEN_INVALID"),
        ({"sql": "SELECT 1", "row_limit": "5"}, 400, "INVALID_REQUEST"),
        ({"sql": "SELECT 1", "timeout_ms": 300_001}, 400, "INVALID_REQUEST"),
        ({"sql": "SELECT 1", "colour": "red"}, 400, "INVALID_REQUEST"),
        ({"sql": 5}, 400, "INVALID_REQUEST"),
    ):
        problem = problem_of(caller.query(**members), status, code)  # type: ignore[arg-type]  # wrong on purpose
        assert "/etc" not in problem["detail"]


def test_a_token_that_does_not_come_is_a_timeout_that_says_how_far_it_is(caller: Caller) -> None:
    token = caller.write({"a": 1}, wait=False)
    response = caller.query("SELECT * FROM t", min_visibility_token=token, consistency_timeout_ms=50)
    problem = problem_of(response, 504, "CONSISTENCY_TIMEOUT")
    assert problem["context"]["latest_visibility_token"] == 0
    assert problem["retryable"]
    above = caller.query("SELECT * FROM t", min_visibility_token=token, snapshot_id=0)
    problem_of(above, 409, "TOKEN_SCOPE_MISMATCH")


def test_a_foreign_table_does_not_exist(caller: Caller) -> None:
    with worker(caller.tenant_id):
        caller.write({"a": 1})
    others = bearer(make_key(make_tenant()))
    foreign = problem_of(caller.query("SELECT * FROM t", headers=others), 404, "TABLE_NOT_FOUND")
    missing = problem_of(caller.query("SELECT * FROM u", headers=others), 404, "TABLE_NOT_FOUND")
    assert foreign["detail"].replace("table t.", "table u.") == missing["detail"]


def streamed(response: Any) -> bytes:
    """The body of an answer that is streamed."""
    assert response.status_code == 200
    return b"".join(response.streaming_content)


KINDS = {
    "": "application/json",
    "*/*": "application/json",
    "application/*": "application/json",
    "application/json": "application/json",
    "text/csv": "text/csv; charset=utf-8; header=present",
    "TEXT/CSV": "text/csv; charset=utf-8; header=present",
    "text/*": "text/csv; charset=utf-8; header=present",
    "application/x-ndjson": "application/x-ndjson",
    "application/vnd.apache.parquet": "application/vnd.apache.parquet",
    "application/vnd.apache.arrow.stream, */*;q=0.1": "application/vnd.apache.arrow.stream",
    "text/csv, application/json;q=0.5": "text/csv; charset=utf-8; header=present",
    "text/csv;q=0.4, application/json; q=0.5": "application/json",
    "text/csv, application/json": "text/csv; charset=utf-8; header=present",
    "application/json, text/csv": "application/json",
    "application/json;q=0, */*": "application/vnd.apache.arrow.stream",
    "text/html, */*;q=0.8": "application/json",
}


@pytest.mark.parametrize("accept", KINDS)
def test_kind_of_answer_is_the_one_that_accept_likes_best(caller: Caller, accept: str) -> None:
    response = caller.query("SELECT 1 AS a", headers={"Accept": accept})
    assert (response.status_code, response["Content-Type"]) == (200, KINDS[accept])
    if response.streaming:
        streamed(response)


@pytest.mark.parametrize("accept", ["text/html", "text/csv;q=0", "application/json;q=2", "image/*, text/plain", ";"])
def test_kind_of_answer_that_does_not_exist_is_not_acceptable(caller: Caller, accept: str) -> None:
    problem_of(caller.query("SELECT 1", headers={"Accept": accept}), 406, "NOT_ACCEPTABLE")


def test_a_streamed_answer_is_whole_and_names_its_snapshot(caller: Caller) -> None:
    with worker(caller.tenant_id):
        token = caller.write({"a": 1, "price": "1.50"}, {"a": 2})
    latest = caller.query("SELECT 1").json()["snapshot_id"]
    response = caller.query("SELECT a, price FROM t ORDER BY a", headers={"Accept": "text/csv"})
    assert response["X-DuckMesh-Snapshot-Id"] == str(latest)
    assert response["X-DuckMesh-Visibility-Token"] == str(token)
    assert "X-DuckMesh-Truncated" not in response
    body = streamed(response)
    assert body == b"a,price\r\n1,1.50\r\n2,\r\n"
    assert response["Content-Length"] == str(len(body))
    many = streamed(caller.query("SELECT * FROM range(300_000)", headers={"Accept": "application/x-ndjson"}))
    assert many.count(b"\n") == 300_000


def test_a_row_limit_cuts_a_streamed_answer_and_says_so(caller: Caller) -> None:
    for limit, cut in ((99_999, True), (100_000, False)):
        response = caller.query("SELECT * FROM range(100_000)", headers={"Accept": "text/csv"}, row_limit=limit)
        assert response.get("X-DuckMesh-Truncated") == ("true" if cut else None)
        assert streamed(response).count(b"\r\n") == 1 + limit


@pytest.mark.parametrize("accept", ["text/csv", "application/vnd.apache.parquet"])
def test_what_goes_wrong_before_the_first_byte_is_a_problem_in_every_form(caller: Caller, accept: str) -> None:
    headers = {"Accept": accept}
    problem_of(caller.query("SELECT * FROM nothing", headers=headers), 404, "TABLE_NOT_FOUND")
    problem_of(caller.query("SELECT 'x'::INT", headers=headers), 400, "QUERY_INVALID")
    endless = "SELECT sum(a.range * b.range) FROM range(10_000_000) a, range(10_000_000) b"
    problem_of(caller.query(endless, headers=headers, timeout_ms=300), 504, "QUERY_TIMEOUT")
    late = "SELECT (CASE WHEN i = 900_000 THEN 'x' ELSE '1' END)::INT FROM range(1_000_000) r(i)"
    problem_of(caller.query(late, headers=headers, row_limit=1_000_000), 400, "QUERY_INVALID")


def test_an_answer_that_nobody_reads_to_its_end_is_recorded_as_such(caller: Caller) -> None:
    response = caller.query("SELECT * FROM range(100_000_000)", headers={"Accept": "text/csv"})
    pieces = iter(response.streaming_content)
    assert next(pieces)
    response.close()
    caller.query("SELECT 1")  # the place is free
    deadline = time.monotonic() + 5
    while not (rows := list(QueryAudit.objects.filter(tenant_id=caller.tenant_id, outcome="CLIENT_GONE"))):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert rows[0].size_bytes > 0
    assert rows[0].row_count > 0


def test_an_answer_that_breaks_off_ends_in_what_nobody_takes_for_its_end(caller: Caller) -> None:
    sql = "SELECT (CASE WHEN i = 5_000_000 THEN 'x' ELSE i::VARCHAR END)::BIGINT AS n FROM range(10_000_000) r(i)"
    body = streamed(caller.query(sql, headers={"Accept": "application/x-ndjson"}))
    assert body.splitlines()[-1].startswith(b"!QUERY_INVALID: Conversion Error")


EXPLAINED = [
    ("SELECT a, count(*) FROM t WHERE a > ? GROUP BY a ORDER BY 2 -- all", [3]),
    ("WITH c AS (SELECT 7 AS a) SELECT t.price::HUGEINT FROM t JOIN c USING (a) WHERE t.a <> ?", [5]),
]


@pytest.mark.parametrize(("sql", "params"), EXPLAINED)
def test_plan_is_text_without_what_stands_behind_the_tables(caller: Caller, sql: str, params: list[int]) -> None:
    with worker(caller.tenant_id):
        caller.write({"a": 5, "price": "1.00"}, {"a": 7})
    response = caller.query(sql, params=params, explain=True)
    assert response.status_code == 200, response.content
    answer = response.json()
    assert {"columns", "column_types", "rows"}.isdisjoint(answer)
    assert "READ_FILES" in answer["plan"]
    assert not any(told in answer["plan"] for told in ("_duckmesh", "parquet", "PARQUET", "/", caller.tenant_id))
    assert answer["stats"]["scanned_files"] == 1
    assert caller.query(sql, params=params, explain=False).json()["columns"]


def test_plan_is_had_by_the_rules_of_the_query(caller: Caller) -> None:
    problem_of(caller.query("SELECT getenv('HOME')", explain=True), 403, "QUERY_FORBIDDEN")
    problem_of(caller.query("SELECT * FROM nowhere", explain=True), 404, "TABLE_NOT_FOUND")
    problem_of(caller.query("SELECT 1", explain="yes"), 400, "INVALID_REQUEST")
    problem_of(caller.query("SELECT nothing FROM t", explain=True), 400, "QUERY_INVALID")
    endless = caller.query("SELECT count(*) FROM range(1000000000000)", explain=True, timeout_ms=5_000)
    assert endless.status_code == 200, "nothing runs"


def test_what_a_restore_of_the_catalog_has_replaced_is_told_apart(caller: Caller) -> None:
    with worker(caller.tenant_id):
        kept = caller.write({"a": 1})
        head = caller.query("SELECT a FROM t").json()["snapshot_id"]
        begin_incarnation(dumped_at=clock.now())
        lost = kept + 1
        for _ in range(2):  # as long as the watermark is before the void range, and when it has passed it
            refused = caller.query("SELECT a FROM t", min_visibility_token=lost)
            problem_of(refused, 409, "TOKEN_SCOPE_MISMATCH")
            assert caller.query("SELECT a FROM t", min_visibility_token=kept).json()["rows"][0] == [1]
            new = caller.write({"a": 2})
            assert new > lost
            assert caller.query("SELECT a FROM t", min_visibility_token=new).status_code == 200
    gone = caller.query("SELECT a FROM t", snapshot_id=head + 1)
    assert problem_of(gone, 410, "SNAPSHOT_EXPIRED")["context"]["replaced"] is True
    assert caller.query("SELECT a FROM t", snapshot_id=head).json()["rows"] == [[1]]
