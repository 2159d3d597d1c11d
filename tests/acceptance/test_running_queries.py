"""Queries that run are seen and called off from every process of the API, and the history tells how they ended."""

import hashlib
import os
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest

from duckmesh.devstack.http import Answer
from tests.acceptance.caller import Caller, problem_of
from tests.acceptance.test_streamed_answers import ARROW, asked
from tests.stack import Stack

ENDLESS = "SELECT count(*) FROM range(1000000000000) a"


def test_queries_are_called_off_whichever_process_runs_them(contract_stack: Stack, demo: Caller, other: Caller) -> None:
    answers: dict[str, tuple[Answer, float]] = {}

    def ask() -> None:
        caller = Caller(contract_stack.base_url, contract_stack.key)
        answer = caller.call("POST", "/v1/query", {"sql": ENDLESS, "timeout_ms": 30_000})
        answers[answer.headers["x-duckmesh-query-id"]] = (answer, time.monotonic())
        caller.close()

    def running() -> list[str]:
        listed: list[dict[str, Any]] = demo.call("GET", "/v1/queries").json()["queries"]
        return [query["query_id"] for query in listed]

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    eventually(lambda: len(running()) == 4)
    assert other.call("GET", "/v1/queries").json()["queries"] == []
    asked: dict[str, float] = {}
    for query_id in running():
        problem_of(other.call("DELETE", f"/v1/queries/{query_id}"), 404, "QUERY_NOT_FOUND")
        asked[query_id] = time.monotonic()
        assert demo.call("DELETE", f"/v1/queries/{query_id}").status == 202
    for thread in threads:
        thread.join()
    assert set(answers) == set(asked)
    for query_id, (answer, at) in answers.items():
        assert problem_of(answer, 409, "CANCELLED")["context"] == {"query_id": query_id}
        assert at - asked[query_id] < 2  # a second, and as much for a machine with other work to do

    def ended() -> set[str]:
        page = demo.call("GET", "/v1/query/history?outcome=CANCELLED").json()["queries"]
        return {query["query_id"] for query in page}

    eventually(lambda: ended() >= set(asked))
    eventually(lambda: running() == [])


@pytest.mark.parametrize("form", ["application/json", ARROW])
def test_client_that_hangs_up_leaves_the_queue(contract_stack: Stack, demo: Caller, form: str) -> None:
    waiting = f"SELECT 'nobody waits for this any more, as {form}'"
    others = 4 + (os.cpu_count() or 1)  # more than may run at a time
    with ExitStack() as clients:
        for _ in range(others):
            clients.enter_context(asked(contract_stack, ENDLESS, form, timeout_ms=60_000))
        eventually(lambda: running(demo) == others)
        with asked(contract_stack, waiting, form, address="127.0.0.2", timeout_ms=60_000):
            time.sleep(0.5)
        left = time.monotonic()
        eventually(lambda: ended_as(demo, waiting) == ["CLIENT_GONE"])
        # A second, and two for the row, which is written off the request's path, on a machine with other work to do.
        assert time.monotonic() - left < 3
        eventually(lambda: running(demo) == others)
    eventually(lambda: running(demo) == 0)


def test_client_that_hangs_up_waits_for_no_token(contract_stack: Stack, demo: Caller) -> None:
    table = demo.create({"n": "int64"})
    waiting = f"SELECT 'nobody waits for this any more', count(*) FROM {table}"
    demo.ingest(table, {"payload": {"n": 1}}, wait=True)
    contract_stack.freeze("worker-materialize")
    try:
        token = demo.ingest(table, {"payload": {"n": 2}})["max_visibility_token"]
        members = {"min_visibility_token": token, "consistency_timeout_ms": 30_000}
        with asked(contract_stack, waiting, ARROW, **members):
            time.sleep(0.5)
        left = time.monotonic()
        eventually(lambda: ended_as(demo, waiting) == ["CLIENT_GONE"])
        assert time.monotonic() - left < 3
    finally:
        contract_stack.thaw("worker-materialize")
    assert demo.rows(waiting, min_visibility_token=token)[0][1] == 2


def running(caller: Caller) -> int:
    """How many of the tenant's queries have not ended."""
    return len(caller.call("GET", "/v1/queries").json()["queries"])


def ended_as(caller: Caller, sql: str) -> list[str]:
    """The outcomes of the tenant's newest queries of this text."""
    page = caller.call("GET", "/v1/query/history").json()["queries"]
    return [query["outcome"] for query in page if query["sql_hash"] == hashlib.sha256(sql.encode()).hexdigest()]


def eventually(condition: Callable[[], bool], seconds: float = 10) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not come true in time"
        time.sleep(0.05)
