"""A hold keeps what its owner could read, and an expiry or a deletion beside it cannot slip through."""

from datetime import timedelta

import pytest
from django.db import connection, transaction
from django.db.models import F
from django.db.models.functions import Now

from catalog.errors import HoldExists, HoldLost
from catalog.expire import expire_snapshots
from catalog.holds import (
    FILE_IS_HELD,
    Hold,
    extend_file_hold,
    keep_holds_away,
    narrow_file_hold,
    release_file_hold,
    take_file_hold,
)
from catalog.models import DataFile, FileHold
from tests.factories import make_snapshot, make_table, make_tenant
from tests.together import Background, wait_until_blocked

pytestmark = pytest.mark.django_db(transaction=True)

HOUR = timedelta(hours=1)


@pytest.fixture
def tenant_id() -> str:
    """A tenant whose snapshots 2 and 3 each have a file of their own that the next one has replaced."""
    tenant_id = make_tenant()
    table_id = make_table(tenant_id=tenant_id).table_id
    replaced: list[int] = []
    for _ in range(3):
        make_snapshot(tenant_id=tenant_id, table_id=table_id, removed=replaced)
        replaced = [DataFile.objects.latest("file_id").file_id]
    return tenant_id


def held() -> set[int]:
    with transaction.atomic(), connection.cursor() as cursor:
        keep_holds_away()
        cursor.execute(f"SELECT file_id FROM data_file f WHERE {FILE_IS_HELD}")
        return {row[0] for row in cursor.fetchall()}


def backup(name: str = "b", expires_in: timedelta | None = None) -> Hold:
    return take_file_hold(kind=FileHold.Kind.BACKUP, name=name, expires_in=expires_in)


def marked() -> list[int]:
    return list(
        DataFile.objects.filter(unreferenced_since__isnull=False).order_by("file_id").values_list("file_id", flat=True)
    )


def test_hold_keeps_what_became_unreferenced_after_it_and_nothing_else(tenant_id: str) -> None:
    expire_snapshots(tenant_id=tenant_id, snapshot_ids=[2])
    before = marked()
    hold = backup()
    expire_snapshots(tenant_id=tenant_id, snapshot_ids=[3])
    assert len(marked()) == 2
    assert held() == set(marked()) - set(before)
    release_file_hold(hold_id=hold.hold_id)
    assert held() == set()


def test_hold_keeps_what_became_unreferenced_when_the_clock_had_been_set_back(tenant_id: str) -> None:
    backup()
    FileHold.objects.update(created_at=F("created_at") + HOUR)
    expire_snapshots(tenant_id=tenant_id, snapshot_ids=[2])
    assert held() == set(marked())
    assert len(marked()) == 1


def test_narrowed_hold_lets_later_files_go(tenant_id: str) -> None:
    hold = backup()
    narrow_file_hold(hold_id=hold.hold_id)
    last = DataFile.objects.latest("file_id")
    make_snapshot(tenant_id=tenant_id, table_id=last.table_id, removed=[last.file_id])
    later = DataFile.objects.latest("file_id")
    make_snapshot(tenant_id=tenant_id, table_id=last.table_id, removed=[later.file_id])
    expire_snapshots(tenant_id=tenant_id, snapshot_ids=[0, 1, 2, 3, 4, 5])
    assert held() == set(marked()) - {later.file_id}
    assert later.file_id in marked()


def test_expired_hold_holds_nothing_and_cannot_come_back(tenant_id: str) -> None:
    hold = backup(expires_in=HOUR)
    expire_snapshots(tenant_id=tenant_id, snapshot_ids=[2])
    extend_file_hold(hold_id=hold.hold_id, expires_in=2 * HOUR)
    assert FileHold.objects.filter(expires_at__gt=Now() + HOUR).exists()
    assert held() == set(marked())
    FileHold.objects.update(expires_at=F("expires_at") - 3 * HOUR)
    assert held() == set()
    for attempt in (
        lambda: extend_file_hold(hold_id=hold.hold_id, expires_in=HOUR),
        lambda: narrow_file_hold(hold_id=hold.hold_id),
    ):
        with pytest.raises(HoldLost):
            attempt()


def test_two_holds_of_one_name_are_refused() -> None:
    backup("nightly")
    with pytest.raises(HoldExists):
        backup("nightly")
    take_file_hold(kind=FileHold.Kind.DRILL, name="nightly")


def test_hold_waits_for_the_expiry_that_has_read_its_clock(tenant_id: str) -> None:
    with transaction.atomic():
        expire_snapshots(tenant_id=tenant_id, snapshot_ids=[2])
        taking = Background(backup)
        wait_until_blocked(1)
        assert not taking.done
    hold = taking.result()
    assert isinstance(hold, Hold)
    assert DataFile.objects.filter(unreferenced_since__lt=hold.created_at).count() == 1
    assert held() == set(), "whoever reads the catalog now finds the snapshot gone"


def test_expiry_beside_a_hold_that_is_being_taken_marks_after_it(tenant_id: str) -> None:
    with transaction.atomic():
        hold = backup()
        expiry = Background(lambda: expire_snapshots(tenant_id=tenant_id, snapshot_ids=[2]))
        wait_until_blocked(1)
    expiry.result()
    assert DataFile.objects.filter(unreferenced_since__gte=hold.created_at).count() == 1
    assert held() == set(marked())


def test_extension_and_deletion_do_not_both_believe_their_clock(tenant_id: str) -> None:
    hold = backup(expires_in=HOUR)
    with transaction.atomic():
        keep_holds_away()
        extension = Background(lambda: extend_file_hold(hold_id=hold.hold_id, expires_in=HOUR))
        wait_until_blocked(1)
        assert not extension.done
    extension.result()
