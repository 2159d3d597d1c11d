"""Objects that no row names are deleted when they were seen long ago, and only what could be ours."""

import os
from datetime import timedelta

import pytest
from django.db import connection

from catalog.errors import StoreNotOurs
from catalog.identity import OWNER_KEY, renew_identity
from ingest.models import IngestStaged
from maintenance.errors import RunLost
from maintenance.job import Scope
from maintenance.models import OrphanSighting, OrphanSweep
from storage.local import LocalStore
from storage.store import Keys
from tests.ages import advance
from tests.factories import make_snapshot, make_table, make_tenant
from tests.keeping import GRACE, put_orphan, retain, stored
from tests.lake import Lake, record, write
from tests.progress import Recorder

pytestmark = pytest.mark.django_db(transaction=True)

LONG = GRACE + timedelta(seconds=1)


@pytest.fixture
def tenant_id() -> str:
    return make_tenant()


def put_payload(lake: Lake, tenant_id: str, *, row: bool) -> str:
    key = f"_staged/{tenant_id}/00000000-0000-4000-8000-000000000000.envelope"
    lake.store.put(key, b"rows")
    if row:
        IngestStaged.objects.create(tenant_id=tenant_id, path=key, size_bytes=4)
    return key


def test_orphan_goes_at_a_sighting_after_the_grace_and_not_before(lake: Lake, tenant_id: str) -> None:
    key = put_orphan(lake.store, tenant_id)
    advance(timedelta(days=365))
    assert retain(lake)["orphans_deleted"] == 0, "nobody has seen it before"
    advance(GRACE - timedelta(minutes=1))
    assert retain(lake)["orphans_deleted"] == 0
    assert stored(lake.store) == {key}
    advance(timedelta(minutes=1))
    done = retain(lake)
    assert (done["orphans_deleted"], done["orphan_bytes_deleted"]) == (1, 4)
    assert stored(lake.store) == set()
    assert not OrphanSighting.objects.exists()
    assert retain(lake)["orphans_deleted"] == 0


@pytest.mark.parametrize("modified", [0, 4_000_000_000])
def test_time_that_the_store_tells_changes_nothing(lake: Lake, tenant_id: str, modified: int) -> None:
    key = put_orphan(lake.store, tenant_id)
    os.utime(lake.root / "objects" / key, (modified, modified))
    retain(lake)
    assert retain(lake)["orphans_deleted"] == 0
    assert stored(lake.store) == {key}
    advance(LONG)
    assert retain(lake)["orphans_deleted"] == 1


def test_object_that_got_its_name_after_it_was_seen_is_never_deleted(lake: Lake, tenant_id: str) -> None:
    table_id = make_table(tenant_id=tenant_id).table_id
    key = put_orphan(lake.store, tenant_id)
    retain(lake)
    make_snapshot(tenant_id=tenant_id, table_id=table_id)
    with connection.cursor() as cursor:
        cursor.execute("UPDATE data_file SET path = %s", [key])
    advance(10 * LONG)
    assert retain(lake)["orphans_deleted"] == 0
    assert stored(lake.store) == {key}
    assert not OrphanSighting.objects.exists(), "it is no orphan any more"


def test_what_vanished_and_came_again_is_seen_for_the_first_time(lake: Lake, tenant_id: str) -> None:
    key = put_orphan(lake.store, tenant_id)
    retain(lake)
    lake.store.delete_many([key])
    retain(lake)
    put_orphan(lake.store, tenant_id)
    advance(LONG)
    assert retain(lake)["orphans_deleted"] == 0
    advance(LONG)
    assert retain(lake)["orphans_deleted"] == 1


def test_payload_without_a_row_goes_and_one_with_a_row_stays(lake: Lake, tenant_id: str) -> None:
    other = make_tenant()
    orphan, named = put_payload(lake, tenant_id, row=False), put_payload(lake, other, row=True)
    retain(lake)
    advance(LONG)
    assert retain(lake)["orphans_deleted"] == 1
    assert stored(lake.store) == {named}
    assert orphan != named


@pytest.mark.parametrize(
    "key",
    [
        "{tenant}/events/notes.txt",
        "{tenant}/events/date=2026-01-01/hour=00/part-1-1.parquet",
        "{tenant}/part-1-1-00000001-0000-4000-8000-000000000000.parquet",
        "{tenant}/a/part-1-1-00000001-0000-4000-8000-000000000000.parquet.bak",
        "{tenant}-2/events/hour=0/part-1-1-00000001-0000-4000-8000-000000000000.parquet",
        "nobody/events/hour=0/part-1-1-00000001-0000-4000-8000-000000000000.parquet",
        "_staged/{tenant}/x.envelope",
        "_staged/nobody/00000001-0000-4000-8000-000000000000.envelope",
        "_duckmesh/{tenant}/hour=0/part-1-1-00000001-0000-4000-8000-000000000000.parquet",
        "other/application/data.bin",
    ],
)
def test_what_could_not_be_ours_is_left_alone(lake: Lake, tenant_id: str, key: str) -> None:
    key = key.format(tenant=tenant_id)
    lake.store.put(key, b"theirs")
    ours = put_orphan(lake.store, tenant_id)
    retain(lake)
    advance(LONG)
    assert retain(lake)["orphans_deleted"] == 1
    assert stored(lake.store) == {key}
    assert ours not in stored(lake.store)


def test_sweep_comes_when_it_is_due(lake: Lake, tenant_id: str) -> None:
    assert retain(lake, orphans=None)["tenants_swept"] == 1
    assert retain(lake, orphans=None)["tenants_swept"] == 0
    assert retain(lake, orphans=False)["tenants_swept"] == 0
    advance(timedelta(minutes=61))
    assert retain(lake, orphans=False)["tenants_swept"] == 0
    assert retain(lake, orphans=None)["tenants_swept"] == 1
    assert OrphanSweep.objects.count() == 1


def test_sweep_that_is_stopped_neither_counts_nor_forgets(lake: Lake, tenant_id: str) -> None:
    put_orphan(lake.store, tenant_id)
    retain(lake)
    advance(LONG)
    with pytest.raises(RunLost):
        retain(lake, progress=Recorder(fail_at=1, error=RunLost("lost")))
    assert OrphanSighting.objects.count() == 1
    assert retain(lake, orphans=None)["orphans_deleted"] == 1


class Scrambled(LocalStore):
    """A store that lists in no order, and every object twice."""

    def list(self, prefix: str):  # type: ignore[no-untyped-def]
        found = [*super().list(prefix)] * 2
        return iter(sorted(found, key=lambda info: info.key[::-1]))


class Stubborn(LocalStore):
    """A store that says it cannot delete."""

    def delete_many(self, keys: object) -> Keys:
        assert isinstance(keys, list)
        return list(keys)


def test_order_of_the_listing_does_not_matter(lake: Lake, tenant_id: str) -> None:
    make_table(tenant_id=tenant_id)
    write(tenant_id, [record("a")])
    lake.materialize(tenant_id)
    named = stored(lake.store)
    for number in range(1, 8):
        put_orphan(lake.store, tenant_id, number)
    scrambled = Scrambled(root=lake.root / "objects")
    retain(lake, store=scrambled)
    advance(LONG)
    assert retain(lake, store=scrambled)["orphans_deleted"] == 7
    assert stored(lake.store) == named


def test_orphan_that_the_store_does_not_delete_is_tried_again(lake: Lake, tenant_id: str) -> None:
    key = put_orphan(lake.store, tenant_id)
    retain(lake)
    advance(LONG)
    done = retain(lake, store=Stubborn(root=lake.root / "objects"))
    assert (done["orphans_deleted"], done["objects_undeleted"]) == (0, 1)
    assert stored(lake.store) == {key}
    assert retain(lake)["orphans_deleted"] == 1


def test_dry_run_lists_orphans_and_records_nothing(lake: Lake, tenant_id: str) -> None:
    key = put_orphan(lake.store, tenant_id)
    (item,) = retain(lake, dry_run=True)["objects"]
    assert (item["key"], item["deleted"], item["reason"]) == (key, False, "no row names it; seen for the first time")
    assert not OrphanSighting.objects.exists()
    retain(lake)
    (item,) = retain(lake, dry_run=True)["objects"]
    assert not item["deleted"] and "not before" in item["reason"]
    advance(LONG)
    (item,) = retain(lake, dry_run=True)["objects"]
    assert item["deleted"]
    assert stored(lake.store) == {key}
    assert retain(lake, dry_run=True, orphans=False)["objects"] == []


def test_run_of_a_table_sweeps_nothing(lake: Lake, tenant_id: str) -> None:
    table = make_table(tenant_id=tenant_id)
    put_orphan(lake.store, tenant_id)
    assert retain(lake, scope=Scope(tenant_id=tenant_id, table_id=table.table_id))["tenants_swept"] == 0
    assert not OrphanSighting.objects.exists()


def test_restored_copy_deletes_neither_orphans_nor_files(lake: Lake, tenant_id: str) -> None:
    table_id = make_table(tenant_id=tenant_id).table_id
    write(tenant_id, [record("a")])
    lake.materialize(tenant_id)
    orphan = put_orphan(lake.store, tenant_id)
    retain(lake)
    make_snapshot(tenant_id=tenant_id, table_id=table_id)
    before = stored(lake.store)
    advance(LONG)
    renew_identity()
    with pytest.raises(StoreNotOurs):
        retain(lake)
    assert stored(lake.store) == before
    assert orphan in before
    assert OWNER_KEY in {info.key for info in lake.store.list("")}
