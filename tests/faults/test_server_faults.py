"""Redis wiped and stopped, PostgreSQL crashed, under load: only a delay results."""

import signal
import time
from contextlib import suppress

import pytest
import redis

from tests.client import Client
from tests.faults.load import Load, settle
from tests.history import Recorder
from tests.metrics import fetch
from tests.stack import Stack


def test_redis_flushed_under_load(stack: Stack, client: Client, recorder: Recorder, table: str) -> None:
    with redis.Redis.from_url(stack.redis.url) as server, Load(client, table) as load:
        for _ in range(3):
            load.wait_for_acks(30)
            server.flushall()
            client.read(table, min_token=load.token, seconds=10)
    settle(client, recorder, table)
    assert load.outcomes["unknown"] == 0


def test_waiting_writers_are_fast_again_after_redis_was_flushed(
    stack: Stack, client: Client, recorder: Recorder, table: str
) -> None:
    with redis.Redis.from_url(stack.redis.url) as server:
        server.flushall()
    client.ingest(table, "first", wait=True)
    time.sleep(2)
    took = []
    for number in range(10):
        began = time.monotonic()
        client.ingest(table, f"next-{number}", wait=True)
        took.append(time.monotonic() - began)
    settle(client, recorder, table)
    assert sorted(took)[5] < 0.5, f"doorbells ring again, no sweep is waited for: {took}"


def test_redis_that_hangs_delays_no_acknowledgement(
    stack: Stack, client: Client, recorder: Recorder, table: str
) -> None:
    with Load(client, table, readers=0) as load:
        load.wait_for_acks(60)
        before = time.monotonic()
        load.wait_for_acks(100)
        stack.freeze("redis")
        try:
            hung = time.monotonic()
            load.wait_for_acks(200)
            until = time.monotonic()
        finally:
            stack.thaw("redis")
        usual, during = load.latency(before, hung), load.latency(hung, until)
        # A write that waited for the broker would take its 100 ms at least.
        assert during[0] < usual[0] + 0.05, (usual, during)
        assert during[1] < max(2 * usual[1], usual[1] + 0.08), (usual, during)
        load.wait_for_acks(20)
    assert load.outcomes["unknown"] == 0
    settle(client, recorder, table, seconds=30)


def test_redis_killed_and_started_again(stack: Stack, client: Client, recorder: Recorder, table: str) -> None:
    with Load(client, table, readers=0) as load:
        load.wait_for_acks(30)
        stack.kill("redis")
        load.wait_for_acks(60)
        stack.start("redis")
        load.wait_for_acks(30)
    assert load.outcomes["unknown"] == 0
    settle(client, recorder, table, seconds=30)


def test_postgresql_stopped_at_once_under_load_and_started_again(
    stack: Stack, client: Client, recorder: Recorder, table: str
) -> None:
    with Load(client, table) as load:
        for _ in range(2):
            load.wait_for_acks(40)
            stack.signal("postgres", signal.SIGQUIT)  # what `pg_ctl stop -m immediate` sends
            stack.wait_for_end("postgres")
            time.sleep(0.5)
            stack.start("postgres")
            load.wait_for_acks(40)
    settle(client, recorder, table, seconds=30)
    assert load.outcomes["unknown"] > 0, "the fault was felt"


def test_postgresql_away_is_said_at_once_and_by_name(
    stack: Stack, client: Client, recorder: Recorder, table: str
) -> None:
    client.ingest(table, "before", wait=True)
    stack.signal("postgres", signal.SIGQUIT)
    stack.wait_for_end("postgres")
    try:
        for method, path, document in (
            ("POST", f"/v1/ingest/{table}", {"records": [{"payload": {"id": "never"}}]}),
            ("POST", "/v1/query", {"sql": f"SELECT * FROM {table}"}),
            ("GET", "/v1/lag", None),
            ("GET", "/v1/ready", None),
        ):
            began = time.monotonic()
            reply = client.call(method, path, document)
            assert (reply.status, reply.json()["error_code"]) == (503, "DEPENDENCY_UNAVAILABLE"), reply.body
            assert reply.json()["retryable"] is True
            assert int(reply.headers["Retry-After"]) >= 1
            assert time.monotonic() - began < 2
            assert b"psycopg" not in reply.body and stack.postgres.password.encode() not in reply.body
        assert client.call("GET", "/v1/health").status == 200
        assert client.call("GET", "/v1/metrics").status == 200
    finally:
        stack.start("postgres")
    client.ingest(table, "after", wait=True)
    assert settle(client, recorder, table) == {"before": 1, "after": 1}


def test_a_small_write_needs_no_object_store_in_a_fresh_process_either(
    stack: Stack, client: Client, recorder: Recorder, table: str
) -> None:
    objects = stack.home.root / "objects"
    away = objects.rename(objects.with_name("objects-away"))
    objects.touch()  # no directory any more
    try:
        stack.stop("api")
        stack.start("api")
        await_health(stack)
        client.ingest(table, "meanwhile")  # recorded only if the answer is 200
        ready = client.call("GET", "/v1/ready")
        assert (ready.status, "object_store" in ready.json()["message"]) == (503, True), ready.body
    finally:
        objects.unlink()
        away.rename(objects)
    stack.await_ready()
    assert settle(client, recorder, table) == {"meanwhile": 1}


def await_health(stack: Stack) -> None:
    """The API's process answers, whatever it lacks."""
    deadline = time.monotonic() + 30
    while True:
        stack.check("api")
        with suppress(OSError):
            fetch(f"{stack.base_url}/v1/health")
            return
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("server", "source", "gauge"),
    [("redis", "queues", "duckmesh_queue_depth"), ("postgres", "lag", "duckmesh_ingest_lag_events")],
)
def test_a_scrape_says_which_server_hangs_and_does_not_hang_with_it(
    stack: Stack, server: str, source: str, gauge: str
) -> None:
    up, failures = (f'duckmesh_scrape_{name}{{source="{source}"}}' for name in ("source_up", "failures_total"))
    before, _ = scrape(stack)
    assert (before[up], any(name.startswith(gauge) for name in before)) == (1, True)
    stack.freeze(server)
    try:
        for _ in range(2):
            during, seconds = scrape(stack)
            assert seconds < 8, "Prometheus would have given up"
    finally:
        stack.thaw(server)
    assert (during[up], any(name.startswith(gauge) for name in during)) == (0, False)
    assert during[failures] - before.get(failures, 0) >= 1
    assert during['duckmesh_scrape_source_up{source="disks"}'] == 1, "what does not hang is shown"
    deadline = time.monotonic() + 20
    while scrape(stack)[0][up] != 1:
        assert time.monotonic() < deadline
        time.sleep(0.2)


def scrape(stack: Stack) -> tuple[dict[str, float], float]:
    """The samples of the page, and the seconds it took."""
    began = time.monotonic()
    lines = [line for line in fetch(stack.metrics_urls["api"]).splitlines() if not line.startswith("#")]
    seconds = time.monotonic() - began
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}, seconds
