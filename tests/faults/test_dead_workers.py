"""With every worker dead an operator is still told the truth, and what was accepted is not lost."""

import json
import re
import time
from collections.abc import Iterator

import psutil
import pytest

from tests.client import Client
from tests.faults.load import settle
from tests.history import Recorder
from tests.metrics import fetch
from tests.stack import Stack

DEAD = ("worker-materialize", "beat")


@pytest.fixture
def dead(stack: Stack, client: Client, table: str) -> Iterator[None]:
    """Everything before is visible, and nothing that comes will be."""
    client.ingest(table, "before", wait=True)
    for name in DEAD:
        stack.kill(name)
    yield
    for name in DEAD:
        stack.start(name)


def gauges(client: Client) -> dict[str, float]:
    """The freshness gauges of the metrics page, each summed over its labels."""
    page = client.call("GET", "/v1/metrics").body.decode()
    found: dict[str, float] = {}
    for name, value in re.findall(r"^(duckmesh_\w+)(?:\{[^}]*\})? (\S+)$", page, re.MULTILINE):
        found[name] = found.get(name, 0) + float(value)
    return found


def test_lag_and_metrics_are_right_with_every_worker_dead(
    stack: Stack, client: Client, recorder: Recorder, table: str
) -> None:
    visible = client.ingest(table, "seen", wait=True)
    before = client.get("/v1/lag")
    assert (before["pending_events"], before["token_lag"], before["oldest_pending_lag_ms"]) == (0, 0, 0)
    for name in DEAD:
        stack.kill(name)
    try:
        began = time.monotonic()
        for number in range(7):
            last = client.ingest(table, f"{number}-a", f"{number}-b", f"{number}-c")
        time.sleep(1.2)
        lag, page = client.get("/v1/lag"), gauges(client)
        waited = (time.monotonic() - began) * 1_000
        expected = {
            "tenant_id": stack.tenant,
            "accepted_events": 21,
            "claimed_events": 0,
            "failed_events": 0,
            "pending_events": 21,
            "token_lag": 21,
            "latest_visibility_token": visible.token,
            "latest_issued_token": last.token,
            "latest_snapshot_id": visible.visible_in,
        }
        assert {name: lag[name] for name in expected} == expected
        assert last.token == visible.token + 21
        assert 1_200 <= lag["oldest_pending_lag_ms"] <= waited
        assert lag["snapshot_age_ms"] >= lag["oldest_pending_lag_ms"]
        (entry,) = lag["tables"]
        assert (entry["table_name"], entry["pending_events"]) == (table, 21)
        assert page["duckmesh_ingest_lag_events"] == 21
        assert page["duckmesh_latest_visibility_token"] == visible.token
        assert 1_200 <= page["duckmesh_visibility_lag_ms"] <= waited + 1_000
        time.sleep(0.3)
        assert client.get("/v1/lag")["oldest_pending_lag_ms"] >= lag["oldest_pending_lag_ms"] + 300
        assert gauges(client)["duckmesh_visibility_lag_ms"] >= page["duckmesh_visibility_lag_ms"] + 300
        shown = stack.manage("lag", stack.tenant, "--json")
        assert '"pending_events": 21' in json.dumps(json.loads(shown.stdout)), shown.stdout + shown.stderr
    finally:
        for name in DEAD:
            stack.start(name)
    settle(client, recorder, table)
    after = client.get("/v1/lag")
    assert (after["pending_events"], after["token_lag"], after["oldest_pending_lag_ms"]) == (0, 0, 0)
    page = gauges(client)
    assert (page["duckmesh_ingest_lag_events"], page["duckmesh_visibility_lag_ms"]) == (0, 0)
    assert page["duckmesh_latest_visibility_token"] == last.token


def test_wait_that_runs_out_says_that_the_records_are_accepted(
    client: Client, recorder: Recorder, table: str, dead: None
) -> None:
    records = [{"payload": {"id": "a", "n": 0}, "idempotency_key": "a"}]
    document = {"records": records, "wait_for_visibility": True, "visibility_timeout_ms": 300}
    began = time.monotonic()
    reply = client.call("POST", f"/v1/ingest/{table}", document)
    assert reply.status == 504 and reply.json()["error_code"] == "CONSISTENCY_TIMEOUT"
    assert 0.3 <= time.monotonic() - began < 2
    context = reply.json()["context"]
    assert context["accepted"] is True
    assert context["latest_visibility_token"] < context["max_visibility_token"]
    again = client.ingest(table, "a")
    assert (again.accepted, again.duplicates, again.token) == (0, 1, context["max_visibility_token"])


def test_barrier_that_nobody_can_meet_names_the_latest_watermark(client: Client, table: str, dead: None) -> None:
    ack = client.ingest(table, "a")
    query = {"sql": f"SELECT * FROM {table}", "min_visibility_token": ack.token, "consistency_timeout_ms": 300}
    reply = client.call("POST", "/v1/query", query)
    assert reply.status == 504 and reply.json()["error_code"] == "CONSISTENCY_TIMEOUT"
    assert reply.json()["context"]["latest_visibility_token"] == ack.token - 1
    reply = client.call("POST", "/v1/query", {**query, "min_visibility_token": ack.token + 1})
    assert reply.status == 400 and reply.json()["error_code"] == "VISIBILITY_TOKEN_INVALID"


def test_no_counter_of_a_worker_falls_when_one_of_its_processes_is_killed(
    stack: Stack, client: Client, recorder: Recorder, table: str
) -> None:
    def published() -> float:
        page = fetch(stack.metrics_urls["worker-materialize"])
        found = re.search(r"^duckmesh_commit_batch_latency_ms_count (\S+)$", page, re.MULTILINE)
        assert found is not None
        return float(found[1])

    def files() -> set[str]:
        return {path.name for path in stack.home.metrics("worker-materialize").iterdir()}

    client.ingest(table, "before", wait=True)
    before, files_before = published(), files()
    assert before >= 1
    for victim in psutil.Process(stack.pid("worker-materialize")).children():
        victim.kill()
    assert published() >= before
    client.ingest(table, "after", wait=True)
    assert published() >= before + 1
    assert files() == files_before
    assert settle(client, recorder, table) == {"before": 1, "after": 1}
