"""Queries that run are seen and called off from every process of the API, and the history tells how they ended."""

import threading
import time
from collections.abc import Callable
from typing import Any

from duckmesh.devstack.http import Answer
from tests.acceptance.caller import Caller, problem_of
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


def eventually(condition: Callable[[], bool], seconds: float = 10) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not come true in time"
        time.sleep(0.05)
