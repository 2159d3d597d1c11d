"""Expiry in any order marks exactly the files that no kept snapshot names, and those at once."""

import random

import pytest

from catalog.expire import expire_snapshots
from catalog.models import DataFile, Snapshot, SnapshotFile
from tests.factories import make_snapshot, make_table, make_tenant

pytestmark = pytest.mark.django_db


def intervals(tenant_id: str) -> dict[int, list[tuple[int, int | None]]]:
    found: dict[int, list[tuple[int, int | None]]] = {}
    rows = SnapshotFile.objects.filter(tenant_id=tenant_id).order_by("added_in")
    for file_id, added, removed in rows.values_list("file_id", "added_in", "removed_in"):
        found.setdefault(file_id, []).append((added, removed))
    return found


def unnamed(tenant_id: str) -> set[int]:
    """The files that no kept snapshot names, found the slow way."""
    kept = list(Snapshot.objects.filter(tenant_id=tenant_id).values_list("snapshot_id", flat=True))
    return {
        file_id
        for file_id, spans in intervals(tenant_id).items()
        if not any(added <= s and (removed is None or s < removed) for added, removed in spans for s in kept)
    }


def marked(tenant_id: str) -> set[int]:
    files = DataFile.objects.filter(tenant_id=tenant_id, unreferenced_since__isnull=False)
    return set(files.values_list("file_id", flat=True))


@pytest.mark.parametrize("seed", range(4))
def test_expiry_in_any_order_marks_what_no_kept_snapshot_names(seed: int) -> None:
    choose = random.Random(seed)
    tenant_id, other = make_tenant(), make_tenant()
    table_id = make_table(tenant_id=tenant_id).table_id
    make_snapshot(tenant_id=other, table_id=make_table(tenant_id=other).table_id)
    make_snapshot(tenant_id=tenant_id, table_id=table_id, files=30)
    for _ in range(40):
        live = [file_id for file_id, spans in intervals(tenant_id).items() if spans[-1][1] is None]
        removed = choose.sample(live, k=choose.randint(0, min(3, len(live))))
        head = make_snapshot(
            tenant_id=tenant_id, table_id=table_id, files=choose.randint(0, 2), removed=removed
        ).snapshot_id
        if removed and choose.random() < 0.3:
            # As a restore does: a file that had gone is there again.
            head = make_snapshot(tenant_id=tenant_id).snapshot_id
            SnapshotFile.objects.create(file_id=removed[0], tenant_id=tenant_id, table_id=table_id, added_in=head)
    ids = list(range(head))
    while ids:
        first = choose.randrange(len(ids))
        some = ids[first : first + choose.randint(1, 12) : choose.choice((1, 1, 2, 3))]
        assert expire_snapshots(tenant_id=tenant_id, snapshot_ids=some) == some
        ids = [snapshot_id for snapshot_id in ids if snapshot_id not in some]
        assert marked(tenant_id) == unnamed(tenant_id)
    assert marked(other) == set()
