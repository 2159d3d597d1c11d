"""Retention that is killed at any step, or runs twice at once, deletes nothing twice, early or never."""

import os
import signal
import subprocess
import sys
from datetime import timedelta

import pytest
from django.conf import settings
from django.db import connection

from catalog.models import DataFile, Snapshot
from duckmesh.kernel.config import ROOT
from maintenance.models import OrphanSighting
from tests.ages import advance
from tests.factories import make_table, make_tenant
from tests.keeping import GRACE, check_reachable, named, put_file, put_orphan, retain, stored
from tests.lake import Lake
from tests.together import together

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def tenant_id(lake: Lake) -> str:
    """A tenant with a file that may go, one that an expiry will mark, one that stays, and an orphan that may go."""
    tenant_id = make_tenant()
    table_id = make_table(tenant_id=tenant_id).table_id
    put_orphan(lake.store, tenant_id)
    first = put_file(lake.store, tenant_id, table_id)
    second = put_file(lake.store, tenant_id, table_id, removed=[first])
    retain(lake)
    advance(GRACE + timedelta(seconds=1))
    put_file(lake.store, tenant_id, table_id, removed=[second])
    return tenant_id


def retainer(lake: Lake, failpoints: str) -> int:
    """The exit status of a run in a process of its own, on the database of this test."""
    address, _ = settings.DUCKMESH.database_url.rsplit("/", 1)
    environment = {
        **os.environ,
        "DUCKMESH_DATABASE_URL": f"{address}/{connection.settings_dict['NAME']}",
        "DUCKMESH_FAILPOINTS": failpoints,
    }
    command = [sys.executable, "-m", "tests.retainer", str(lake.root)]
    return subprocess.run(command, cwd=ROOT, env=environment, timeout=120, check=False).returncode


def state(lake: Lake, tenant_id: str) -> tuple[int, int, int, int, int]:
    """Snapshots, rows of files, tombstoned ones, objects, and sightings of orphans."""
    return (
        Snapshot.objects.filter(tenant_id=tenant_id).count(),
        DataFile.objects.count(),
        DataFile.objects.filter(tombstoned_at__isnull=False).count(),
        len(stored(lake.store)),
        OrphanSighting.objects.count(),
    )


@pytest.mark.parametrize(
    ("step", "left"),
    [
        ("gc.after_expire", (1, 3, 0, 4, 1)),
        ("gc.after_tombstone", (1, 3, 1, 4, 1)),
        ("gc.after_objects", (1, 3, 1, 3, 1)),
        ("gc.after_rows", (1, 2, 0, 3, 1)),
        ("orphans.after_sighting", (1, 2, 0, 3, 1)),
        ("orphans.after_objects", (1, 2, 0, 2, 1)),
    ],
)
def test_run_killed_at_a_step_leaves_what_the_next_one_finishes(
    lake: Lake, tenant_id: str, step: str, left: tuple[int, ...]
) -> None:
    assert retainer(lake, f"{step}=kill") == -signal.SIGKILL
    assert state(lake, tenant_id) == left
    check_reachable(tenant_id, lake.store)
    retain(lake)
    assert state(lake, tenant_id) == (1, 2, 0, 2, 0)
    assert named(tenant_id) == stored(lake.store)
    check_reachable(tenant_id, lake.store)


def test_two_runs_at_once_count_each_file_and_orphan_once(lake: Lake, tenant_id: str) -> None:
    table_id = DataFile.objects.latest("file_id").table_id
    last = DataFile.objects.latest("file_id").file_id
    for _ in range(20):
        last = put_file(lake.store, tenant_id, table_id, removed=[last])
    for number in range(10, 20):
        put_orphan(lake.store, tenant_id, number)
    retain(lake)
    advance(GRACE + timedelta(seconds=1))
    done = together([lambda: retain(lake)] * 3)
    assert sum(each["files_deleted"] for each in done) == 21
    assert sum(each["orphans_deleted"] for each in done) == 10
    assert named(tenant_id) == stored(lake.store)
    check_reachable(tenant_id, lake.store)
