"""Maintenance on real workers: killed ones, and a Redis that forgets, only delay what was asked for."""

import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.client import Client
from tests.faults.test_worker_faults import wait_for
from tests.stack import Stack

WORKER = "worker-maintenance"


@pytest.fixture(autouse=True)
def _no_worker_stays(stack: Stack) -> Iterator[None]:
    yield
    stack.kill(WORKER)


def ended(client: Client, run_id: str, *, seconds: float = 60) -> Mapping[str, Any]:
    """The run, as soon as it has ended."""
    deadline = time.monotonic() + seconds
    while (run := client.get(f"/v1/runs/{run_id}"))["ended_at"] is None:
        assert time.monotonic() < deadline, run
        time.sleep(0.1)
    shown: Mapping[str, Any] = run
    return shown


def test_a_worker_killed_before_the_end_of_a_run_leaves_it_to_another(
    stack: Stack, client: Client, table: str, tmp_path: Path
) -> None:
    client.ingest(table, "a", "b", wait=True)
    reached = tmp_path / "reached"
    stack.start(WORKER, failpoints=f"run.before_finish=stop@{reached}")
    reply = client.call("POST", "/v1/compaction/run", {"table": table, "wait_seconds": 0})
    assert reply.status == 202, reply.body
    run_id = reply.json()["run_id"]
    assert reply.headers["Location"] == f"/v1/runs/{run_id}"
    wait_for(reached, seconds=40)
    stack.kill(WORKER)
    stack.start(WORKER, failpoints="")
    run = ended(client, run_id)
    assert (run["state"], run["table_name"]) == ("succeeded", table)
    reply = client.call("POST", "/v1/integrity/run", {"table": table, "wait_seconds": 60})
    assert reply.status == 200, reply.body
    assert reply.json()["summary"]["missing_files"] == 0


def test_a_run_that_redis_has_forgotten_is_computed_all_the_same(stack: Stack, client: Client, table: str) -> None:
    stack.stop("beat")
    reply = client.call("POST", "/v1/compaction/run", {"table": table, "wait_seconds": 0})
    time.sleep(0.5)
    with redis.Redis.from_url(stack.redis.url) as server:
        server.flushall()
    stack.start(WORKER)
    assert client.get(reply.headers["Location"])["state"] == "queued"
    stack.start("beat")
    assert ended(client, reply.json()["run_id"])["state"] == "succeeded"


def test_what_integrity_finds_is_named_to_whoever_asked(stack: Stack, client: Client, table: str) -> None:
    client.ingest(table, "a", "b", wait=True)
    stack.start(WORKER)
    asked = {"table": table, "mode": "deep", "wait_seconds": 60}
    healthy = client.call("POST", "/v1/integrity/run", asked)
    assert healthy.status == 200, healthy.body
    assert healthy.json()["summary"]["checksum_mismatch_files"] == 0
    (path,) = (stack.home.root / "objects" / stack.tenant / table).rglob("*.parquet")
    path.write_bytes(b"X" + path.read_bytes()[1:])
    reply = client.call("POST", "/v1/integrity/run", asked)
    assert (reply.status, reply.json()["error_code"]) == (409, "INTEGRITY_CHECK_FAILED")
    context = reply.json()["context"]
    assert context["summary"]["checksum_mismatch_files"] == 1
    (found,) = context["findings"]
    assert (found["kind"], found["detail"]["rows_lost"]) == ("checksum_mismatch", 2)
    assert path.as_posix().endswith(found["object_key"])
    run = client.get(f"/v1/runs/{context['run_id']}")
    assert (run["state"], run["findings"]) == ("failed", [found])
