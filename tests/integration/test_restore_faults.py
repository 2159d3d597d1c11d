"""Workers that die at each step of a restore: it is applied whole and once, or not yet."""

import os
import signal
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest
from django.conf import settings
from django.db import connection
from django.db.models.functions import Now

from catalog.models import Snapshot
from catalog.snapshots import resolve
from catalog.tables import tables_at
from ingest.models import IngestClaimBatch, IngestEvent
from ingest.restores import order_restore, restored_in
from tests.factories import make_table, make_tenant
from tests.lake import Lake, write_ids

pytestmark = pytest.mark.django_db(transaction=True)

ROOT = Path(__file__).resolve().parents[2]


def killed_at(lake: Lake, tenant_id: str, step: str) -> int:
    """The exit status of a worker that is killed at the step, on the database of this test."""
    address, _ = settings.DUCKMESH.database_url.rsplit("/", 1)
    environment = {
        **os.environ,
        "DUCKMESH_DATABASE_URL": f"{address}/{connection.settings_dict['NAME']}",
        "DUCKMESH_FAILPOINTS": f"{step}=kill",
    }
    command = [sys.executable, "-m", "tests.worker", tenant_id, str(lake.root)]
    return subprocess.run(command, cwd=ROOT, env=environment, timeout=60, check=False).returncode


@pytest.mark.parametrize(
    "step", ["materialize.after_claim", "restore.after_files", "materialize.before_commit", "materialize.after_commit"]
)
def test_a_restore_whose_worker_dies_is_applied_once(tmp_path: Path, step: str) -> None:
    lake, tenant_id = Lake(tmp_path), make_tenant()
    make_table(tenant_id=tenant_id)
    write_ids(tenant_id, "a")
    lake.materialize(tenant_id)
    one = resolve(tenant_id=tenant_id).snapshot_id
    write_ids(tenant_id, "b")
    lake.materialize(tenant_id)
    make_table(tenant_id=tenant_id, name="later")
    ordered = order_restore(tenant_id=tenant_id, snapshot_id=one, actor="test")
    assert killed_at(lake, tenant_id, step) == -signal.SIGKILL
    live = IngestClaimBatch.objects.filter(tenant_id=tenant_id, state="claimed")
    live.update(lease_until=Now() - timedelta(milliseconds=1))
    if step != "materialize.after_commit":
        assert lake.rows(tenant_id) == {"a": 1, "b": 1}
        assert restored_in(ordered) is None
    write_ids(tenant_id, "c")
    while IngestEvent.objects.filter(tenant_id=tenant_id, state="pending").exists():
        lake.materialize(tenant_id)
    assert lake.rows(tenant_id) == {"a": 1, "c": 1}
    assert Snapshot.objects.filter(tenant_id=tenant_id, kind="restore").count() == 1
    assert set(tables_at(tenant_id=tenant_id, snapshot_id=resolve(tenant_id=tenant_id).snapshot_id)) == {"events"}
