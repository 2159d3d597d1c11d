"""A backup, its removal or a restore that is killed at any step: the next one finishes the work."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from django.db import connection

from catalog.identity import own_store
from catalog.models import FileHold
from catalog.snapshots import resolve
from duckmesh.kernel.config import ROOT
from maintenance.backup.errors import BackupBusy, BackupNotFound, BackupUnfinished
from maintenance.backup.keeping import drop_backup
from maintenance.backup.listing import list_backups
from maintenance.backup.place import opened
from maintenance.models import Backup
from tests.backups import Steps, address, back_up, databases, restore, second_database
from tests.factories import make_table, make_tenant
from tests.lake import Lake, write_ids

pytestmark = pytest.mark.django_db(transaction=True)

LONG = pytest.mark.long


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(tmp_path / "first")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "backups"


@pytest.fixture
def tenant_id(lake: Lake) -> str:
    tenant_id = make_tenant()
    make_table(tenant_id=tenant_id)
    write_ids(tenant_id, "a")
    lake.materialize(tenant_id)
    return tenant_id


def killed(act: str, lake: Lake, root: Path, *names: str, at: str) -> None:
    """The act was begun in a process of its own on the connected database, and killed at this step."""
    assert status(act, lake, root, *names, failpoint=f"{at}=kill") == -signal.SIGKILL


def status(act: str, lake: Lake, root: Path, *names: str, failpoint: str) -> int:
    """How a process of its own has ended that was to act on the connected database."""
    environment = {
        **os.environ,
        "DUCKMESH_DATABASE_URL": address(connection.settings_dict["NAME"]),
        "DUCKMESH_FAILPOINTS": failpoint,
    }
    command = [sys.executable, "-m", "tests.backer", act, str(lake.root), str(root), *names]
    return subprocess.run(command, cwd=ROOT, env=environment, timeout=60, check=False).returncode


@pytest.mark.parametrize(
    "step",
    [
        pytest.param("backup.after_directory", marks=LONG),
        pytest.param("backup.after_hold", marks=LONG),
        pytest.param("backup.after_instant", marks=LONG),
        "backup.after_dump",
        pytest.param("backup.before_content", marks=LONG),
        pytest.param("backup.after_objects", marks=LONG),
        pytest.param("backup.after_manifest", marks=LONG),
    ],
)
def test_an_unfinished_backup_is_refused_and_cleared_by_the_next(
    lake: Lake, root: Path, tenant_id: str, step: str
) -> None:
    killed("backup", lake, root, at=step)
    (left,) = list_backups(root)
    assert left.state == "unfinished"
    with second_database(), pytest.raises(BackupUnfinished):
        restore(lake, root, name=left.name)
    steps = Steps()
    manifest = back_up(lake, root, with_data=True, steps=steps)
    assert steps.facts["cleared"] == {"backup": left.name}
    assert [info.name for info in list_backups(root)] == [manifest.name]
    assert [hold.name for hold in FileHold.objects.all()] == [manifest.name]
    assert len(list((root / "objects").glob("*/*"))) == 1
    assert set(Backup.objects.exclude(name=manifest.name).values_list("state", flat=True)) <= {"failed"}


def test_a_backup_that_fails_at_its_very_end_is_none(lake: Lake, root: Path, tenant_id: str) -> None:
    assert status("backup", lake, root, failpoint="backup.before_sync=raise") == 1
    assert not FileHold.objects.exists()
    assert list_backups(root) == []
    with second_database(), pytest.raises(BackupNotFound):
        restore(lake, root)


@LONG
def test_an_unfinished_backup_can_be_dropped(lake: Lake, root: Path, tenant_id: str) -> None:
    killed("backup", lake, root, at="backup.after_dump")
    (left,) = list_backups(root)
    drop_backup(root=root, name=left.name)
    assert list_backups(root) == []
    assert not FileHold.objects.exists()
    assert Backup.objects.get().state == Backup.State.DROPPED


@LONG
def test_a_backup_that_only_lacks_its_last_step_is_a_backup(lake: Lake, root: Path, tenant_id: str) -> None:
    killed("backup", lake, root, at="backup.after_finish")
    (left,) = list_backups(root)
    assert left.state == "finished"
    with second_database():
        restore(lake, root, name=left.name)
        assert lake.rows(tenant_id) == {"a": 1}
    back_up(lake, root)
    assert Backup.objects.get(name=left.name).state == Backup.State.COMPLETED
    assert FileHold.objects.get(name=left.name).upto_file_id is not None


@pytest.mark.parametrize(
    "step",
    [
        pytest.param("drop.after_unfinish", marks=LONG),
        pytest.param("drop.after_release", marks=LONG),
        "drop.after_objects",
    ],
)
def test_a_removal_that_was_killed_is_finished_by_the_next_backup(
    lake: Lake, root: Path, tenant_id: str, step: str
) -> None:
    name = back_up(lake, root, with_data=True).name
    killed("drop", lake, root, name, at=step)
    with second_database(), pytest.raises((BackupUnfinished, BackupNotFound)):
        restore(lake, root, name=name)
    kept = back_up(lake, root).name
    assert [info.name for info in list_backups(root)] == [kept]
    assert [hold.name for hold in FileHold.objects.all()] == [kept]
    assert not list((root / "objects").glob("*/*"))


@pytest.mark.parametrize(
    "step",
    [
        pytest.param("restore.after_load", marks=LONG),
        pytest.param("restore.after_migrate", marks=LONG),
        pytest.param("restore.after_objects", marks=LONG),
        "restore.before_swap",
    ],
)
def test_a_restore_that_was_killed_has_changed_nothing(
    lake: Lake, root: Path, tenant_id: str, tmp_path: Path, step: str
) -> None:
    back_up(lake, root, with_data=True)
    second = Lake(tmp_path / "second")
    with second_database() as name:
        killed("restore", second, root, at=step)
        assert databases(name) == []
        assert len(databases("duckmesh_restore_")) == 1
        steps = Steps()
        restore(second, root, steps=steps)
        assert "cleared" in steps.names
        assert databases("duckmesh_restore_") == []
        assert second.rows(tenant_id) == {"a": 1}


@LONG
def test_a_restore_that_was_killed_at_its_end_lacks_the_store_only(lake: Lake, root: Path, tenant_id: str) -> None:
    own_store(lake.store)
    back_up(lake, root)
    with second_database():
        killed("restore", lake, root, at="restore.after_swap")
        assert resolve(tenant_id=tenant_id).kind == "restore"
        assert lake.rows(tenant_id) == {"a": 1}


def test_two_backups_do_not_share_a_directory_at_once(lake: Lake, root: Path) -> None:
    with opened(root), pytest.raises(BackupBusy):
        back_up(lake, root)


def test_a_server_that_is_away_is_told_without_a_trace(lake: Lake, root: Path) -> None:
    back_up(lake, root)
    environment = {**os.environ, "DUCKMESH_DATABASE_URL": "postgresql://postgres@127.0.0.1:1/duckmesh"}
    command = [sys.executable, "manage.py", "restore", str(root), "--json"]
    done = subprocess.run(command, cwd=ROOT, env=environment, timeout=60, check=False, capture_output=True, text=True)
    assert (done.returncode, json.loads(done.stdout)["error_code"]) == (1, "DEPENDENCY_UNAVAILABLE")
    assert "Traceback" not in done.stderr
