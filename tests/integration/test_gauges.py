"""What a scrape reads beside the lag: queues, consumers, claims, beat's tick, files that wait for compaction."""

import json
import time
from collections.abc import Iterator
from datetime import timedelta

import pytest
import redis
from django.conf import settings
from django.db import connection
from django.utils import timezone
from prometheus_client.core import GaugeMetricFamily

from api.gauges import database
from api.gauges.reading import Reading, Server
from catalog.models import Snapshot
from catalog.publish import publish_snapshot
from duckmesh.celery import app
from duckmesh.devstack.programs import free_port
from duckmesh.kernel import queues
from ingest.backlog import claims
from ingest.models import IngestClaimBatch
from ingest.tick import last_tick, tick
from maintenance.inventory import load_inventory
from maintenance.job import JobOptions, Kind, Scope
from maintenance.models import CompactionRun, GcRun, IntegrityRun, Run
from maintenance.runs import request_run
from maintenance.standing import standing
from maintenance.tiers import CompactionPolicy, by_partition, gathers, merges
from maintenance.waiting import files_waiting
from tests.factories import make_file, make_table, make_tenant

pytestmark = pytest.mark.django_db(transaction=True)

KEYS = [*queues.QUEUES, *(f"duckmesh:consumers:{queue}" for queue in queues.QUEUES)]


@pytest.fixture
def server() -> Iterator[redis.Redis]:
    """Redis with nothing in the queues."""
    with queues.client(settings.DUCKMESH.redis_url, within=1) as made:
        made.delete(*KEYS)
        yield made
        made.delete(*KEYS)


def state(server: redis.Redis, queue: str, *, now: float) -> queues.QueueState:
    return next(each for each in queues.look(server, now=now) if each.queue == queue)


def test_a_queue_tells_its_depth_and_how_long_the_first_message_has_waited(server: redis.Redis) -> None:
    assert state(server, "maintenance", now=time.time()) == queues.QueueState(
        queue="maintenance", depth=0, oldest_seconds=0, consumers=0
    )
    began = time.time()
    for _ in range(3):
        app.send_task("query.tasks.keep_house")
    found = state(server, "maintenance", now=began + 60)
    assert found.depth == 3
    assert 50 < found.oldest_seconds <= 60


def test_a_message_of_somebody_else_has_no_age(server: redis.Redis) -> None:
    server.lpush("drill", json.dumps({"body": "", "headers": {}}))
    found = state(server, "drill", now=time.time())
    assert (found.depth, found.oldest_seconds) == (1, 0)


def test_a_consumer_counts_until_it_leaves_or_has_been_silent(server: redis.Redis) -> None:
    announcers = [
        queues.Announcer(server, queues=["materialize", "drill"], consumer=f"worker-{number}") for number in range(2)
    ]
    for announcer in announcers:
        announcer.beat()
    counts = {each.queue: each.consumers for each in queues.look(server, now=time.time())}
    assert counts == {"materialize": 2, "maintenance": 0, "drill": 2}
    announcers[0].end()
    assert state(server, "materialize", now=time.time()).consumers == 1
    server.zincrby("duckmesh:consumers:materialize", -queues.SILENT_AFTER - 1, "worker-1")
    assert state(server, "materialize", now=time.time()).consumers == 0


def test_a_consumer_does_not_mind_that_redis_is_away() -> None:
    nowhere = queues.client(f"redis://127.0.0.1:{free_port()}/0", within=0.2)
    announcer = queues.Announcer(nowhere, queues=["drill"], consumer="worker")
    announcer.beat()
    announcer.end()


def test_a_claim_whose_lease_ran_out_is_counted_until_somebody_ends_it() -> None:
    assert (claims().expired, claims().oldest_seconds) == (0, 0)
    now = timezone.now()
    for minutes in (-1, 1):
        IngestClaimBatch.objects.create(
            tenant_id=make_tenant(),
            consumer_id="worker",
            epoch=1,
            lease_until=now + timedelta(minutes=minutes),
            envelope_limit=1,
            claimed_at=now - timedelta(minutes=5),
        )
    found = claims()
    assert found.expired == 1
    assert 299 < found.oldest_seconds < 400


def test_a_tick_is_remembered_and_not_written_each_time() -> None:
    assert last_tick() is None
    tick()
    first = last_tick()
    assert first is not None
    assert abs(timezone.now() - first) < timedelta(minutes=1)
    tick()
    assert last_tick() == first
    with connection.cursor() as cursor:
        cursor.execute("UPDATE beat_tick SET ticked_at = ticked_at - interval '6 seconds'")
    tick()
    again = last_tick()
    assert again is not None and again >= first


@pytest.mark.parametrize("key", [(), ("id",)])
def test_files_waiting_are_those_that_a_compaction_would_take(key: tuple[str, ...]) -> None:
    policy = CompactionPolicy(min_input_files=5, target_file_bytes=1_000_000, max_fresh_files=3)
    take = gathers if key else merges
    expected = {}
    for sizes in ([5_000] * 2, [5_000] * 5 + [600_000] * 2, [150_000] * 4, [5_000] * 4):
        tenant_id = make_tenant()
        table_id = make_table(tenant_id=tenant_id, primary_key_cols=key).table_id
        added = [make_file(table_id=table_id, size_bytes=size) for size in sizes]
        publish_snapshot(tenant_id=tenant_id, kind=Snapshot.Kind.INGEST, actor="test", added=added)
        files = load_inventory(tenant_id=tenant_id, table_id=table_id).files
        chunks = [chunk for group in by_partition(files) for chunk in take(group, policy)]
        expected[tenant_id] = sum(map(len, chunks))
    assert sorted(expected.values()) == ([0, 4, 4, 7] if key else [0, 0, 4, 5])
    assert files_waiting(policy) == {tenant_id: count for tenant_id, count in expected.items() if count}


def test_room_in_postgresql_is_what_the_server_says() -> None:
    values = {family.name: family.samples[0].value for family in database.read_room()}
    assert 1 <= values["duckmesh_database_connections"] < values["duckmesh_database_connections_limit"]
    with connection.cursor() as cursor:
        cursor.execute("SELECT current_setting('max_connections')::int")
        assert 0 < values["duckmesh_database_connections_limit"] <= cursor.fetchone()[0]
    assert values["duckmesh_database_bytes"] > 2**20


def test_a_reader_that_fails_or_is_slow_takes_no_other_with_it() -> None:
    def broken() -> list[GaugeMetricFamily]:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1/0")
        return []

    def slow() -> list[GaugeMetricFamily]:
        time.sleep(2)
        return []

    servers = {
        "postgresql": Server(readers={"broken": broken, "room": database.read_room}, in_database=True),
        "machine": Server(readers={"quick": list, "slow": slow}),
    }
    reading = Reading(servers, within=timedelta(seconds=1))
    found = reading.read()
    assert found["broken"] is None
    assert found["slow"] is None
    assert found["room"]
    assert found["quick"] == []


def ended(model: type[Run], *, minutes_ago: int, state: str, **values: object) -> None:
    at = timezone.now() - timedelta(minutes=minutes_ago)
    model._default_manager.create(
        state=state, requested_by="test", requested_at=at, started_at=at, ended_at=at, **values
    )


def test_a_subject_fails_until_its_newest_run_succeeds() -> None:
    first, second = make_tenant(), make_tenant()
    for tenant_id, minutes_ago, state in ((first, 9, "failed"), (first, 8, "succeeded"), (second, 9, "failed")):
        ended(GcRun, minutes_ago=minutes_ago, state=state, tenant_id=tenant_id)
    ended(GcRun, minutes_ago=1, state="succeeded", tenant_id=second, options={"dry_run": True})
    ended(GcRun, minutes_ago=1, state="cancelled", tenant_id=second)
    assert standing(Kind.RETENTION).failing == 1
    ended(GcRun, minutes_ago=0, state="succeeded", tenant_id=second)
    assert standing(Kind.RETENTION).failing == 0


def test_findings_are_those_of_the_newest_run_of_each_mode() -> None:
    for minutes_ago, mode, missing in ((9, "deep", 2), (8, "quick", 5), (7, "quick", 0)):
        ended(
            IntegrityRun,
            minutes_ago=minutes_ago,
            state="failed" if missing else "succeeded",
            options={"mode": mode},
            summary={"missing_files": missing},
        )
    found = standing(Kind.INTEGRITY)
    assert (found.failing, found.findings["missing_files"], found.findings["orphan_files"]) == (1, 2, 0)


def test_objects_of_writes_that_may_be_under_way_are_told_apart_from_orphans() -> None:
    summary = {"orphan_files": 5, "orphan_files_in_grace": 3}
    ended(IntegrityRun, minutes_ago=1, state="succeeded", options={"mode": "quick"}, summary=summary)
    found = standing(Kind.INTEGRITY)
    assert (found.failing, found.findings["orphan_files"], found.findings["orphan_files_in_grace"]) == (0, 2, 3)


def test_live_runs_are_told_apart_by_whether_somebody_computes() -> None:
    now = timezone.now()
    tenants = [make_tenant() for _ in range(3)]
    request_run(kind=Kind.COMPACTION, scope=Scope(tenant_id=tenants[0]), options=JobOptions(), requested_by="test")
    for tenant_id, minutes in zip(tenants[1:], (1, -1), strict=True):
        CompactionRun.objects.create(
            tenant_id=tenant_id,
            state="running",
            requested_by="test",
            started_at=now,
            lease_until=now + timedelta(minutes=minutes),
        )
    found = standing(Kind.COMPACTION)
    assert (found.queued, found.running, found.expired) == (1, 1, 1)
    assert 0 < found.oldest_queued_seconds < 60
