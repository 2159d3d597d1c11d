"""A compaction that dies at any step has changed nothing that a query sees; the next one finishes its work."""

import signal
from typing import Any

import pytest

from catalog.models import DataFile
from catalog.snapshots import resolve
from catalog.tables import live_tables
from ingest import failed
from maintenance.compaction import planned
from maintenance.tiers import CompactionPolicy
from tests.compactor import run_compactor
from tests.factories import make_table, make_tenant
from tests.lake import Lake, fail_oldest, record, write, write_ids
from tests.tables import compact, rows_at, state_at

pytestmark = pytest.mark.django_db(transaction=True)

KINDS = ("merge", "clean", "settle", "gather")
STEPS = ("after_read", "after_put", "before_commit", "after_commit")


@pytest.fixture
def tenant_id(lake: Lake) -> str:
    """A tenant with slices of every kind to be done: files to merge, and operations before and after a failed write."""
    tenant_id = make_tenant()
    make_table(tenant_id=tenant_id)
    make_table(tenant_id=tenant_id, name="keyed", primary_key_cols=["id"])
    for identity in "ab":
        write_ids(tenant_id, identity)
        assert lake.materialize(tenant_id) == 1
    put(tenant_id, a=1, b=1)
    assert lake.materialize(tenant_id) == 1
    compact(lake, tenant_id, "keyed")
    put(tenant_id, b=2)
    assert lake.materialize(tenant_id) == 1
    put(tenant_id, a=3, c=3)
    fail_oldest(tenant_id)
    for n in (4, 5):
        put(tenant_id, b=n)
        assert lake.materialize(tenant_id) == 1
    return tenant_id


def put(tenant_id: str, **numbers: int) -> None:
    write(tenant_id, [record(key, n=n, key=None) for key, n in numbers.items()], table="keyed")


def shown(lake: Lake, tenant_id: str, *, snapshot_id: int | None = None) -> Any:
    """What a query sees of both tables."""
    keyed = state_at(lake, tenant_id, "keyed", snapshot_id=snapshot_id)
    rows = rows_at(lake, tenant_id, snapshot_id=snapshot_id)
    return sorted(row["id"] for row in rows), {key: row["n"] for key, row in keyed.items()}


def require_finished_after_a_kill(lake: Lake, tenant_id: str, failpoint: str) -> None:
    """A compaction killed there leaves at most an orphan, and the next one finishes; the failed write still fits in."""
    before, expected = resolve(tenant_id=tenant_id), (["a", "b"], {"a": 1, "b": 5})
    status, _ = run_compactor(tenant_id, lake.root, failpoints=f"{failpoint}=kill")
    assert status == -signal.SIGKILL
    named = set(DataFile.objects.filter(tenant_id=tenant_id).values_list("path", flat=True))
    stored = {info.key for info in lake.store.list("")}
    assert named <= stored
    assert len(stored - named) == ("after_put" in failpoint or "before_commit" in failpoint)
    assert shown(lake, tenant_id) == expected
    status, _ = run_compactor(tenant_id, lake.root)
    assert status == 0
    for table in live_tables(tenant_id=tenant_id).tables.values():
        assert planned(tenant_id=tenant_id, table_id=table.table_id, policy=CompactionPolicy().full()) == []
    assert shown(lake, tenant_id) == shown(lake, tenant_id, snapshot_id=before.snapshot_id) == expected
    assert resolve(tenant_id=tenant_id).visible_token == before.visible_token
    assert failed.replay_all(tenant_ids=[tenant_id], actor="test")
    assert lake.materialize(tenant_id)
    assert shown(lake, tenant_id) == (["a", "b"], {"a": 3, "b": 5, "c": 3})


@pytest.mark.parametrize(("kind", "step"), list(zip(KINDS, STEPS, strict=True)))
def test_compaction_killed_at_a_step_leaves_at_most_an_orphan(lake: Lake, tenant_id: str, kind: str, step: str) -> None:
    require_finished_after_a_kill(lake, tenant_id, f"compaction.{kind}.{step}")


@pytest.mark.long
@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("kind", KINDS)
def test_compaction_killed_at_any_step_of_any_slice_leaves_at_most_an_orphan(
    lake: Lake, tenant_id: str, kind: str, step: str
) -> None:
    require_finished_after_a_kill(lake, tenant_id, f"compaction.{kind}.{step}")
