"""Past and running queries over HTTP, and the end of one that should not run."""

import base64
import json
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.db import connection
from django.test import Client

from api.models import Role
from api.process import held
from duckmesh.kernel import clock
from query.inflight import Flight, Inflight
from query.models import QueryAudit, RunningQuery
from tests.factories import make_tenant
from tests.http import bearer, make_key, problem_of
from tests.serving import query_runners, serving

pytestmark = pytest.mark.django_db(transaction=True)

ENDLESS = "SELECT count(*) FROM range(1000000000000) a"


@pytest.fixture(scope="module", autouse=True)
def _runners() -> Iterator[None]:
    with query_runners():
        yield


@pytest.fixture(autouse=True)
def _serving() -> Iterator[None]:
    with serving():
        yield


class Reader:
    """A key of a tenant that may only read."""

    def __init__(self, tenant_id: str | None = None) -> None:
        self.tenant_id = tenant_id or make_tenant()
        self.headers = bearer(make_key(self.tenant_id, Role.QUERY_READER))

    def query(self, sql: str, **members: object) -> Any:
        body = json.dumps({"sql": sql, **members})
        return Client().post("/v1/query", body, content_type="application/json", headers=self.headers)

    def get(self, address: str, **query: object) -> Any:
        return Client().get(address, query, headers=self.headers)

    def cancel(self, query_id: str) -> Any:
        return Client().delete(f"/v1/queries/{query_id}", headers=self.headers)

    def running(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.get("/v1/queries").json()["queries"]
        return found

    def history(self, **query: object) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.get("/v1/query/history", **query).json()["queries"]
        return found


@pytest.fixture
def reader() -> Reader:
    return Reader()


class Endless:
    """An endless query in a thread; `answer` is there when it was stopped."""

    def __init__(self, reader: Reader) -> None:
        self.answer: Any = None
        self._thread = threading.Thread(target=self._run, args=(reader,))
        self._thread.start()
        eventually(lambda: len(reader.running()) == 1)

    def _run(self, reader: Reader) -> None:
        try:
            self.answer = reader.query(ENDLESS, timeout_ms=20_000)
        finally:
            connection.close()

    def end(self) -> Any:
        self._thread.join()
        return self.answer


def test_a_query_is_called_off_by_its_id(reader: Reader) -> None:
    endless = Endless(reader)
    (running,) = reader.running()
    assert (running["state"], running["sql"]) == ("running", None)
    assert problem_of(Reader().cancel(running["query_id"]), 404, "QUERY_NOT_FOUND")
    assert Reader().running() == []
    started = time.monotonic()
    response = reader.cancel(running["query_id"])
    assert (response.status_code, response.json()["state"]) == (202, "cancelling")
    answer = endless.end()
    assert time.monotonic() - started < 1
    assert problem_of(answer, 409, "CANCELLED")["context"] == {"query_id": running["query_id"]}
    assert answer["X-DuckMesh-Query-Id"] == running["query_id"]
    eventually(lambda: reader.running() == [])
    problem_of(reader.cancel(running["query_id"]), 404, "QUERY_NOT_FOUND")
    eventually(lambda: [query["outcome"] for query in reader.history()] == ["CANCELLED"])
    assert reader.query("SELECT 1").json()["rows"] == [[1]]


def test_a_query_that_waits_for_its_turn_or_for_a_token_is_called_off(reader: Reader) -> None:
    fillers = [Reader(reader.tenant_id) for _ in range(4)]
    threads = [threading.Thread(target=_quietly, args=(filler,)) for filler in fillers]
    for thread in threads:
        thread.start()
    eventually(lambda: len(reader.running()) == 4)
    time.sleep(0.3)
    started = time.monotonic()
    for running in reader.running():
        assert reader.cancel(running["query_id"]).status_code == 202
    for thread in threads:
        thread.join()
    assert time.monotonic() - started < 1.5
    eventually(lambda: [query["outcome"] for query in reader.history()] == ["CANCELLED"] * 4)


def _quietly(reader: Reader) -> None:
    try:
        reader.query(ENDLESS, timeout_ms=20_000)
    finally:
        connection.close()


def test_another_process_sees_the_query_and_calls_it_off(reader: Reader) -> None:
    elsewhere, cancelled, held_there = Inflight(), threading.Event(), threading.Event()
    flight = Flight(
        query_id="c" * 32, tenant_id=reader.tenant_id, key_id="key", sql_hash="0" * 64, sql="", at=clock.now()
    )

    def run() -> None:
        with elsewhere.holding(flight), flight.cancellation.stopping(cancelled.set):
            held_there.set()
            cancelled.wait(20)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        assert held_there.wait(5)
        assert held().query.inflight.of(reader.tenant_id) == []
        eventually(lambda: [query["query_id"] for query in reader.running()] == ["c" * 32])
        assert reader.cancel("c" * 32).status_code == 202
        assert cancelled.wait(1.5)
        thread.join()
        eventually(lambda: not RunningQuery.objects.exists())
    finally:
        cancelled.set()
        elsewhere.close()


def test_history_is_the_tenants_own_newest_first_in_pages(reader: Reader) -> None:
    other = Reader()
    other.query("SELECT 'secret'")
    ids = [reader.query(f"SELECT {number}")["X-DuckMesh-Query-Id"] for number in range(5)]
    failed = reader.query("SELECT nothing")
    eventually(lambda: QueryAudit.objects.count() == 7)
    found, cursor, pages = [], {}, 0
    while True:
        page = reader.get("/v1/query/history", limit=2, **cursor).json()
        found += page["queries"]
        pages += 1
        if page["next_cursor"] is None:
            break
        cursor = {"cursor": page["next_cursor"]}
    assert pages == 3
    assert [query["query_id"] for query in found] == [failed["X-DuckMesh-Query-Id"], *reversed(ids)]
    assert [query["outcome"] for query in found] == ["QUERY_INVALID"] + ["ok"] * 5
    assert reader.history(outcome="QUERY_INVALID") == found[:1]
    assert reader.history(outcome="ok") == found[1:]
    newest = found[1]
    assert (newest["row_count"], newest["snapshot_id"], newest["sql"]) == (1, 0, None)
    assert newest["duration_ms"] > 0
    assert len(newest["sql_hash"]) == 64
    assert newest["at"].endswith("Z")


def test_a_cursor_or_an_outcome_of_ones_own_making_is_refused(reader: Reader) -> None:
    before_time = base64.urlsafe_b64encode(b"0001-01-01T00:00:00+23:00|1").decode()
    for wrong in (
        {"cursor": "x"},
        {"cursor": "MjAxMw=="},
        {"cursor": before_time},
        {"outcome": "a b"},
        {"outcome": "x" * 41},
        {"limit": "0"},
    ):
        problem_of(reader.get("/v1/query/history", **wrong), 400, "INVALID_REQUEST")


def eventually(condition: Callable[[], bool], seconds: float = 6) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not come true in time"
        time.sleep(0.02)
