"""One lock order: whatever changes a tenant's history at once, nobody waits in a circle and nothing half done stays."""

import itertools
import random
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from itertools import pairwise

import pytest

from catalog.expire import expire_snapshots
from catalog.manifests import files_at
from catalog.models import DataFile, Snapshot, SnapshotFile, SnapshotPin
from catalog.pins import pin_snapshot, unpin_snapshot
from catalog.snapshots import resolve
from catalog.tables import drop_table, tables_at
from duckmesh.kernel.errors import Conflict, Invalid, NotFound
from tests.factories import make_snapshot, make_table, make_tenant
from tests.together import together

pytestmark = pytest.mark.django_db(transaction=True)

SECONDS = 2.5


def test_everything_at_once_without_a_deadlock() -> None:
    tenant_id = make_tenant()
    steady = make_table(tenant_id=tenant_id, name="steady").table_id
    numbers = itertools.count()

    def latest() -> int:
        return resolve(tenant_id=tenant_id).snapshot_id

    def ingest() -> None:
        make_snapshot(tenant_id=tenant_id, table_id=steady, files=2)

    def compact() -> None:
        files = files_at(tenant_id=tenant_id, snapshot_id=latest(), table_ids=[steady])[steady]
        make_snapshot(tenant_id=tenant_id, table_id=steady, removed=[file.file_id for file in files[:5]])

    def define(chance: random.Random) -> None:
        name = f"t{chance.randrange(3)}"
        if chance.random() < 0.5:
            make_table(tenant_id=tenant_id, name=name)
        else:
            drop_table(tenant_id=tenant_id, name=name, actor="test")

    def pin(chance: random.Random) -> None:
        name = f"pin-{next(numbers)}"
        pin_snapshot(tenant_id=tenant_id, snapshot_id=max(0, latest() - chance.randrange(4)), name=name, actor="test")
        if chance.random() < 0.8:
            unpin_snapshot(tenant_id=tenant_id, name=name)

    def expire(chance: random.Random) -> None:
        newest = latest()
        expire_snapshots(tenant_id=tenant_id, snapshot_ids=chance.sample(range(newest + 1), k=min(2, newest)))

    def look(chance: random.Random) -> None:
        snapshot = resolve(tenant_id=tenant_id, snapshot_id=chance.randrange(latest() + 1))
        tables_at(tenant_id=tenant_id, snapshot_id=snapshot.snapshot_id)
        resolve(tenant_id=tenant_id, snapshot_time=snapshot.snapshot_time)

    def repeat(name: str, action: Callable[[], None]) -> Counter[str]:
        outcomes: Counter[str] = Counter()
        until = time.monotonic() + SECONDS
        while time.monotonic() < until:
            try:
                action()
                outcomes[name] += 1
            except (Conflict, NotFound, Invalid) as exc:  # a refusal by name is an answer; anything else is not
                outcomes[f"{name} refused: {exc.code}"] += 1
        return outcomes

    actions: list[tuple[str, Callable[[], None]]] = [
        ("ingest", ingest),
        ("ingest", ingest),
        ("compact", compact),
        ("define", partial(define, random.Random(1))),
        ("define", partial(define, random.Random(2))),
        ("pin", partial(pin, random.Random(3))),
        ("expire", partial(expire, random.Random(4))),
        ("look", partial(look, random.Random(5))),
    ]
    outcomes = sum(together([partial(repeat, name, action) for name, action in actions]), Counter[str]())
    assert all(outcomes[name] >= 5 for name, _ in actions), outcomes

    rows = list(Snapshot.objects.filter(tenant_id=tenant_id).order_by("snapshot_id"))
    made = 1 + sum(outcomes[name] for name in ("ingest", "compact", "define"))
    assert rows[-1].snapshot_id == latest() == made
    assert all(a.snapshot_time < b.snapshot_time for a, b in pairwise(rows))
    kept = {row.snapshot_id for row in rows}
    assert set(SnapshotPin.objects.filter(tenant_id=tenant_id).values_list("snapshot_id", flat=True)) <= kept
    check_marks(tenant_id, kept)


def check_marks(tenant_id: str, kept: set[int]) -> None:
    """A file is marked as unreferenced if and only if no kept snapshot names it."""
    expire_snapshots(tenant_id=tenant_id, snapshot_ids=[])
    intervals = SnapshotFile.objects.filter(tenant_id=tenant_id).values_list("file_id", "added_in", "removed_in")
    named = {
        file_id
        for file_id, added_in, removed_in in intervals
        if any(added_in <= snapshot_id and (removed_in is None or snapshot_id < removed_in) for snapshot_id in kept)
    }
    files = DataFile.objects.filter(tenant_id=tenant_id).values_list("file_id", "unreferenced_since")
    assert {file_id for file_id, since in files if since is None} == named
