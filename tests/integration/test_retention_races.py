"""Retention beside whoever keeps, changes and reads what it would delete."""

import secrets
import threading
from dataclasses import replace
from datetime import timedelta

import pytest
from django.conf import settings
from django.db import connection, transaction

from catalog.collect import tombstone_files
from catalog.holds import take_file_hold
from catalog.models import DataFile, FileHold, Snapshot
from catalog.pins import pin_snapshot
from catalog.publish import lock_head
from catalog.readset import read_set
from duckmesh.kernel.config import QUERY_SLACK
from maintenance.job import Kind, Scope, Workplace
from maintenance.jobs import jobs
from maintenance.ladder import RetentionPolicy
from maintenance.retention import perform
from maintenance.rules import RetentionOptions
from storage.factory import StoreSettings, open_store
from tests.ages import advance
from tests.factories import make_table, make_tenant
from tests.keeping import (
    GRACE,
    LIMITS,
    LONG,
    ONLY_LATEST,
    SAFETY,
    check_reachable,
    named,
    put_file,
    put_orphan,
    retain,
    stored,
)
from tests.lake import Lake
from tests.progress import Recorder
from tests.swift import ACCESS_KEY, SECRET_KEY, shared_swift, unavailable_because
from tests.together import Background, together, wait_until_blocked

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def tenant_id(lake: Lake) -> str:
    """A tenant with the snapshots 0 to 4, each file of which the next one replaces."""
    tenant_id = make_tenant()
    table_id = make_table(tenant_id=tenant_id).table_id
    replaced: list[int] = []
    for _ in range(3):
        replaced = [put_file(lake.store, tenant_id, table_id, removed=replaced)]
    return tenant_id


def tombstoned() -> int:
    return DataFile.objects.filter(tombstoned_at__isnull=False).count()


def tombstone(tenant_id: str) -> int:
    return tombstone_files(tenant_id=tenant_id, table_id=None, unreferenced_for=SAFETY, most=1_000)


def test_pin_that_comes_between_verdict_and_expiry_holds(lake: Lake, tenant_id: str) -> None:
    with transaction.atomic():
        lock_head(tenant_id=tenant_id)
        run = Background(lambda: retain(lake))
        wait_until_blocked(1)
        pin_snapshot(tenant_id=tenant_id, snapshot_id=2, name="late", actor="test")
    summary = run.result()
    assert isinstance(summary, dict)
    assert summary["snapshots_expired"] == 3
    assert set(Snapshot.objects.values_list("snapshot_id", flat=True)) == {2, 4}
    check_reachable(tenant_id, lake.store)


def test_hold_that_is_being_taken_is_waited_for_and_keeps_the_files(lake: Lake, tenant_id: str) -> None:
    with transaction.atomic():
        take_file_hold(kind=FileHold.Kind.BACKUP, name="b")
        expiry = Background(lambda: retain(lake))
        wait_until_blocked(1)
    expiry.result()
    advance(LONG, only="data_file")
    advance(2 * LONG, only="file_hold")
    with transaction.atomic():
        lock_head(tenant_id=tenant_id)
        marking = Background(lambda: tombstone(tenant_id))
        wait_until_blocked(1)
    assert marking.result() == 0
    assert tombstoned() == 0


def test_hold_waits_for_the_tombstones_that_are_being_set(lake: Lake, tenant_id: str) -> None:
    retain(lake)
    advance(LONG)
    with transaction.atomic():
        assert tombstone(tenant_id) == 2
        taking = Background(lambda: take_file_hold(kind=FileHold.Kind.BACKUP, name="b"))
        wait_until_blocked(1)
        assert not taking.done
    taking.result()
    assert retain(lake)["files_deleted"] == 2


def test_publications_and_retention_side_by_side_lose_nothing(lake: Lake, tenant_id: str) -> None:
    table_id = DataFile.objects.latest("file_id").table_id
    over = threading.Event()

    def publish() -> int:
        try:
            last = [DataFile.objects.get(intervals__removed_in=None).file_id]
            for _ in range(30):
                last = [put_file(lake.store, tenant_id, table_id, removed=last)]
            return len(last)
        finally:
            over.set()

    def collect() -> int:
        deleted = 0
        while not over.is_set():
            # Not all tables: a transaction that moves the rows of a publication under way would wait for it.
            advance(LONG, only="data_file")
            deleted += retain(lake)["files_deleted"]
        return deleted

    _, deleted = together([publish, collect])
    check_reachable(tenant_id, lake.store)
    retain(lake)
    advance(LONG)
    deleted += retain(lake)["files_deleted"]
    assert deleted == 32
    assert stored(lake.store) == named(tenant_id)
    assert len(stored(lake.store)) == 1


def test_query_that_lasts_its_full_deadline_finds_every_file(lake: Lake, tenant_id: str) -> None:
    longest = settings.DUCKMESH.max_query_timeout
    read = read_set(tenant_id=tenant_id, names=["events"], snapshot_id=2)
    assert read is not None
    keys = {file.path for file in read.tables["events"].files}
    limits = replace(LIMITS, safety_age=longest + QUERY_SLACK, least_safety_age=longest + QUERY_SLACK)

    def collect() -> int:
        done = perform(
            scope=Scope(),
            options=RetentionOptions(orphans=True),
            place=Workplace(store=lake.store, scratch=lake.root),
            policy=ONLY_LATEST,
            limits=limits,
            progress=Recorder(),
        )
        return int(str(done["files_deleted"]))

    assert collect() == 0
    assert read_set(tenant_id=tenant_id, names=["events"], snapshot_id=2) is None, "the snapshot has expired"
    advance(longest)
    assert collect() == 0
    assert keys <= stored(lake.store)
    advance(QUERY_SLACK)
    assert collect() == 2


def test_configuration_sets_how_soon_a_run_may_delete() -> None:
    config = settings.DUCKMESH
    job = jobs(config)[Kind.RETENTION]
    assert job.options is RetentionOptions
    assert config.gc_safety_age > max(config.max_query_timeout + QUERY_SLACK, config.attempt_limit)


@pytest.mark.s3
def test_objects_go_in_bulk_from_an_s3_service(lake: Lake) -> None:
    if reason := unavailable_because():
        pytest.skip(reason)
    store = open_store(
        StoreSettings(
            url=f"s3://gc-{secrets.token_hex(4)}/lake",
            endpoint=shared_swift().host,
            access_key=ACCESS_KEY,
            secret_key=SECRET_KEY,
            secure=False,
            autocreate_bucket=True,
        )
    )
    tenant_id = make_tenant()
    table_id = make_table(tenant_id=tenant_id).table_id
    last: list[int] = []
    for _ in range(12):
        last = [put_file(store, tenant_id, table_id, removed=last)]
    orphans = {put_orphan(store, tenant_id, number) for number in range(3)}
    retain(lake, store=store)
    assert len(stored(store)) == 15
    advance(GRACE + timedelta(seconds=1))
    missing = min(DataFile.objects.filter(unreferenced_since__isnull=False).values_list("path", flat=True))
    store.delete_many([missing])
    done = retain(lake, store=store)
    assert (done["files_deleted"], done["orphans_deleted"], done["objects_undeleted"]) == (11, 3, 0)
    assert stored(store) == named(tenant_id)
    assert not orphans & stored(store)
    check_reachable(tenant_id, store)


_MANY = """
WITH head AS (
  UPDATE tenant_catalog SET snapshot_seq = %(last)s, snapshot_time = clock_timestamp() WHERE tenant_id = %(tenant)s
), snapshots AS (
  INSERT INTO snapshot (tenant_id, snapshot_id, parent_id, snapshot_time, visible_token, kind, created_by, summary)
  SELECT %(tenant)s, i, i - 1, clock_timestamp() - (%(last)s - i) * interval '500 ms' - interval '2 hours', 0, 'ingest',
         'test', '{}'
    FROM generate_series(%(first)s, %(last)s) i
), files AS (
  INSERT INTO data_file (tenant_id, table_id, path, row_count, size_bytes, sha256, content_algorithm, content_hash,
                         schema_version, partition_values, column_stats, min_token, max_token, level, folded)
  SELECT %(tenant)s, %(table)s, %(tenant)s || '/many/' || i, 1, 1, repeat('a', 64), 'test', 1, 1, '{}', '{}', 1, 1, 0,
         false
    FROM generate_series(%(first)s, %(last)s) i RETURNING file_id, path
), intervals AS (
  INSERT INTO snapshot_file (file_id, tenant_id, table_id, added_in, removed_in)
  SELECT file_id, %(tenant)s, %(table)s, number, CASE WHEN number < %(last)s THEN least(number + 20, %(last)s) END
    FROM (SELECT file_id, split_part(path, '/', 3)::bigint AS number FROM files) numbered
)
INSERT INTO snapshot_table_watermark (tenant_id, snapshot_id, table_id, max_token, row_count, file_count, size_bytes)
SELECT %(tenant)s, i, %(table)s, 1, 20, 20, 20 FROM generate_series(%(first)s, %(last)s) i
"""


def _history(tenant_id: str, snapshots: int) -> None:
    """So many snapshots more, two a second up to two hours ago, each with a file that the 20th after it replaces."""
    table_id = make_table(tenant_id=tenant_id, name="many").table_id
    first = Snapshot.objects.filter(tenant_id=tenant_id).latest("snapshot_id").snapshot_id + 1
    given = {"tenant": tenant_id, "table": table_id, "first": first, "last": first + snapshots - 1}
    with connection.cursor() as cursor:
        cursor.execute("UPDATE snapshot SET snapshot_time = snapshot_time - interval '30 hours'")
        cursor.execute(_MANY, given)
        cursor.execute("UPDATE tenant_catalog SET stored_files = 0, stored_bytes = 0")
        cursor.execute("ANALYZE snapshot, data_file, snapshot_file, snapshot_table_watermark")


def _expire(lake: Lake, snapshots: int) -> list[float]:
    """What is left of such a history is one snapshot a minute; seconds of each slice."""
    tenant_id = make_tenant()
    _history(tenant_id, snapshots)
    progress = Recorder()
    done = retain(lake, policy=RetentionPolicy(), progress=progress, orphans=False)
    kept = Snapshot.objects.filter(tenant_id=tenant_id).count()
    assert done["snapshots_expired"] == snapshots + 2 - kept
    assert snapshots // 120 - 1 <= kept - 2 <= snapshots // 120 + 2
    assert len([phase for phase in progress.phases if phase == "expire"]) == -(-int(done["snapshots_expired"]) // 500)
    marked = DataFile.objects.filter(tenant_id=tenant_id, unreferenced_since__isnull=False).count()
    assert snapshots * 0.6 < marked < snapshots
    return progress.seconds


def test_a_long_history_expires_in_slices(lake: Lake) -> None:
    _expire(lake, 1_500)


@pytest.mark.long
@pytest.mark.timeout(900)
def test_fifty_thousand_snapshots_expire_in_slices_that_nobody_notices(lake: Lake) -> None:
    seconds = sorted(_expire(lake, 50_000))
    print(f"{len(seconds)} slices, median {seconds[len(seconds) // 2]:.3f} s, longest {seconds[-1]:.3f} s")
    assert seconds[-1] < 20 * max(seconds[len(seconds) // 2], 0.05), "a slice costs what it expires, not what there is"
