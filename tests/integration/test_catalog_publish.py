"""Snapshots of a tenant: published one after the other, whole or not at all."""

from datetime import timedelta
from functools import partial
from itertools import pairwise

import pytest

from catalog.errors import PublishConflict, TenantExists, TenantNotFound
from catalog.manifests import files_at
from catalog.models import DataFile, Snapshot, SnapshotFile, SnapshotTableWatermark, TenantCatalog
from catalog.publish import publish_snapshot
from catalog.snapshots import resolve, visible_tokens
from catalog.tables import drop_table, get_table
from catalog.tenants import create_tenant
from duckmesh.kernel.errors import Invalid
from tests.factories import make_file, make_snapshot, make_table, make_tenant
from tests.together import together

pytestmark = pytest.mark.django_db(transaction=True)


def live_ids(tenant_id: str, table_id: int, snapshot_id: int | None = None) -> list[int]:
    """The ids of the table's files in this snapshot, or the latest."""
    at = resolve(tenant_id=tenant_id, snapshot_id=snapshot_id).snapshot_id
    return [f.file_id for f in files_at(tenant_id=tenant_id, snapshot_id=at, table_ids=[table_id])[table_id]]


def test_new_tenant_has_an_empty_snapshot_0() -> None:
    tenant_id = make_tenant()
    latest = resolve(tenant_id=tenant_id)
    assert (latest.snapshot_id, latest.parent_id, latest.visible_token, latest.kind) == (0, None, 0, "create")
    with pytest.raises(TenantExists):
        create_tenant(tenant_id=tenant_id)


@pytest.mark.parametrize("tenant_id", ["", "Upper", "-a", "a/b", "..", "a" * 64, "ä", "a\n"])
def test_tenant_id_that_a_path_could_misread_is_refused(tenant_id: str) -> None:
    with pytest.raises(Invalid):
        create_tenant(tenant_id=tenant_id)


def test_snapshot_extends_the_latest_by_its_files() -> None:
    tenant_id = make_tenant()
    table = make_table(tenant_id=tenant_id)
    first = make_snapshot(tenant_id=tenant_id, table_id=table.table_id, files=2, watermark=20)
    second = make_snapshot(tenant_id=tenant_id, table_id=table.table_id)
    assert (second.snapshot_id, second.parent_id) == (first.snapshot_id + 1, first.snapshot_id)
    assert second.visible_token == 20, "without a watermark of its own it carries the one it extends"
    assert second.snapshot_time > first.snapshot_time
    before = live_ids(tenant_id, table.table_id, first.snapshot_id)
    after = live_ids(tenant_id, table.table_id)
    assert (len(before), len(after)) == (2, 3)
    assert set(before) < set(after)


def test_replaced_files_leave_and_stay_in_older_snapshots() -> None:
    tenant_id = make_tenant()
    table = make_table(tenant_id=tenant_id)
    before = make_snapshot(tenant_id=tenant_id, table_id=table.table_id, files=3, watermark=30)
    old = live_ids(tenant_id, table.table_id)
    make_snapshot(tenant_id=tenant_id, table_id=table.table_id, removed=old[:2])
    new = live_ids(tenant_id, table.table_id)
    assert old[2] in new and len(new) == 2
    assert live_ids(tenant_id, table.table_id, before.snapshot_id) == old


def test_compare_and_set_on_inputs_refuses_and_changes_nothing() -> None:
    tenant_id = make_tenant()
    table = make_table(tenant_id=tenant_id)
    make_snapshot(tenant_id=tenant_id, table_id=table.table_id, files=3)
    inputs = live_ids(tenant_id, table.table_id)
    make_snapshot(tenant_id=tenant_id, table_id=table.table_id, removed=inputs[:1])
    head = resolve(tenant_id=tenant_id)
    files = DataFile.objects.filter(tenant_id=tenant_id).count()
    with pytest.raises(PublishConflict):
        make_snapshot(tenant_id=tenant_id, table_id=table.table_id, removed=inputs)
    assert resolve(tenant_id=tenant_id) == head
    assert DataFile.objects.filter(tenant_id=tenant_id).count() == files
    assert SnapshotFile.objects.filter(tenant_id=tenant_id, removed_in=None).count() == 3


def test_two_compactions_of_the_same_files_do_not_both_win() -> None:
    tenant_id = make_tenant()
    table = make_table(tenant_id=tenant_id)
    make_snapshot(tenant_id=tenant_id, table_id=table.table_id, files=4)
    inputs = live_ids(tenant_id, table.table_id)

    def compact() -> str:
        try:
            make_snapshot(tenant_id=tenant_id, table_id=table.table_id, removed=inputs)
        except PublishConflict:
            return "conflict"
        return "published"

    assert sorted(together([compact] * 4)) == ["conflict"] * 3 + ["published"]
    assert len(live_ids(tenant_id, table.table_id)) == 1


def test_another_tenants_file_cannot_be_replaced() -> None:
    tenant_id, other = make_tenant(), make_tenant()
    table = make_table(tenant_id=other)
    make_snapshot(tenant_id=other, table_id=table.table_id)
    with pytest.raises(PublishConflict):
        make_snapshot(tenant_id=tenant_id, removed=live_ids(other, table.table_id))
    assert len(live_ids(other, table.table_id)) == 1


def test_file_of_another_tenants_table_is_refused() -> None:
    tenant_id, table = make_tenant(), make_table(tenant_id=make_tenant())
    with pytest.raises(PublishConflict):
        make_snapshot(tenant_id=tenant_id, table_id=table.table_id)
    assert resolve(tenant_id=tenant_id).snapshot_id == 0


def test_file_of_a_dropped_table_is_refused() -> None:
    tenant_id = make_tenant()
    table = make_table(tenant_id=tenant_id)
    drop_table(tenant_id=tenant_id, name="events", actor="test")
    head = resolve(tenant_id=tenant_id)
    with pytest.raises(PublishConflict):
        make_snapshot(tenant_id=tenant_id, table_id=table.table_id)
    assert resolve(tenant_id=tenant_id) == head


def test_watermark_never_falls() -> None:
    tenant_id = make_tenant()
    make_snapshot(tenant_id=tenant_id, watermark=7)
    make_snapshot(tenant_id=tenant_id, watermark=7)
    with pytest.raises(PublishConflict):
        make_snapshot(tenant_id=tenant_id, watermark=6)
    assert resolve(tenant_id=tenant_id).visible_token == 7
    assert visible_tokens(tenant_ids=[tenant_id, "nobody"]) == {tenant_id: 7}


def test_unknown_tenant_has_no_head() -> None:
    with pytest.raises(TenantNotFound):
        make_snapshot(tenant_id="nobody")
    with pytest.raises(TenantNotFound):
        resolve(tenant_id="nobody")


def test_totals_are_those_of_the_files() -> None:
    tenant_id = make_tenant()
    one, two = make_table(tenant_id=tenant_id, name="one"), make_table(tenant_id=tenant_id, name="two")
    files = [
        make_file(table_id=one.table_id, rows=5, first_token=1, size_bytes=100),
        make_file(table_id=two.table_id, rows=7, first_token=6, size_bytes=300),
        make_file(table_id=one.table_id, rows=1, first_token=13, size_bytes=50),
    ]
    first = publish_snapshot(tenant_id=tenant_id, kind=Snapshot.Kind.INGEST, actor="test", added=files, watermark=13)
    gone = live_ids(tenant_id, one.table_id)
    merged = make_file(table_id=one.table_id, rows=6, first_token=1, size_bytes=120)
    second = publish_snapshot(
        tenant_id=tenant_id, kind=Snapshot.Kind.COMPACTION, actor="test", added=[merged], removed=gone
    )

    def totals(snapshot_id: int) -> dict[int, tuple[int, int, int, int]]:
        rows = SnapshotTableWatermark.objects.filter(tenant_id=tenant_id, snapshot_id=snapshot_id)
        return {row.table_id: (row.max_token, row.row_count, row.file_count, row.size_bytes) for row in rows}

    assert totals(first.snapshot_id) == {one.table_id: (13, 6, 2, 150), two.table_id: (12, 7, 1, 300)}
    assert totals(second.snapshot_id) == {one.table_id: (13, 6, 1, 120)}, "changed tables only"
    summary = Snapshot.objects.get(tenant_id=tenant_id, snapshot_id=second.snapshot_id).summary
    assert summary == {"tables": [one.table_id], "added_files": 1, "removed_files": 2, "added_rows": 6}


def test_concurrent_publishers_give_consecutive_snapshots_in_the_order_of_time() -> None:
    tenant_id = make_tenant()
    table = make_table(tenant_id=tenant_id)
    first = resolve(tenant_id=tenant_id).snapshot_id

    def publish() -> list[int]:
        return [make_snapshot(tenant_id=tenant_id, table_id=table.table_id).snapshot_id for _ in range(15)]

    ids = [snapshot_id for published in together([publish] * 8) for snapshot_id in published]
    assert sorted(ids) == list(range(first + 1, first + 121))
    rows = list(Snapshot.objects.filter(tenant_id=tenant_id).order_by("snapshot_id"))
    assert [row.snapshot_id for row in rows] == list(range(first + 121))
    assert [row.parent_id for row in rows[1:]] == [row.snapshot_id for row in rows[:-1]]
    assert all(a.snapshot_time < b.snapshot_time for a, b in pairwise(rows))
    totals = SnapshotTableWatermark.objects.filter(table_id=table.table_id).order_by("snapshot_id")
    assert list(totals.values_list("file_count", "row_count")) == [(n, 10 * n) for n in range(1, 121)]


def test_tenants_publish_without_waiting_for_each_other() -> None:
    tenants = [make_tenant() for _ in range(4)]

    def publish(tenant_id: str) -> int:
        for _ in range(5):
            make_snapshot(tenant_id=tenant_id)
        return resolve(tenant_id=tenant_id).snapshot_id

    assert together([partial(publish, tenant_id) for tenant_id in tenants]) == [5] * 4


def test_snapshot_time_grows_although_the_clock_stands_behind() -> None:
    tenant_id = make_tenant()
    ahead = resolve(tenant_id=tenant_id).snapshot_time + timedelta(hours=1)
    TenantCatalog.objects.filter(tenant_id=tenant_id).update(snapshot_time=ahead)
    times = [make_snapshot(tenant_id=tenant_id).snapshot_time for _ in range(3)]
    assert times == [ahead + timedelta(microseconds=n) for n in (1, 2, 3)]


def test_table_is_found_in_any_case_and_only_once() -> None:
    tenant_id = make_tenant()
    table = make_table(tenant_id=tenant_id, name="Events")
    assert get_table(tenant_id=tenant_id, name="eVENTS").table_id == table.table_id
    assert get_table(tenant_id=tenant_id, name="events").name == "Events"
