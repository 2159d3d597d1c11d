"""Snapshots expire by the policy; files go after the safety age, and nothing before."""

import itertools
from collections.abc import Callable
from datetime import timedelta

import pytest
from django.db.models import F

from catalog.errors import TenantNotFound
from catalog.history import list_snapshots, show_snapshot
from catalog.holds import narrow_file_hold, release_file_hold, take_file_hold
from catalog.models import (
    DataFile,
    FileHold,
    Snapshot,
    SnapshotFile,
    SnapshotPin,
    SnapshotTableWatermark,
    TableDef,
    TableSchemaVersion,
)
from catalog.pins import pin_snapshot, unpin_snapshot
from catalog.snapshots import resolve
from catalog.tables import drop_table, live_tables
from duckmesh.kernel.clock import now
from duckmesh.kernel.errors import DuckMeshError, Invalid
from ingest.models import IngestClaimItem, IngestEvent
from ingest.restores import order_restore
from maintenance.errors import RunCancelled, RunLost, SafetyAgeTooShort
from maintenance.job import Scope
from maintenance.ladder import RetentionPolicy
from maintenance.models import MaintenancePolicy
from storage.errors import StoreUnavailable
from storage.local import LocalStore
from storage.store import Keys
from tests.ages import advance
from tests.factories import make_snapshot, make_table, make_tenant
from tests.keeping import LONG, SAFETY, check_counters, check_reachable, named, retain, stored
from tests.lake import Lake, record, write
from tests.progress import Recorder
from tests.tables import compact, rows_at

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def tenant_id(lake: Lake) -> str:
    """A tenant with the snapshots 0 to 4: two files, merged into one in the last."""
    tenant_id = make_tenant()
    make_table(tenant_id=tenant_id)
    fill(lake, tenant_id, "a", "b")
    compact(lake, tenant_id)
    return tenant_id


def fill(lake: Lake, tenant_id: str, *identities: str, table: str = "events") -> None:
    for identity in identities:
        write(tenant_id, [record(identity)], table=table)
        assert lake.materialize(tenant_id) == 1


def forget_writes(tenant_id: str) -> None:
    """As housekeeping does in time."""
    IngestClaimItem.objects.all().delete()
    IngestEvent.objects.filter(tenant_id=tenant_id).delete()


def ids(tenant_id: str) -> list[int]:
    return sorted(Snapshot.objects.filter(tenant_id=tenant_id).values_list("snapshot_id", flat=True))


def identities(lake: Lake, tenant_id: str, snapshot_id: int | None = None) -> list[str]:
    return sorted(row["id"] for row in rows_at(lake, tenant_id, snapshot_id=snapshot_id))


def test_files_of_expired_snapshots_go_after_the_safety_age_and_the_rest_stays(lake: Lake, tenant_id: str) -> None:
    before = stored(lake.store)
    first = retain(lake)
    assert (first["snapshots_expired"], first["files_deleted"]) == (4, 0)
    assert ids(tenant_id) == [4]
    assert stored(lake.store) == before
    advance(SAFETY - timedelta(minutes=1))
    assert retain(lake)["files_deleted"] == 0
    gone = DataFile.objects.filter(unreferenced_since__isnull=False)
    size = sum(gone.values_list("size_bytes", flat=True))
    advance(timedelta(minutes=1, seconds=1))
    last = retain(lake)
    assert (last["files_deleted"], last["bytes_deleted"]) == (2, size)
    assert len(stored(lake.store)) == 1
    assert stored(lake.store) == named(tenant_id)
    assert SnapshotFile.objects.filter(tenant_id=tenant_id).count() == 1
    check_reachable(tenant_id, lake.store)
    assert identities(lake, tenant_id) == ["a", "b"]
    again = retain(lake)
    assert not any(count for name, count in again.items() if name not in ("tenants", "tenants_swept"))


def test_policy_is_told_by_the_ages_that_the_database_gave(lake: Lake, tenant_id: str) -> None:
    policy = RetentionPolicy()
    assert retain(lake, policy=policy)["snapshots_expired"] == 0
    advance(timedelta(hours=2))
    retain(lake, policy=policy)
    assert ids(tenant_id)[-1] == 4
    times = Snapshot.objects.values_list("snapshot_time", flat=True)
    assert len({time.replace(second=0, microsecond=0) for time in times}) == len(times)
    advance(timedelta(days=31))
    retain(lake, policy=policy)
    assert ids(tenant_id) == [4]


def test_options_override_the_policy_of_the_configuration(lake: Lake, tenant_id: str) -> None:
    retain(lake, policy=RetentionPolicy(), keep_last=2, keep_all_for="0s", ladder="")
    assert ids(tenant_id) == [3, 4]


def test_pinned_snapshot_keeps_its_files_until_its_pin_goes(lake: Lake, tenant_id: str) -> None:
    pin_snapshot(tenant_id=tenant_id, snapshot_id=3, name="audit", actor="test")
    retain(lake)
    advance(LONG)
    retain(lake)
    assert ids(tenant_id) == [3, 4]
    assert identities(lake, tenant_id, 3) == ["a", "b"]
    assert len(stored(lake.store)) == 3
    unpin_snapshot(tenant_id=tenant_id, name="audit")
    assert retain(lake)["files_deleted"] == 0, "the safety age begins when the last snapshot goes"
    advance(LONG)
    assert retain(lake)["files_deleted"] == 2


def test_pin_past_its_time_holds_nothing(lake: Lake, tenant_id: str) -> None:
    pin_snapshot(
        tenant_id=tenant_id, snapshot_id=3, name="short", actor="test", expires_at=now() + timedelta(minutes=5)
    )
    retain(lake)
    assert ids(tenant_id) == [3, 4]
    advance(timedelta(minutes=6))
    retain(lake)
    assert ids(tenant_id) == [4]
    assert not SnapshotPin.objects.exists()


def test_snapshot_of_a_restore_that_waits_stays_and_is_restored(lake: Lake, tenant_id: str) -> None:
    order_restore(tenant_id=tenant_id, snapshot_id=2, actor="test")
    retain(lake)
    advance(LONG)
    retain(lake)
    assert ids(tenant_id) == [2, 4]
    assert lake.materialize(tenant_id) == 1
    assert identities(lake, tenant_id) == ["a"]
    retain(lake)
    advance(LONG)
    retain(lake)
    assert identities(lake, tenant_id) == ["a"]
    check_reachable(tenant_id, lake.store)
    assert stored(lake.store) == named(tenant_id)
    assert len(named(tenant_id)) == 1


def test_file_that_comes_back_loses_its_mark(lake: Lake, tenant_id: str) -> None:
    pin_snapshot(tenant_id=tenant_id, snapshot_id=2, name="audit", actor="test")
    retain(lake)
    assert DataFile.objects.filter(unreferenced_since__isnull=False).count() == 1
    order_restore(tenant_id=tenant_id, snapshot_id=2, actor="test")
    assert lake.materialize(tenant_id) == 1
    DataFile.objects.filter(intervals__removed_in=None).update(unreferenced_since=F("created_at") - 2 * SAFETY)
    retain(lake)
    assert identities(lake, tenant_id) == ["a"]
    check_reachable(tenant_id, lake.store)
    assert not DataFile.objects.filter(intervals__removed_in=None, unreferenced_since__isnull=False).exists()


def test_hold_keeps_files_and_lets_them_go(lake: Lake, tenant_id: str) -> None:
    hold = take_file_hold(kind=FileHold.Kind.BACKUP, name="b")
    retain(lake)
    advance(LONG)
    assert retain(lake)["files_deleted"] == 0
    reasons = {item["key"]: item["reason"] for item in retain(lake, dry_run=True)["objects"]}
    assert set(reasons.values()) == {"held by the backup b"}
    narrow_file_hold(hold_id=hold.hold_id)
    assert retain(lake)["files_deleted"] == 0
    release_file_hold(hold_id=hold.hold_id)
    assert retain(lake)["files_deleted"] == 2


def test_drill_that_was_killed_holds_nothing_after_its_time(lake: Lake, tenant_id: str) -> None:
    take_file_hold(kind=FileHold.Kind.DRILL, name="d", expires_in=timedelta(minutes=40))
    retain(lake)
    advance(LONG)
    assert retain(lake)["files_deleted"] == 0
    advance(timedelta(minutes=10))
    assert retain(lake)["files_deleted"] == 2


def test_totals_of_expired_snapshots_go_and_kept_ones_read_the_same(lake: Lake, tenant_id: str) -> None:
    make_table(tenant_id=tenant_id, name="quiet")
    fill(lake, tenant_id, "q", table="quiet")
    fill(lake, tenant_id, "c", "d", "e")
    for kept in (3, 8):
        pin_snapshot(tenant_id=tenant_id, snapshot_id=kept, name=f"pin{kept}", actor="test")
    before = {at: show_snapshot(tenant_id=tenant_id, snapshot_id=at).tables for at in (3, 8, 9)}
    rows = SnapshotTableWatermark.objects.filter(tenant_id=tenant_id)
    assert rows.count() == 7
    retain(lake)
    assert ids(tenant_id) == [3, 8, 9]
    assert {at: show_snapshot(tenant_id=tenant_id, snapshot_id=at).tables for at in (3, 8, 9)} == before
    assert sorted(rows.values_list("snapshot_id", flat=True)) == [3, 6, 8, 9]


def test_dropped_table_goes_with_the_last_snapshot_that_has_it(lake: Lake, tenant_id: str) -> None:
    drop_table(tenant_id=tenant_id, name="events", actor="test")
    pin_snapshot(tenant_id=tenant_id, snapshot_id=4, name="audit", actor="test")
    retain(lake)
    advance(LONG)
    retain(lake)
    assert identities(lake, tenant_id, 4) == ["a", "b"]
    unpin_snapshot(tenant_id=tenant_id, name="audit")
    assert retain(lake)["tables_removed"] == 0
    advance(LONG)
    assert retain(lake)["tables_removed"] == 0, "its writes are remembered"
    forget_writes(tenant_id)
    assert retain(lake)["tables_removed"] == 1
    assert stored(lake.store) == set()
    for model in (TableDef, TableSchemaVersion, SnapshotTableWatermark, DataFile):
        assert not model._default_manager.exists()
    check_counters(tenant_id)
    assert [item.tables for item in list_snapshots(tenant_id=tenant_id, before=None, limit=9)] == [()]


def test_snapshot_that_took_a_table_away_is_listed_when_the_table_is_gone(lake: Lake, tenant_id: str) -> None:
    pin_snapshot(tenant_id=tenant_id, snapshot_id=0, name="empty", actor="test")
    order_restore(tenant_id=tenant_id, snapshot_id=0, actor="test")
    assert lake.materialize(tenant_id) == 1
    assert resolve(tenant_id=tenant_id).snapshot_id == 5
    forget_writes(tenant_id)
    retain(lake)
    advance(LONG)
    assert retain(lake)["tables_removed"] == 1
    assert [item.tables for item in list_snapshots(tenant_id=tenant_id, before=None, limit=9)] == [(), ()]


def test_table_that_came_back_stays(lake: Lake, tenant_id: str) -> None:
    drop_table(tenant_id=tenant_id, name="events", actor="test")
    order_restore(tenant_id=tenant_id, snapshot_id=4, actor="test")
    lake.materialize(tenant_id)
    drop_table(tenant_id=tenant_id, name="events", actor="test")
    pin_snapshot(tenant_id=tenant_id, snapshot_id=4, name="old", actor="test")
    retain(lake)
    advance(LONG)
    assert retain(lake)["tables_removed"] == 0
    assert identities(lake, tenant_id, 4) == ["a", "b"]
    unpin_snapshot(tenant_id=tenant_id, name="old")
    forget_writes(tenant_id)
    retain(lake)
    advance(LONG)
    assert retain(lake)["tables_removed"] == 1


def test_run_of_a_table_deletes_its_files_and_expires_nothing(lake: Lake, tenant_id: str) -> None:
    make_table(tenant_id=tenant_id, name="other")
    fill(lake, tenant_id, "x", "y", table="other")
    compact(lake, tenant_id, "other")
    retain(lake)
    advance(LONG)
    make_snapshot(tenant_id=tenant_id)
    tables = live_tables(tenant_id=tenant_id).tables
    done = retain(lake, scope=Scope(tenant_id=tenant_id, table_id=tables["other"].table_id))
    assert (done["files_deleted"], done["snapshots_expired"], done["tenants_swept"]) == (2, 0, 0)
    assert len([key for key in stored(lake.store) if "/events/" in key]) == 3


def test_run_of_a_tenant_leaves_the_others_alone(lake: Lake, tenant_id: str) -> None:
    other = make_tenant()
    make_table(tenant_id=other)
    fill(lake, other, "a", "b")
    assert retain(lake, scope=Scope(tenant_id=tenant_id))["snapshots_expired"] == 4
    assert ids(other) == [0, 1, 2, 3]
    with pytest.raises(TenantNotFound):
        retain(lake, scope=Scope(tenant_id="nobody"))


def test_safety_age_below_what_queries_need_is_refused(lake: Lake, tenant_id: str) -> None:
    with pytest.raises(SafetyAgeTooShort):
        retain(lake, safety_age="14m")
    retain(lake)
    advance(timedelta(minutes=16))
    assert retain(lake)["files_deleted"] == 0
    assert retain(lake, safety_age="15m")["files_deleted"] == 2


def test_policy_of_a_tenant_holds_in_every_run_that_does_not_ask_for_less(lake: Lake, tenant_id: str) -> None:
    other = make_tenant()
    make_table(tenant_id=other)
    every = timedelta(minutes=1)
    own = {"keep_all_for": "30d", "safety_age": "2h", "orphans": False}
    policy = MaintenancePolicy.objects.create(
        kind="retention", name="default", tenant_id=tenant_id, interval=every, options=own
    )
    assert retain(lake)["snapshots_expired"] == 1, "the other's"
    assert ids(tenant_id) == [0, 1, 2, 3, 4]
    assert retain(lake, dry_run=True)["snapshots_expired"] == 0
    retain(lake, keep_all_for="0s")
    assert ids(tenant_id) == [4]
    advance(LONG)
    assert retain(lake)["files_deleted"] == 0
    advance(timedelta(hours=2))
    assert retain(lake)["files_deleted"] == 2
    MaintenancePolicy.objects.filter(pk=policy.pk).update(options={"keep_all_for": "long"})
    make_snapshot(tenant_id=tenant_id)
    with pytest.raises(Invalid):
        retain(lake)
    assert ids(tenant_id) == [4, 5]


def test_dry_run_lists_all_with_reasons_and_changes_nothing(lake: Lake, tenant_id: str) -> None:
    pin_snapshot(tenant_id=tenant_id, snapshot_id=0, name="audit", actor="test")
    files = list(DataFile.objects.order_by("file_id").values_list("path", flat=True))
    plan = retain(lake, dry_run=True)
    assert (plan["snapshots_expired"], plan["files_deleted"]) == (3, 0)
    assert [(item["from"], item["to"], item["expires"], item["reason"]) for item in plan["snapshots"]] == [
        (4, 4, False, "the latest"),
        (1, 3, True, "older than 0ms"),
        (0, 0, False, "pinned as audit"),
    ]
    assert {item["key"]: item["deleted"] for item in plan["objects"]} == dict.fromkeys(files[:2], False)
    assert ids(tenant_id) == [0, 1, 2, 3, 4]
    retain(lake)
    waiting = retain(lake, dry_run=True)["objects"]
    assert all("not before" in item["reason"] and not item["deleted"] for item in waiting)
    advance(LONG)
    plan = retain(lake, dry_run=True)
    assert plan["files_deleted"] == 2
    assert {item["key"] for item in plan["objects"] if item["deleted"]} == set(files[:2])
    assert stored(lake.store) == set(files)
    done = retain(lake)
    assert (done["files_deleted"], done["bytes_deleted"]) == (plan["files_deleted"], plan["bytes_deleted"])


class Failing(LocalStore):
    """A store that deletes only what `allowed` says, and fails altogether where that raises."""

    allowed: Callable[[str], bool]

    def delete_many(self, keys: object) -> Keys:
        assert isinstance(keys, list)
        refused = [key for key in keys if not self.allowed(key)]
        return [*refused, *super().delete_many(key for key in keys if key not in refused)]


def test_what_the_store_does_not_delete_keeps_its_row_and_is_tried_again(lake: Lake, tenant_id: str) -> None:
    retain(lake)
    advance(LONG)
    spared = min(DataFile.objects.filter(unreferenced_since__isnull=False).values_list("path", flat=True))
    store = Failing(root=lake.root / "objects")
    store.allowed = lambda key: key != spared
    done = retain(lake, store=store)
    assert (done["files_deleted"], done["objects_undeleted"]) == (1, 1)
    assert spared in named(tenant_id) & stored(lake.store)
    check_counters(tenant_id)
    done = retain(lake)
    assert (done["files_deleted"], done["objects_undeleted"]) == (1, 0)
    assert stored(lake.store) == named(tenant_id)
    check_counters(tenant_id)


def test_store_that_is_away_leaves_rows_and_counters_as_they_are(lake: Lake, tenant_id: str) -> None:
    def away(_: str) -> bool:
        raise StoreUnavailable("away")

    retain(lake)
    advance(LONG)
    store = Failing(root=lake.root / "objects")
    store.allowed = away
    with pytest.raises(StoreUnavailable):
        retain(lake, store=store)
    assert DataFile.objects.filter(tombstoned_at__isnull=False).count() == 2
    check_counters(tenant_id)
    assert retain(lake)["files_deleted"] == 2
    check_counters(tenant_id)


def test_run_that_is_stopped_anywhere_is_finished_by_the_next(lake: Lake, tenant_id: str) -> None:
    other = make_tenant()
    make_table(tenant_id=other)
    fill(lake, other, "a", "b")
    compact(lake, other)

    def stop_everywhere(error: DuckMeshError) -> int:
        for call in itertools.count(1):
            try:
                retain(lake, progress=Recorder(fail_at=call, error=error))
            except type(error):
                for each in (tenant_id, other):
                    check_reachable(each, lake.store)
            else:
                return call
        raise AssertionError

    assert stop_everywhere(RunCancelled("stop")) > 3
    assert len(stored(lake.store)) == 6
    advance(LONG)
    assert stop_everywhere(RunLost("lost")) > 4
    assert stored(lake.store) == named(tenant_id) | named(other)
    assert len(stored(lake.store)) == 2


def test_run_that_is_taken_over_goes_on_behind_the_tenants_that_are_done(lake: Lake, tenant_id: str) -> None:
    other = make_tenant(prefix="zz")
    make_table(tenant_id=other)
    first = Recorder()
    assert retain(lake, progress=first)["snapshots_expired"] == 5
    make_snapshot(tenant_id=tenant_id)
    make_snapshot(tenant_id=other)
    saved = {**first.cursor, "tenant": tenant_id}
    assert retain(lake, progress=Recorder(cursor=saved))["snapshots_expired"] == 6
    assert len(ids(tenant_id)) == 2, "this tenant was done"


def test_history_of_a_run_tells_what_was_deleted_and_why(lake: Lake, tenant_id: str) -> None:
    first, second = Recorder(), Recorder()
    retain(lake, progress=first)
    assert [name for name, _ in first.steps] == ["expired"]
    facts = first.steps[0][1]
    assert (facts["snapshots"], facts["first"], facts["last"], facts["why"]) == (4, 0, 3, ["older than 0ms"])
    advance(LONG)
    keys = sorted(DataFile.objects.filter(unreferenced_since__isnull=False).values_list("path", flat=True))
    retain(lake, progress=second)
    name, facts = second.steps[0]
    assert (name, facts["objects"], facts["why"]) == ("deleted", 2, "named by no snapshot for 30m")
    assert sorted(map(str, facts["first_keys"] if isinstance(facts["first_keys"], list) else [])) == keys
