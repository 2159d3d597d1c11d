"""A backup that is taken while tenants write, tables are compacted and old snapshots go."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from catalog.models import Snapshot, SnapshotTableWatermark
from catalog.snapshots import resolve
from maintenance.backup.keeping import drop_backup
from maintenance.job import Scope
from maintenance.ladder import RetentionPolicy
from maintenance.retention import perform
from maintenance.rules import RetentionLimits, RetentionOptions
from tests.backups import back_up, restore, second_database, workplace
from tests.factories import make_table, make_tenant
from tests.keeping import check_reachable, stored
from tests.lake import Lake, write_ids
from tests.progress import Recorder
from tests.tables import compact
from tests.together import Background

pytestmark = pytest.mark.django_db(transaction=True)

AT_ONCE = RetentionLimits(
    safety_age=timedelta(0), least_safety_age=timedelta(0), orphan_grace=timedelta(hours=1), sweep_every=timedelta(0)
)
NEWEST = RetentionPolicy(keep_last=2, keep_all_for=timedelta(0), rungs=())


def collect(lake: Lake) -> None:
    """Only the newest snapshots are kept, and what they do not name is deleted at once, unless it is held."""
    options = RetentionOptions(orphans=False)
    perform(scope=Scope(), options=options, place=workplace(lake), policy=NEWEST, limits=AT_ONCE, progress=Recorder())


@contextmanager
def repeated(function: Callable[[], object]) -> Iterator[None]:
    """The function is called again and again beside the block."""
    stopped: list[bool] = []

    def work() -> None:
        while not stopped:
            function()

    working = Background(work)
    try:
        yield
    finally:
        stopped.append(True)
        working.result()


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("backups", [1, 8])
def test_every_acknowledged_row_is_in_the_backup_and_readable(tmp_path: Path, backups: int) -> None:
    lake, root = Lake(tmp_path / "lake"), tmp_path / "backups"
    tenant_id = make_tenant()
    make_table(tenant_id=tenant_id)
    acknowledged: list[str] = []

    def write() -> None:
        identity = f"r{len(acknowledged)}"
        write_ids(tenant_id, identity)
        acknowledged.append(identity)

    acts: list[Callable[[], object]] = [
        write,
        lambda: lake.materialize(tenant_id),
        lambda: compact(lake, tenant_id),
        lambda: collect(lake),
    ]
    taken: dict[str, int] = {}
    with ExitStack() as moving:
        for act in acts:
            moving.enter_context(repeated(act))
        for number in range(backups):
            while resolve(tenant_id=tenant_id).visible_token < 20 * (number + 1):
                time.sleep(0.01)
            before = len(acknowledged)
            taken[back_up(lake, root).name] = before
            collect(lake)
    while lake.materialize(tenant_id):
        pass
    compact(lake, tenant_id)
    collect(lake)
    check_reachable(tenant_id, lake.store)
    for name, count in taken.items():
        with second_database():
            assert restore(lake, root, name=name).missing == 0
            for snapshot in Snapshot.objects.filter(tenant_id=tenant_id, snapshot_id__gt=0):
                totals = SnapshotTableWatermark.objects.filter(snapshot_id__lte=snapshot.snapshot_id)
                newest = totals.order_by("-snapshot_id").first()
                rows = lake.rows(tenant_id, snapshot_id=snapshot.snapshot_id)
                assert len(rows) == (newest.row_count if newest else 0)
            lake.materialize(tenant_id)
            rows = lake.rows(tenant_id)
            assert set(acknowledged[:count]) <= set(rows)
            assert set(rows.values()) == {1}
    held = stored(lake.store)
    for name in taken:
        drop_backup(root=root, name=name)
    collect(lake)
    assert stored(lake.store) < held, "what only the backups held goes with them"
    check_reachable(tenant_id, lake.store)
