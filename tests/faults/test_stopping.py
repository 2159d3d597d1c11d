"""What a program does that is told to stop: it ends what it does within its grace, and nobody's work is lost."""

import http.client
import json
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any
from urllib.parse import urlsplit

import psycopg2
import pytest

from duckmesh.devstack.http import Api
from tests.acceptance.caller import Caller
from tests.stack import Stack
from tests.together import Background

GRACE = 8
SETTINGS = {"DUCKMESH_STOP_GRACE": f"{GRACE}s"}
PROGRAMS = ("runners", "api", "worker-materialize", "worker-maintenance", "beat")


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    once = tmp_path_factory.mktemp("once") / "slept"
    slow = {"worker-maintenance": f"integrity.before_save=sleep:300@{once}"}
    with Stack(programs=PROGRAMS, settings=SETTINGS, failpoints=slow) as running:
        yield running


@pytest.fixture
def caller(stack: Stack) -> Iterator[Caller]:
    with closing(Caller(stack.base_url, stack.key)) as one:
        yield one


def test_an_api_that_stops_answers_all_it_has_taken(stack: Stack, caller: Caller) -> None:
    table = caller.create({"a": "int64"})
    caller.ingest(table, {"payload": {"a": 1}}, wait=True)
    stack.freeze("worker-materialize")
    waiting = {"records": [{"payload": {"a": 2}}], "wait_for_visibility": True, "visibility_timeout_ms": 200_000}
    answer = Background(lambda: _post(stack, f"ingest/{table}", waiting))
    with _streaming(stack, "SELECT i FROM range(3_000_000) r(i)") as stream:
        first = stream.read(1_000).count(b"\n")
        time.sleep(1)  # the write is waiting by now
        began = time.monotonic()
        stack.tell("api", signal.SIGTERM)
        time.sleep(1)
        lines = first + stream.read().count(b"\n")
    status, document = answer.result()
    assert stack.wait_for_end("api", seconds=GRACE + 10) == 0
    took = time.monotonic() - began
    stack.thaw("worker-materialize")
    stack.start("api")
    stack.await_ready()
    assert lines == 3_000_001
    assert took < GRACE + 5
    assert (status, document["context"]["accepted"]) == (504, True), document
    with closing(Caller(stack.base_url, stack.key)) as again:
        assert again.rows(f"SELECT a FROM {table} ORDER BY a", min_visibility_token=2) == [[1], [2]]


def test_a_worker_that_stops_gives_its_run_back_for_another_to_go_on_with(stack: Stack, caller: Caller) -> None:
    table = caller.create({"a": "int64"})
    caller.ingest(table, *({"payload": {"a": n}} for n in range(50)), wait=True)
    run = caller.call("POST", "/v1/integrity/run", {"mode": "deep", "wait_seconds": 0}).json()
    _await_state(stack, run["run_id"], "running")
    began = time.monotonic()
    stack.tell("worker-maintenance", signal.SIGTERM)
    assert stack.wait_for_end("worker-maintenance", seconds=GRACE + 10) == 0
    assert time.monotonic() - began < GRACE + 5
    assert _state(stack, run["run_id"]) == "queued"
    stack.start("worker-maintenance")
    _await_state(stack, run["run_id"], "succeeded")


@contextmanager
def _streaming(stack: Stack, sql: str) -> Iterator[http.client.HTTPResponse]:
    """An answer that goes on for as long as its reader does."""
    connection = http.client.HTTPConnection(urlsplit(stack.base_url).netloc, timeout=60)
    headers = {"Authorization": f"Bearer {stack.key}", "Content-Type": "application/json", "Accept": "text/csv"}
    with closing(connection):
        connection.request("POST", "/v1/query", json.dumps({"sql": sql}), headers)
        response = connection.getresponse()
        assert response.status == 200
        yield response


def _post(stack: Stack, path: str, document: object) -> tuple[int, Any]:
    with Api(stack.base_url, stack.key, timeout=60) as api:
        answer = api.call("POST", f"/v1/{path}", document)
        return answer.status, json.loads(answer.body)


def _state(stack: Stack, run_id: str) -> str:
    with closing(psycopg2.connect(stack.superusers)) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT state FROM integrity_run WHERE run_id = %s", [run_id])
        row = cursor.fetchone()
    assert row is not None
    return str(row[0])


def _await_state(stack: Stack, run_id: str, state: str) -> None:
    deadline = time.monotonic() + 40
    while _state(stack, run_id) != state:
        assert time.monotonic() < deadline, _state(stack, run_id)
        threading.Event().wait(0.1)
