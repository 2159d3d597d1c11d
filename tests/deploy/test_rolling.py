"""The scaled-out services of the compose file, healthy by their own checks, replaced one by one under load."""

import http.client
import threading
from collections.abc import Iterator
from contextlib import closing

import pytest

from duckmesh.devstack.http import Answer, Api
from tests.acceptance.caller import Caller
from tests.composed import ScaledStack
from tests.together import Background

pytestmark = [pytest.mark.deploy, pytest.mark.timeout(600)]

ATTEMPTS = 20


@pytest.fixture(scope="module")
def stack() -> Iterator[ScaledStack]:
    with ScaledStack() as running:
        yield running


def test_every_service_is_healthy_by_its_own_check(stack: ScaledStack) -> None:
    assert [name for name in stack.names if not stack.healthy(name)] == []


def test_a_rolling_restart_loses_no_request_beyond_a_connection_that_is_made_again(stack: ScaledStack) -> None:
    with closing(Caller(stack.base_url, stack.key)) as caller:
        table = caller.create({"writer": "int64", "n": "int64"})
    over = threading.Event()
    writers = [Background(lambda w=w: _write(stack, table, w, over)) for w in range(3)]
    reader = Background(lambda: _read(stack, table, over))
    for names in (("runners", "api"), ("runners-2", "api-2"), ("worker-materialize",), ("worker-materialize-2",)):
        for name in reversed(names):
            stack.stop(name)
        for name in names:
            stack.start(name)
        stack.await_healthy(names[-1])
    over.set()
    sent = [writer.result() for writer in writers]
    counts = reader.result()
    assert counts == sorted(counts)
    assert counts[0] < counts[-1]
    with closing(Caller(stack.base_url, stack.key)) as caller:
        caller.ingest(table, {"payload": {"writer": 99, "n": 0}}, wait=True)
        found = caller.rows(f"SELECT writer, count(*), count(DISTINCT n) FROM {table} WHERE writer < 99 GROUP BY ALL")
    assert sorted(found) == [[w, count, count] for w, count in enumerate(sent)]
    assert min(sent) > 10


def _write(stack: ScaledStack, table: str, writer: int, over: threading.Event) -> int:
    """Keyed writes one after the other, each answered 200; how many."""
    n = 0
    with Api(stack.base_url, stack.key, timeout=60) as api:
        while not over.is_set():
            record = {"idempotency_key": f"{writer}-{n}", "payload": {"writer": writer, "n": n}}
            answer = _retried(api, f"/v1/ingest/{table}", {"records": [record]})
            assert answer.status == 200, answer.body
            n += 1
            over.wait(0.05)
    return n


def _read(stack: ScaledStack, table: str, over: threading.Event) -> list[int]:
    """Queries one after the other, each answered 200; how many rows each has seen."""
    seen = []
    with Api(stack.base_url, stack.key, timeout=60) as api:
        while not over.is_set():
            answer = _retried(api, "/v1/query", {"sql": f"SELECT count(*) FROM {table}"})
            assert answer.status == 200, answer.body
            seen.append(answer.json()["rows"][0][0])
            over.wait(0.05)
    return seen


def _retried(api: Api, path: str, document: object) -> Answer:
    """The answer; a connection that breaks is made again, and nothing else is."""
    for attempt in range(ATTEMPTS):
        try:
            return api.call("POST", path, document)
        except (OSError, http.client.HTTPException):
            threading.Event().wait(0.1 * attempt)
    raise AssertionError("no instance takes a connection")
