"""Limits over HTTP, against two API processes: exact across both, and effective at the next write."""

import re
import secrets
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing

import psycopg2
import pytest

from duckmesh.devstack.http import Answer
from tests.acceptance.caller import Caller, new_name, problem_of
from tests.stack import Stack

SETTINGS = {"DUCKMESH_API_PROCESSES": "2", "DUCKMESH_MAX_BUS_BYTES": "512KiB"}
WORKER = "worker-materialize"
BURST = 2  # seconds, by default


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    with Stack(settings=SETTINGS) as stack:
        yield stack


@pytest.fixture
def own(stack: Stack) -> tuple[str, str]:
    """A tenant of its own, and its key."""
    return stack.new_tenant()


@pytest.fixture
def tenant(own: tuple[str, str]) -> str:
    return own[0]


@pytest.fixture
def callers(stack: Stack, own: tuple[str, str]) -> Iterator[list[Caller]]:
    """So many connections of the tenant that both processes have some of them."""
    with ExitStack() as open_ones:
        made = [Caller(stack.base_url, own[1]) for _ in range(12)]
        for caller in made:
            open_ones.callback(caller.close)
        yield made


def set_limit(stack: Stack, tenant: str, limit: str, value: int | None) -> None:
    """In the tenant's row, where the command writes it too."""
    with closing(psycopg2.connect(stack.superusers)) as connection, connection, connection.cursor() as cursor:
        cursor.execute(f"UPDATE tenant SET max_{limit} = %s WHERE tenant_id = %s", [value, tenant])
        assert cursor.rowcount == 1


def order_limit(stack: Stack, tenant: str, option: str, value: str) -> None:
    """By command, as an operator would."""
    done = stack.manage("limits", tenant, option, value)
    assert done.returncode == 0, done.stderr


def hammer(callers: list[Caller], table: str, body: Callable[[], object], *, seconds: float) -> tuple[float, int]:
    """How long all of them together sent as fast as they could, and how many writes were taken; the others are 429."""
    end = time.monotonic() + seconds

    def send(caller: Caller) -> int:
        taken = 0
        while time.monotonic() < end:
            answer = caller.send(table, body())
            if answer.status == 200:
                taken += 1
            else:
                problem_of(answer, 429, "RATE_LIMITED")
                time.sleep(0.02)
        return taken

    began = time.monotonic()
    with ThreadPoolExecutor(max_workers=len(callers)) as threads:
        taken = sum(threads.map(send, callers))
    return time.monotonic() - began, taken


def test_a_rate_in_records_is_exact_across_processes(stack: Stack, tenant: str, callers: list[Caller]) -> None:
    table = callers[0].create({"n": "int64"})
    set_limit(stack, tenant, "records_per_second", 200)
    seconds, taken = hammer(callers, table, lambda: {"records": [{"payload": {"n": 1}}] * 7}, seconds=2.5)
    most = 200 * (seconds + BURST)
    assert 0.7 * most < 7 * taken <= most


def test_a_rate_in_bytes_is_exact_across_processes(stack: Stack, tenant: str, callers: list[Caller]) -> None:
    table = callers[0].create({"text": "string"})
    set_limit(stack, tenant, "bytes_per_second", 40 * 2**10)

    def body() -> object:
        return {"records": [{"payload": {"text": secrets.token_urlsafe(1_000)}}]}

    seconds, taken = hammer(callers, table, body, seconds=2.5)
    with closing(psycopg2.connect(stack.superusers)) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT count(*), sum(size_bytes) FROM ingest_event WHERE tenant_id = %s", [tenant])
        envelopes, size_bytes = cursor.fetchone()
    most = 40 * 2**10 * (seconds + BURST)
    assert envelopes == taken
    assert 0.7 * most < size_bytes <= most


def test_a_changed_rate_holds_at_the_next_write_of_every_process(
    stack: Stack, tenant: str, callers: list[Caller]
) -> None:
    table = callers[0].create({"n": "int64"})
    body = {"records": [{"payload": {"n": 1}}] * 100}
    for caller in callers:
        assert caller.send(table, body).status == 200
    order_limit(stack, tenant, "--records-per-second", "10")
    assert callers[0].send(table, body).status == 200
    for caller in callers:
        problem_of(caller.send(table, body), 429, "RATE_LIMITED")
    order_limit(stack, tenant, "--records-per-second", "none")
    for caller in callers:
        assert caller.send(table, body).status == 200


def fields(answer: Answer) -> dict[str, dict[str, int]]:
    """The numbers in the RateLimit fields of the answer."""
    return {
        name: {key: int(value) for key, value in re.findall(r";(\w+)=(\d+)", answer.headers[name])}
        for name in ("ratelimit-policy", "ratelimit")
    }


def test_answers_tell_what_is_left_of_the_rate(stack: Stack, tenant: str, callers: list[Caller]) -> None:
    caller = callers[0]
    table = caller.create({"n": "int64"})
    assert "ratelimit" not in caller.send(table, {"records": [{"payload": {"n": 1}}]}).headers
    set_limit(stack, tenant, "records_per_second", 10)
    taken = fields(caller.send(table, {"records": [{"payload": {"n": 1}}] * 15}))
    assert taken["ratelimit-policy"] == {"q": 20, "w": 2}
    assert 5 <= taken["ratelimit"]["r"] < 10
    assert taken["ratelimit"]["t"] == 2
    answer = caller.send(table, {"records": [{"payload": {"n": 1}}] * 15})
    assert problem_of(answer, 429, "RATE_LIMITED")["context"] == {"unit": "records", "limit": 10}
    refused = fields(answer)
    assert refused["ratelimit-policy"] == {"q": 20, "w": 2}
    assert refused["ratelimit"] == {"r": 0, "t": int(answer.headers["retry-after"])}
    time.sleep(refused["ratelimit"]["t"])
    assert caller.send(table, {"records": [{"payload": {"n": 1}}] * 15}).status == 200


def test_a_quota_is_held_and_shown_until_it_is_raised(stack: Stack, tenant: str, callers: list[Caller]) -> None:
    table = callers[0].create({"n": "int64"})
    set_limit(stack, tenant, "stored_files", 1)
    callers[0].ingest(table, {"payload": {"n": 1}}, wait=True)
    for caller in callers:
        answer = caller.send(table, {"records": [{"payload": {"n": 1}}]})
        problem_of(answer, 429, "QUOTA_EXCEEDED")
        assert answer.headers["retry-after"] == "60"
    shown = callers[0].call("GET", "/v1/limits").json()
    assert (shown["limits"]["max_stored_files"], shown["usage"]["stored_files"]) == (1, 1)
    assert shown["usage"]["stored_bytes"] > 0
    set_limit(stack, tenant, "stored_files", 100)
    for caller in callers:
        assert caller.send(table, {"records": [{"payload": {"n": 1}}]}).status == 200


def test_too_many_pending_records_are_refused_until_they_are_visible(
    stack: Stack, tenant: str, callers: list[Caller]
) -> None:
    table = callers[0].create({"n": "int64"})
    body = {"records": [{"payload": {"n": 1}}] * 60}
    set_limit(stack, tenant, "pending_records", 100)
    stack.stop(WORKER)
    assert callers[0].send(table, body).status == 200
    for caller in callers:
        context = problem_of(caller.send(table, body), 429, "BACKPRESSURE")["context"]
        assert context == {"pending_records": 60, "limit": 100}
    stack.start(WORKER)
    deadline = time.monotonic() + 30
    while callers[0].send(table, body).status != 200:
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_writes_are_refused_while_too_much_waits_in_postgresql_and_taken_soon_after(
    stack: Stack, callers: list[Caller]
) -> None:
    demo = callers[0]
    table = demo.create({"text": "string"}, name=new_name("guarded"))
    demo.ingest(table, {"payload": {"text": "first"}}, wait=True)
    stack.stop(WORKER)

    def answers() -> list[int]:
        body = {"records": [{"payload": {"text": secrets.token_urlsafe(15_000)}}]}
        return [caller.send(table, body).status for caller in callers]

    def until(status: int) -> None:
        deadline = time.monotonic() + 30
        while set(answers()) != {status}:
            assert time.monotonic() < deadline
            time.sleep(0.1)

    until(503)
    refused = problem_of(demo.send(table, {"records": [{"payload": {"text": "x"}}]}), 503, "DEPENDENCY_UNAVAILABLE")
    assert refused["retryable"]
    assert refused["context"] == {"short_of": ["bus"]}
    assert demo.rows(f"SELECT count(*) FROM {table}") == [[1]]
    ready = demo.call("GET", "/v1/ready")
    assert (ready.status, ready.json()["writes"]) == (
        200,
        {"taken": False, "short_of": ["bus"], "mode": "normal", "server": "known"},
    )
    metrics = demo.call("GET", "/v1/metrics").body.decode()
    assert 'duckmesh_writes_refused{short_of="bus"} 1.0' in metrics
    assert 'duckmesh_writes_refused{short_of="disk"} 0.0' in metrics
    stack.start(WORKER)
    until(200)
    # The last of those writes may have made it short again, until it is visible.
    deadline = time.monotonic() + 30
    while not demo.call("GET", "/v1/ready").json()["writes"]["taken"]:
        assert time.monotonic() < deadline
        time.sleep(0.1)
