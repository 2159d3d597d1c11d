"""Restore drills against the living database: nothing false is found, and everything that is wrong."""

import json
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.core.management import load_command_class
from django.db import connection
from django.db.models import F

from catalog.errors import HoldLost
from catalog.models import FileHold, Snapshot
from duckmesh.kernel.config import ROOT
from duckmesh.kernel.errors import JSON
from maintenance.drill.errors import DrillFailed
from maintenance.drill.job import STEPS, DrillOptions, DrillPolicy, perform
from maintenance.errors import RunCancelled
from maintenance.job import Scope
from maintenance.models import RestoreDrillRun
from maintenance.postgres.databases import connected_to
from maintenance.postgres.errors import PostgresProgramTooOld
from maintenance.postgres.programs import find_programs
from tests.backups import PROGRAMS, address, back_up, databases, workplace
from tests.factories import make_table, make_tenant
from tests.lake import Lake, record, write, write_ids
from tests.progress import Recorder
from tests.together import Background

pytestmark = pytest.mark.django_db(transaction=True)

POLICY = DrillPolicy(programs=PROGRAMS)


@dataclass(kw_only=True)
class Meddler(Recorder):
    """A recorder that does something in the scratch database when a step has been told."""

    after: str = ""
    does: Callable[[], Any] = field(default=lambda: None)

    def step(self, name: str, **facts: JSON) -> None:
        super().step(name, **facts)
        if name == self.after:
            (scratch,) = scratches()
            with connected_to(scratch):
                self.does()


def scratches() -> list[str]:
    return databases("duckmesh_drill_")


def drill(
    lake: Lake, *, progress: Recorder | None = None, scope: Scope | None = None, **options: bool
) -> dict[str, Any]:
    """The summary of a drill, or of what it raised for what it found."""
    try:
        return perform(
            scope=scope or Scope(),
            options=DrillOptions(**options),
            place=workplace(lake),
            policy=POLICY,
            progress=progress or Recorder(),
        )
    except DrillFailed as exc:
        return exc.summary


def found(summary: dict[str, Any]) -> list[tuple[str, str]]:
    return [(each["step"], each.get("what", "")) for each in summary["findings"]]


def run(statement: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(statement)


@pytest.fixture
def tenant_id(lake: Lake) -> str:
    """A tenant with a table, and a keyed table with operations on its keys."""
    tenant_id = make_tenant()
    make_table(tenant_id=tenant_id)
    make_table(tenant_id=tenant_id, name="keyed", primary_key_cols=["id"])
    for n in (1, 2):
        write_ids(tenant_id, f"a{n}", f"b{n}")
        write(tenant_id, [record("k", n=n, key=None), record(f"k{n}", key=None)], table="keyed")
        lake.materialize(tenant_id)
    write_ids(tenant_id, "waits")
    return tenant_id


def test_a_drill_proves_a_healthy_catalog_and_leaves_nothing(lake: Lake, tenant_id: str) -> None:
    back_up(lake, lake.root / "backups")
    progress = Recorder()
    summary = drill(lake, progress=progress, checksums=True)
    assert [name for name, _ in progress.steps] == [*STEPS, "cleanup"]
    assert (summary["findings"], summary["finding_count"]) == ([], 0)
    assert summary["tables"]["data_file"]["rows"] == 4
    assert int(summary["tables"]["ingest_key"]["checksum"]) != 0
    assert sorted(summary["tables_read"]) == [f"{tenant_id}.events", f"{tenant_id}.keyed"]
    assert 0 < summary["rto_seconds"] < summary["rpo_seconds"] <= summary["seconds"] + 1
    assert summary["latest_backup_age_seconds"] > 0
    assert (scratches(), list((lake.root / "scratch").glob("*"))) == ([], [])
    assert not FileHold.objects.filter(kind="drill").exists()
    assert Snapshot.objects.filter(kind="restore").count() == 0, "only the copy has begun a new incarnation"


def test_a_dry_run_names_every_step_and_touches_nothing(lake: Lake, tenant_id: str) -> None:
    progress = Recorder()
    summary = drill(lake, progress=progress, dry_run=True)
    assert summary == {"dry_run": True, "steps": [*STEPS, "cleanup"]}
    assert [name for name, _ in progress.steps] == summary["steps"]
    assert not (lake.root / "scratch" / "drill").exists()


@pytest.mark.parametrize(
    ("statement", "finding"),
    [
        ("UPDATE data_file SET row_count = row_count + 1", ("rows", "checksum")),
        ("DELETE FROM ingest_payload", ("rows", "rows")),
        ("DELETE FROM django_migrations WHERE app = 'query'", ("migrations", "missing")),
        ("ALTER TABLE snapshot_pin DROP CONSTRAINT snapshot_pin_of_snapshot", ("relations", "constraint")),
        ("SELECT setval(pg_get_serial_sequence('data_file', 'file_id'), 1)", ("relations", "data_file.file_id")),
    ],
)
def test_what_is_wrong_in_the_copy_is_found(
    lake: Lake, tenant_id: str, statement: str, finding: tuple[str, str]
) -> None:
    meddler = Meddler(after="restore", does=lambda: run(statement))
    step, what = finding
    assert any(s == step and what in w for s, w in found(drill(lake, progress=meddler, checksums=True)))
    assert scratches() == []


def test_rows_that_a_query_no_longer_sees_are_found(lake: Lake, tenant_id: str) -> None:
    meddler = Meddler(after="relations", does=lambda: run("UPDATE snapshot_file SET removed_in = added_in + 1"))
    summary = drill(lake, progress=meddler)
    assert {each["step"] for each in summary["findings"]} == {"queries"}
    assert {(each["rows"], each["restored_rows"]) for each in summary["findings"]} == {(4, 0), (3, 0)}


def test_a_missing_object_is_found_by_its_key(lake: Lake, tenant_id: str) -> None:
    key = next(info.key for info in lake.store.list(tenant_id))
    (lake.root / "objects" / key).unlink()
    summary = drill(lake)
    assert [(each["step"], each["key"], each["what"]) for each in summary["findings"]] == [("objects", key, "missing")]


def test_a_drill_whose_hold_has_ended_proves_nothing(lake: Lake, tenant_id: str) -> None:
    def expire() -> None:
        FileHold.objects.update(expires_at=F("expires_at") - timedelta(hours=1))

    with pytest.raises(HoldLost):
        drill(lake, progress=Recorder(beside=expire))
    assert not FileHold.objects.exists()
    assert scratches() == []


def test_a_drill_of_a_tenant_tells_nothing_of_others(lake: Lake, tenant_id: str) -> None:
    other = make_tenant("other")
    make_table(tenant_id=other, name="secret")
    write_ids(other, "a", table="secret")
    lake.materialize(other)
    progress = Recorder()
    summary = drill(lake, progress=progress, scope=Scope(tenant_id=tenant_id), checksums=True)
    told = json.dumps([summary, progress.steps])
    assert other not in told
    assert "secret" not in told
    assert summary["tables"]["data_file"]["rows"] == 4
    broken = Meddler(after="restore", does=lambda: run("UPDATE tenant_catalog SET snapshot_seq = 2"))
    summary = drill(lake, progress=broken, scope=Scope(tenant_id=tenant_id))
    assert {each["tenant_id"] for each in summary["findings"] if each["step"] == "relations"} == {tenant_id}
    assert other not in json.dumps(summary)
    assert "tenant_limit_change" in summary["tables"]
    assert "auth_user" not in summary["tables"]


def test_a_cancelled_drill_leaves_nothing(lake: Lake, tenant_id: str) -> None:
    for at in (3, 13):
        with pytest.raises(RunCancelled):
            drill(lake, progress=Recorder(fail_at=at, error=RunCancelled("Enough.")))
        assert (scratches(), list((lake.root / "scratch").glob("*"))) == ([], [])
        assert not FileHold.objects.exists()


@pytest.mark.parametrize("drills", [2, pytest.param(30, marks=[pytest.mark.long, pytest.mark.timeout(900)])])
def test_a_drill_finds_nothing_false_while_everything_moves(lake: Lake, tenant_id: str, drills: int) -> None:
    stopped: list[bool] = []

    def move() -> None:
        number = 0
        while not stopped:
            number += 1
            write_ids(tenant_id, f"m{number}")
            write(tenant_id, [record("k", n=number, key=None)], table="keyed")
            lake.materialize(tenant_id)

    moving = Background(move)
    try:
        for _ in range(drills):
            assert drill(lake, checksums=True)["findings"] == []
    finally:
        stopped.append(True)
        moving.result()


@pytest.mark.long
def test_a_kept_copy_stays_until_somebody_drops_it(lake: Lake, tenant_id: str) -> None:
    summary = drill(lake, keep=True)
    kept = summary["kept_database"]
    with connected_to(kept):
        assert lake.rows(tenant_id) == {"a1": 1, "b1": 1, "a2": 1, "b2": 1}
    assert drill(lake)["findings"] == []
    assert (scratches(), databases("duckmesh_kept_")) == ([], [kept]), "a copy that was kept is nobody's leftover"
    run(f'DROP DATABASE "{kept}" WITH (FORCE)')


def test_an_older_pg_dump_is_refused(lake: Lake, tenant_id: str, tmp_path: Path) -> None:
    old = tmp_path / "old"
    old.mkdir()
    for name in ("pg_dump", "pg_restore"):
        (old / name).write_text("#!/bin/sh\necho 'pg_dump (PostgreSQL) 14.9'\n")
        (old / name).chmod(0o755)
    policy = DrillPolicy(programs=find_programs(old), hold_for=timedelta(minutes=1))
    with pytest.raises(PostgresProgramTooOld) as refused:
        perform(scope=Scope(), options=DrillOptions(), place=workplace(lake), policy=policy, progress=Recorder())
    assert refused.value.context["version"] == 14
    assert (scratches(), FileHold.objects.count()) == ([], 0)


def test_the_command_shows_its_steps_and_keeps_its_history(capsys: pytest.CaptureFixture[str], tenant_id: str) -> None:
    def command(*arguments: str) -> int | str | None:
        capsys.readouterr()
        try:
            load_command_class("maintenance", "restore_drill").run_from_argv(["manage.py", "restore_drill", *arguments])
        except SystemExit as end:
            return end.code
        return 0

    assert command("--dry-run", "--json") == 0
    shown = capsys.readouterr()
    document = json.loads(shown.out)
    assert uuid.UUID(document["run_id"])
    assert [step["name"] for step in document["steps"]] == [*STEPS, "cleanup"]
    assert [line.split()[0] for line in shown.err.splitlines()] == [*STEPS, "cleanup"]
    assert RestoreDrillRun.objects.get().state == "succeeded"
    assert command("--drop-everything") == 2


@pytest.mark.parametrize(
    "step",
    [
        pytest.param("drill.after_hold", marks=pytest.mark.long),
        pytest.param("drill.after_dump", marks=pytest.mark.long),
        pytest.param("drill.after_create", marks=pytest.mark.long),
        pytest.param("drill.after_restore", marks=pytest.mark.long),
        pytest.param("drill.after_relations", marks=pytest.mark.long),
        "drill.after_incarnation",
        pytest.param("drill.after_queries", marks=pytest.mark.long),
    ],
)
def test_what_a_killed_drill_leaves_is_cleared_by_the_next(lake: Lake, tenant_id: str, step: str) -> None:
    environment = {
        **os.environ,
        "DUCKMESH_DATABASE_URL": address(connection.settings_dict["NAME"]),
        "DUCKMESH_FAILPOINTS": f"{step}=kill",
    }
    command = [sys.executable, "-m", "tests.driller", str(lake.root)]
    done = subprocess.run(command, cwd=ROOT, env=environment, timeout=60, check=False)
    assert done.returncode == -signal.SIGKILL
    left = FileHold.objects.get(kind="drill")
    assert left.expires_at is not None
    FileHold.objects.update(expires_at=left.created_at)  # its time passes
    assert drill(lake)["findings"] == []
    assert scratches() == []
    assert not FileHold.objects.exists()
