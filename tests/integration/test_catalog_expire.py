"""Snapshots go cleanly, never partly, and never under a pin."""

from collections.abc import Callable
from datetime import timedelta

import pytest
from django.db import transaction
from django.db.models.functions import Now

from catalog.errors import PinExists, PinNotFound, SnapshotExpired, SnapshotNotFound, SnapshotPinned
from catalog.expire import expire_snapshots
from catalog.manifests import files_at
from catalog.models import DataFile, SnapshotPin
from catalog.pins import get_pin, pin_snapshot, unpin_snapshot
from catalog.publish import lock_head
from catalog.snapshots import resolve
from duckmesh.kernel.clock import now
from duckmesh.kernel.errors import DuckMeshError, Invalid
from tests.factories import make_snapshot, make_table, make_tenant
from tests.together import Background, wait_until_blocked

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def tenant_id() -> str:
    """A tenant with the snapshots 0 to 5; the files of 2 and 3 are replaced in 4."""
    tenant_id = make_tenant()
    table_id = make_table(tenant_id=tenant_id).table_id
    make_snapshot(tenant_id=tenant_id, table_id=table_id)
    make_snapshot(tenant_id=tenant_id, table_id=table_id)
    make_snapshot(tenant_id=tenant_id, table_id=table_id, removed=file_ids(tenant_id, 3))
    make_snapshot(tenant_id=tenant_id, table_id=table_id)
    return tenant_id


def file_ids(tenant_id: str, snapshot_id: int) -> list[int]:
    tables = DataFile.objects.filter(tenant_id=tenant_id).values_list("table_id", flat=True)
    files = files_at(tenant_id=tenant_id, snapshot_id=snapshot_id, table_ids=set(tables))
    return [file.file_id for group in files.values() for file in group]


def unreferenced(tenant_id: str) -> set[int]:
    marked = DataFile.objects.filter(tenant_id=tenant_id, unreferenced_since__isnull=False)
    return set(marked.values_list("file_id", flat=True))


def test_expired_snapshot_is_gone_and_the_others_are_whole(tenant_id: str) -> None:
    kept = {snapshot_id: file_ids(tenant_id, snapshot_id) for snapshot_id in (3, 4, 5)}
    assert expire_snapshots(tenant_id=tenant_id, snapshot_ids=[1, 2]) == [1, 2]
    for snapshot_id in (1, 2):
        with pytest.raises(SnapshotExpired):
            resolve(tenant_id=tenant_id, snapshot_id=snapshot_id)
    assert {snapshot_id: file_ids(tenant_id, snapshot_id) for snapshot_id in (3, 4, 5)} == kept
    assert unreferenced(tenant_id) == set(), "snapshot 3 still names every file"


def test_files_that_no_kept_snapshot_names_are_marked_once(tenant_id: str) -> None:
    replaced = set(file_ids(tenant_id, 3))
    expire_snapshots(tenant_id=tenant_id, snapshot_ids=[2])
    assert unreferenced(tenant_id) == set()
    expire_snapshots(tenant_id=tenant_id, snapshot_ids=[3])
    assert unreferenced(tenant_id) == replaced
    since = list(DataFile.objects.filter(file_id__in=replaced).values_list("unreferenced_since", flat=True))
    expire_snapshots(tenant_id=tenant_id, snapshot_ids=[4])
    again = list(DataFile.objects.filter(file_id__in=replaced).values_list("unreferenced_since", flat=True))
    assert again == since
    assert unreferenced(tenant_id) == replaced, "what the latest snapshot names is never marked"


def test_expiring_twice_changes_nothing(tenant_id: str) -> None:
    assert expire_snapshots(tenant_id=tenant_id, snapshot_ids=[1, 1, 77]) == [1]
    assert expire_snapshots(tenant_id=tenant_id, snapshot_ids=[1]) == []


def test_latest_snapshot_cannot_expire(tenant_id: str) -> None:
    with pytest.raises(Invalid):
        expire_snapshots(tenant_id=tenant_id, snapshot_ids=[1, 5])
    assert resolve(tenant_id=tenant_id, snapshot_id=1).snapshot_id == 1


def test_pinned_snapshot_does_not_expire_until_it_is_unpinned(tenant_id: str) -> None:
    pin_snapshot(tenant_id=tenant_id, snapshot_id=2, name="audit", actor="test")
    with pytest.raises(SnapshotPinned):
        expire_snapshots(tenant_id=tenant_id, snapshot_ids=[1, 2])
    assert resolve(tenant_id=tenant_id, snapshot_id=1).snapshot_id == 1, "all or nothing"
    unpin_snapshot(tenant_id=tenant_id, name="audit")
    assert expire_snapshots(tenant_id=tenant_id, snapshot_ids=[1, 2]) == [1, 2]


def test_pin_holds_no_longer_than_it_was_asked_to(tenant_id: str) -> None:
    pin_snapshot(tenant_id=tenant_id, snapshot_id=2, name="short", actor="test", expires_at=now() + timedelta(hours=1))
    with pytest.raises(SnapshotPinned):
        expire_snapshots(tenant_id=tenant_id, snapshot_ids=[2])
    SnapshotPin.objects.filter(tenant_id=tenant_id).update(expires_at=Now() - timedelta(seconds=1))
    assert expire_snapshots(tenant_id=tenant_id, snapshot_ids=[2]) == [2]
    with pytest.raises(PinNotFound):
        get_pin(tenant_id=tenant_id, name="short")


def test_pin_of_another_tenant_holds_nothing(tenant_id: str) -> None:
    other = make_tenant()
    pin_snapshot(tenant_id=other, snapshot_id=0, name="audit", actor="test")
    assert expire_snapshots(tenant_id=tenant_id, snapshot_ids=[0]) == [0]
    with pytest.raises(PinNotFound):
        unpin_snapshot(tenant_id=tenant_id, name="audit")


def test_pin_needs_a_snapshot_and_a_free_name(tenant_id: str) -> None:
    pin_snapshot(tenant_id=tenant_id, snapshot_id=2, name="audit", actor="test")
    with pytest.raises(PinExists):
        pin_snapshot(tenant_id=tenant_id, snapshot_id=3, name="audit", actor="test")
    with pytest.raises(SnapshotNotFound):
        pin_snapshot(tenant_id=tenant_id, snapshot_id=99, name="future", actor="test")
    expire_snapshots(tenant_id=tenant_id, snapshot_ids=[1])
    with pytest.raises(SnapshotExpired):
        pin_snapshot(tenant_id=tenant_id, snapshot_id=1, name="late", actor="test")
    assert get_pin(tenant_id=tenant_id, name="audit").snapshot_id == 2


@pytest.mark.parametrize("name", ["", "a b", "-a", "a/b", "a" * 64, "ä", "a\n"])
def test_pin_with_an_ill_formed_name_is_invalid(tenant_id: str, name: str) -> None:
    with pytest.raises(Invalid):
        pin_snapshot(tenant_id=tenant_id, snapshot_id=2, name=name, actor="test")


def test_expiry_beside_an_open_pin_waits_and_gives_way(tenant_id: str) -> None:
    with transaction.atomic():
        pin_snapshot(tenant_id=tenant_id, snapshot_id=2, name="audit", actor="test")
        expiry = Background(lambda: expire_snapshots(tenant_id=tenant_id, snapshot_ids=[2]))
        wait_until_blocked(1)
        assert not expiry.done
    with pytest.raises(SnapshotPinned):
        expiry.result()
    assert resolve(tenant_id=tenant_id, snapshot_id=2).snapshot_id == 2


def test_pin_beside_an_open_expiry_waits_and_gives_way(tenant_id: str) -> None:
    with transaction.atomic():
        expire_snapshots(tenant_id=tenant_id, snapshot_ids=[2])
        pin = Background(lambda: pin_snapshot(tenant_id=tenant_id, snapshot_id=2, name="audit", actor="test"))
        wait_until_blocked(1)
        assert not pin.done
    with pytest.raises(SnapshotExpired):
        pin.result()
    assert not SnapshotPin.objects.filter(tenant_id=tenant_id).exists()


@pytest.mark.parametrize("first", ["pin", "expire"])
def test_pin_and_expiry_from_one_moment_never_both_commit(tenant_id: str, first: str) -> None:
    def pin() -> object:
        return pin_snapshot(tenant_id=tenant_id, snapshot_id=2, name="audit", actor="test")

    def expire() -> object:
        return expire_snapshots(tenant_id=tenant_id, snapshot_ids=[2])

    order: list[Callable[[], object]] = [pin, expire] if first == "pin" else [expire, pin]
    with transaction.atomic():
        lock_head(tenant_id=tenant_id)
        attempts = []
        for number, attempt in enumerate(order, start=1):
            attempts.append(Background(attempt))
            wait_until_blocked(number)
    outcomes: list[type[DuckMeshError] | None] = []
    for background in attempts:
        try:
            background.result()
        except DuckMeshError as exc:
            outcomes.append(type(exc))
        else:
            outcomes.append(None)
    refused = SnapshotPinned if first == "pin" else SnapshotExpired
    assert outcomes == [None, refused]


def test_time_between_kept_snapshots_is_expired(tenant_id: str) -> None:
    times = [resolve(tenant_id=tenant_id, snapshot_id=n).snapshot_time for n in range(6)]
    before = {n: resolve(tenant_id=tenant_id, snapshot_time=times[n]).snapshot_id for n in range(6)}
    assert before == {n: n for n in range(6)}
    expire_snapshots(tenant_id=tenant_id, snapshot_ids=[2, 3])
    tick = timedelta(microseconds=1)
    assert resolve(tenant_id=tenant_id, snapshot_time=times[1]).snapshot_id == 1
    assert resolve(tenant_id=tenant_id, snapshot_time=times[2] - tick).snapshot_id == 1
    for gone in (times[2], times[3], times[4] - tick):
        with pytest.raises(SnapshotExpired):
            resolve(tenant_id=tenant_id, snapshot_time=gone)
    assert resolve(tenant_id=tenant_id, snapshot_time=times[4]).snapshot_id == 4


def test_time_stays_expired_when_its_neighbours_go_one_after_the_other(tenant_id: str) -> None:
    times = [resolve(tenant_id=tenant_id, snapshot_id=n).snapshot_time for n in range(6)]
    tick = timedelta(microseconds=1)
    for gone in (3, 2, 4):
        expire_snapshots(tenant_id=tenant_id, snapshot_ids=[gone])
    assert resolve(tenant_id=tenant_id, snapshot_time=times[2] - tick).snapshot_id == 1
    for instant in (times[2], times[3], times[4], times[5] - tick):
        with pytest.raises(SnapshotExpired):
            resolve(tenant_id=tenant_id, snapshot_time=instant)
    expire_snapshots(tenant_id=tenant_id, snapshot_ids=[0, 1])
    for instant in (times[0], times[1], times[2] - tick):
        with pytest.raises(SnapshotExpired):
            resolve(tenant_id=tenant_id, snapshot_time=instant)


def test_time_before_the_tenant_is_not_found_and_the_future_is_invalid(tenant_id: str) -> None:
    first = resolve(tenant_id=tenant_id, snapshot_id=0).snapshot_time
    with pytest.raises(SnapshotNotFound):
        resolve(tenant_id=tenant_id, snapshot_time=first - timedelta(days=1))
    with pytest.raises(Invalid):
        resolve(tenant_id=tenant_id, snapshot_time=now() + timedelta(minutes=1))
    with pytest.raises(Invalid):
        resolve(tenant_id=tenant_id, snapshot_id=1, snapshot_time=first)
    assert resolve(tenant_id=tenant_id, snapshot_time=now() - timedelta(milliseconds=1)).snapshot_id == 5


def test_time_just_before_the_first_snapshot_is_not_found(tenant_id: str) -> None:
    first = resolve(tenant_id=tenant_id, snapshot_id=0).snapshot_time
    with pytest.raises(SnapshotNotFound):
        resolve(tenant_id=tenant_id, snapshot_time=first - timedelta(microseconds=1))


def test_past_time_waits_for_the_publication_that_is_under_way(tenant_id: str) -> None:
    with transaction.atomic():
        published = make_snapshot(tenant_id=tenant_id)
        asked = published.snapshot_time + timedelta(microseconds=1)
        answer = Background(lambda: resolve(tenant_id=tenant_id, snapshot_time=asked).snapshot_id)
        wait_until_blocked(1)
        assert not answer.done
    assert answer.result() == published.snapshot_id


@pytest.mark.parametrize("snapshot_id", [-1, -(2**70), 6, 2**31, 2**63, 2**80])
def test_snapshot_that_never_was_is_not_found(tenant_id: str, snapshot_id: int) -> None:
    with pytest.raises(SnapshotNotFound):
        resolve(tenant_id=tenant_id, snapshot_id=snapshot_id)
