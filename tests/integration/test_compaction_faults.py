"""A compaction that dies at any step has changed nothing that a query sees; the next one finishes its work."""

import signal
from pathlib import Path

import pytest

from catalog.models import DataFile
from catalog.snapshots import resolve
from tests.compactor import run_compactor
from tests.factories import make_table, make_tenant
from tests.lake import Lake, record, write
from tests.tables import compact, state_at

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(tmp_path)


@pytest.fixture
def tenant_id(lake: Lake) -> str:
    """A tenant whose keyed table has a folded file with two rows, and two files of operations on one of them."""
    tenant_id = make_tenant()
    make_table(tenant_id=tenant_id, primary_key_cols=["id"])
    write(tenant_id, [record("a", n=1, key=None), record("b", n=1, key=None)])
    assert lake.materialize(tenant_id) == 1
    compact(lake, tenant_id)
    for n in (2, 3):
        write(tenant_id, [record("b", n=n, key=None)])
        assert lake.materialize(tenant_id) == 1
    return tenant_id


def compactor(lake: Lake, tenant_id: str, failpoints: str) -> int:
    """The exit status of a full compaction in a process of its own, on the database of this test."""
    return run_compactor(tenant_id, lake.root, failpoints=failpoints)[0]


def state(lake: Lake, tenant_id: str, *, snapshot_id: int | None = None) -> dict[str, int]:
    return {key: row["n"] for key, row in state_at(lake, tenant_id, snapshot_id=snapshot_id).items()}


# The slices of the fold: the folded file is cleaned, then the operations are settled.
@pytest.mark.parametrize(
    ("step", "orphans", "published"),
    [("after_read", 0, 0), ("after_put", 1, 0), ("before_commit", 1, 0), ("after_commit", 0, 1)],
)
def test_compaction_killed_at_a_step_leaves_at_most_an_orphan(
    lake: Lake, tenant_id: str, step: str, orphans: int, published: int
) -> None:
    before = resolve(tenant_id=tenant_id)
    assert compactor(lake, tenant_id, f"compaction.{step}=kill") == -signal.SIGKILL
    named = set(DataFile.objects.filter(tenant_id=tenant_id).values_list("path", flat=True))
    stored = {info.key for info in lake.store.list("")}
    assert named <= stored
    assert len(stored - named) == orphans
    assert resolve(tenant_id=tenant_id).snapshot_id == before.snapshot_id + published
    assert state(lake, tenant_id) == {"a": 1, "b": 3}
    assert compactor(lake, tenant_id, "") == 0
    live = DataFile.objects.filter(tenant_id=tenant_id, intervals__removed_in=None)
    assert set(live.values_list("folded", flat=True)) == {True}
    assert state(lake, tenant_id) == {"a": 1, "b": 3}
    assert state(lake, tenant_id, snapshot_id=before.snapshot_id) == {"a": 1, "b": 3}
    assert resolve(tenant_id=tenant_id).visible_token == before.visible_token
