"""Integrity runs: what they are restricted to and ask of a store, how they end, go on and stand beside others."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.conf import settings
from django.core.management import load_command_class
from django.db import connection

from catalog.definition import TableDefinition
from catalog.models import DataFile, Snapshot
from catalog.publish import NewFile, publish_snapshot
from catalog.snapshots import resolve
from catalog.tables import create_table
from duckmesh.kernel.config import ROOT
from duckmesh.kernel.errors import JSON, Invalid
from maintenance.errors import IntegrityCheckFailed, RunCancelled, RunPaused
from maintenance.integrity.job import IntegrityOptions, perform
from maintenance.job import Kind, Scope, Workplace
from maintenance.models import IntegrityFinding
from storage.errors import StoreUnavailable
from storage.factory import StoreSettings, open_store
from storage.local import LocalStore
from storage.store import ObjectInfo, ObjectStore
from tests.factories import COLUMNS, make_file, make_table, make_tenant
from tests.integrity import LIMITS, ask, check, outcome, run_here, three_files
from tests.lake import Lake, record, write, write_ids
from tests.progress import Recorder
from tests.proxy import proxied
from tests.runs import let_lease_run_out
from tests.swift import ACCESS_KEY, SECRET_KEY, shared_swift, unavailable_because
from tests.tables import compact

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def tenant_id(lake: Lake) -> str:
    return three_files(lake)


def damage(lake: Lake, tenant_id: str) -> None:
    """Of three files the first is gone and the second holds another byte; a stray object; a counter too high."""
    first, second, _ = DataFile.objects.filter(tenant_id=tenant_id).order_by("file_id")
    (lake.root / "objects" / first.path).unlink()
    path = lake.root / "objects" / second.path
    path.write_bytes(b"X" + path.read_bytes()[1:])
    lake.store.put(f"{tenant_id}/stray", b"x")
    with connection.cursor() as cursor:
        cursor.execute("UPDATE tenant_catalog SET stored_files = 7 WHERE tenant_id = %s", [tenant_id])


FOUND = {"missing_file", "checksum_mismatch", "orphan_object", "counter_mismatch"}


def killed_at(step: str, lake: Lake, run_id: UUID) -> None:
    """A process that computes the run has killed itself at the step."""
    address, _ = settings.DUCKMESH.database_url.rsplit("/", 1)
    environment = {
        **os.environ,
        "DUCKMESH_DATABASE_URL": f"{address}/{connection.settings_dict['NAME']}",
        "DUCKMESH_FAILPOINTS": f"{step}=kill",
    }
    command = [sys.executable, "-m", "tests.checker", str(run_id), str(lake.root)]
    assert subprocess.run(command, cwd=ROOT, env=environment, timeout=60, check=False).returncode == -signal.SIGKILL


def test_killed_run_goes_on_and_finds_everything_once(lake: Lake, tenant_id: str) -> None:
    damage(lake, tenant_id)
    run_id = ask(tenant_id, mode="deep")
    for step in ("integrity.before_save", "integrity.after_save"):
        killed_at(step, lake, run_id)
        assert outcome(run_id).run.state == "running"
        let_lease_run_out(run_id, kind=Kind.INTEGRITY)
    assert outcome(run_id).run.cursor
    checked = run_here(lake, run_id)
    assert checked.kinds == FOUND
    assert len(checked.findings) == 4
    assert checked.summary == check(lake, tenant_id, mode="deep").summary


@dataclass(kw_only=True)
class Stumbling(Recorder):
    """Stops at every save: at the odd ones before it is kept, at the even ones after."""

    saves: int = 0

    def save(self, cursor: Mapping[str, JSON]) -> None:
        self.saves += 1
        if self.saves % 2 == 0:
            super().save(cursor)
        raise RunPaused("Stumbled.")


def test_run_that_is_stopped_at_each_step_finds_the_same(lake: Lake, tenant_id: str) -> None:
    damage(lake, tenant_id)
    whole = check(lake, tenant_id, mode="deep")
    progress = Stumbling(run_id=ask(tenant_id, mode="deep"))
    scope, options = Scope(tenant_id=tenant_id), IntegrityOptions(mode="deep")
    place = Workplace(store=lake.store, scratch=lake.root / "scratch")
    with pytest.raises(IntegrityCheckFailed) as caught:
        while True:
            try:
                perform(scope=scope, options=options, place=place, limits=LIMITS, progress=progress)
            except RunPaused:
                assert progress.saves < 500
    assert progress.saves > 20
    assert outcome(progress.run_id).kinds == FOUND
    assert caught.value.summary == whole.summary


def test_cancelled_run_ends_at_once_and_leaves_nothing_in_scratch(lake: Lake, tenant_id: str) -> None:
    progress = Recorder(fail_at=2, error=RunCancelled("Enough."), run_id=ask(tenant_id, mode="deep"))
    slow = replace(LIMITS, bytes_per_second=1)
    place = Workplace(store=lake.store, scratch=lake.root / "scratch")
    with pytest.raises(RunCancelled):
        perform(
            scope=Scope(tenant_id=tenant_id),
            options=IntegrityOptions(mode="deep"),
            place=place,
            limits=slow,
            progress=progress,
        )
    assert not list((lake.root / "scratch").glob("*"))


def test_bytes_a_second_are_bounded(lake: Lake, tenant_id: str) -> None:
    total = sum(DataFile.objects.filter(tenant_id=tenant_id).values_list("size_bytes", flat=True))
    began = time.monotonic()
    check(lake, tenant_id, mode="deep", limits=replace(LIMITS, bytes_per_second=2 * total))
    assert time.monotonic() - began >= 0.5


def test_run_of_a_table_tells_of_no_other(lake: Lake, tenant_id: str) -> None:
    other = make_table(tenant_id=tenant_id, name="other")
    write_ids(tenant_id, "x", table="other")
    lake.materialize(tenant_id)
    damage_id = DataFile.objects.filter(tenant_id=tenant_id).exclude(table_id=other.table_id)[0]
    (lake.root / "objects" / damage_id.path).unlink()
    checked = check(lake, tenant_id, table_id=other.table_id, mode="deep")
    assert (checked.kinds, checked.summary["unique_files_checked"], checked.summary["files_read"]) == (set(), 1, 1)
    assert check(lake, tenant_id, table_id=damage_id.table_id).kinds == {"missing_file"}


def test_run_of_a_range_of_snapshots_looks_at_their_files_only(lake: Lake, tenant_id: str) -> None:
    compact(lake, tenant_id)
    latest = resolve(tenant_id=tenant_id).snapshot_id
    first = DataFile.objects.filter(tenant_id=tenant_id).order_by("file_id")[0]
    (lake.root / "objects" / first.path).unlink()
    now = check(lake, tenant_id, mode="deep", from_snapshot=latest)
    assert now.kinds == {"missing_unreferenced_file"}
    assert [now.summary[name] for name in ("snapshots_scanned", "unique_files_checked", "files_read")] == [1, 1, 1]
    before = check(lake, tenant_id, from_snapshot=latest - 1, to_snapshot=latest - 1)
    assert before.kinds == {"missing_file"}
    assert (before.summary["unique_files_checked"], before.summary["referenced_files"]) == (3, 3)


@pytest.mark.parametrize("options", [{"from_snapshot": 3, "to_snapshot": 2}, {"tenant_id": None, "from_snapshot": 1}])
def test_range_that_is_none_is_refused(lake: Lake, tenant_id: str, options: dict[str, Any]) -> None:
    tenant = options.pop("tenant_id", tenant_id)
    checked = check(lake, tenant, **options)
    assert (checked.run.state, checked.run.error_code) == ("failed", Invalid.code)


def test_partition_of_a_file_that_is_not_its_rows_is_named(lake: Lake) -> None:
    tenant_id = make_tenant()
    fields = {"fields": [{"column": "n", "transform": "identity"}]}
    definition = TableDefinition(name="events", columns=COLUMNS, partition_spec=fields)
    create_table(tenant_id=tenant_id, definition=definition, actor="test")
    write(tenant_id, [record("a", n=1), record("b", n=2)])
    lake.materialize(tenant_id)
    assert check(lake, tenant_id, mode="deep").kinds == set()
    DataFile.objects.filter(tenant_id=tenant_id, partition_values={"n": 1}).update(partition_values={"n": 3})
    found = check(lake, tenant_id, mode="deep").one("partition_mismatch")
    assert (found.detail["recorded"], found.detail["in_file"]) == ({"n": 3}, {"n": 1})


class Failing(LocalStore):
    """A store that does not answer some of what it is asked, so many times."""

    def __init__(self, root: Path, *, listings: int = 0, behind: int = 0, fetches: int = 0) -> None:
        super().__init__(root=root)
        self.listings, self.behind, self.fetches = listings, behind, fetches

    @property
    def local_root(self) -> None:
        return None

    def list(self, prefix: str, *, after: str = "") -> Iterator[ObjectInfo]:
        for number, info in enumerate(super().list(prefix, after=after)):
            if self.listings and number == self.behind:
                self.listings -= 1
                raise StoreUnavailable("Away")
            yield info

    def fetch(self, key: str, path: Path) -> None:
        if self.fetches:
            self.fetches -= 1
            raise StoreUnavailable("Away")
        super().fetch(key, path)


def test_run_over_a_store_that_is_away_is_not_clean(lake: Lake, tenant_id: str) -> None:
    store = Failing(lake.root / "objects", listings=99)
    checked = check(lake, tenant_id, store=store)
    assert (checked.run.state, checked.run.error_code) == ("failed", "INTEGRITY_UNFINISHED")
    assert (checked.summary["operational_failures"], checked.summary["missing_files"]) == (1, 0)
    found = checked.one("unchecked_objects")
    assert (found.object_key, found.runbook) == (f"{tenant_id}/", "object-store-down.md")


def test_file_that_cannot_be_fetched_is_counted_and_the_others_are_read(lake: Lake, tenant_id: str) -> None:
    checked = check(lake, tenant_id, mode="deep", store=Failing(lake.root / "objects", fetches=1))
    assert checked.run.error_code == "INTEGRITY_UNFINISHED"
    assert (checked.summary["operational_failures"], checked.summary["files_read"]) == (1, 2)
    assert not list((lake.root / "scratch").glob("*"))


def test_listing_that_breaks_off_is_taken_up_again(lake: Lake, tenant_id: str) -> None:
    checked = check(lake, tenant_id, store=Failing(lake.root / "objects", listings=1, behind=2))
    assert (checked.run.state, checked.summary["unique_files_checked"]) == ("succeeded", 3)
    assert checked.summary["referenced_files"] == 6


def test_dry_run_tells_what_would_be_looked_at(lake: Lake, tenant_id: str) -> None:
    damage(lake, tenant_id)
    summary = check(lake, tenant_id, dry_run=True, mode="deep").summary
    assert (summary["tenants"], summary["files"], summary["snapshots"]) == ([tenant_id], 3, 5)
    assert "key_without_write" in summary["checks"]
    assert not IntegrityFinding.objects.exists()


def test_command_ends_with_status_1_if_anything_was_found(tenant_id: str, capsys: pytest.CaptureFixture[str]) -> None:
    def run(*arguments: str) -> Any:
        capsys.readouterr()
        command = load_command_class("maintenance", "integrity")
        command.run_from_argv(["manage.py", "integrity", "--tenant", tenant_id, "--json", *arguments])
        return json.loads(capsys.readouterr().out)

    home = Lake(settings.DUCKMESH.home)
    for file in DataFile.objects.filter(tenant_id=tenant_id):
        home.store.put(file.path, b"x" * file.size_bytes)
    assert run()["summary"]["unique_files_checked"] == 3
    home.store.put(f"{tenant_id}/stray", b"x")
    with pytest.raises(SystemExit) as ended:
        run()
    assert ended.value.code == 1
    assert json.loads(capsys.readouterr().out)["summary"]["orphan_files"] == 1
    with pytest.raises(SystemExit) as ended:
        run("--mode", "deep", "--table", "events")
    assert ended.value.code == 1
    assert json.loads(capsys.readouterr().out)["summary"]["checksum_mismatch_files"] == 3
    with pytest.raises(SystemExit) as ended:
        run("--mode", "thorough")
    assert ended.value.code == 2


@pytest.fixture
def remote() -> StoreSettings:
    if reason := unavailable_because():
        pytest.skip(reason)
    return StoreSettings(
        url=f"s3://integrity-{uuid4()}/lake",
        endpoint=shared_swift().host,
        access_key=ACCESS_KEY,
        secret_key=SECRET_KEY,
        secure=False,
        autocreate_bucket=True,
    )


@pytest.mark.s3
def test_damage_in_a_remote_store_is_named(lake: Lake, tenant_id: str, remote: StoreSettings) -> None:
    store = open_store(remote)
    files = list(DataFile.objects.filter(tenant_id=tenant_id).order_by("file_id"))
    data = {file.path: (lake.root / "objects" / file.path).read_bytes() for file in files}
    store.put(files[1].path, b"X" + data[files[1].path][1:])
    store.put(files[2].path, data[files[2].path])
    checked = check(lake, tenant_id, mode="deep", store=store)
    assert {(found.kind, found.object_key) for found in checked.findings} == {
        ("missing_file", files[0].path),
        ("checksum_mismatch", files[1].path),
    }


def publish(tenant_id: str, files: Sequence[NewFile]) -> None:
    """The files are in the tenant's next snapshot. No write stands behind them."""
    publish_snapshot(tenant_id=tenant_id, kind=Snapshot.Kind.INGEST, actor="test", added=files)


@pytest.mark.s3
@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_thousand_objects_of_a_remote_store_cost_a_request(lake: Lake, remote: StoreSettings) -> None:
    tenant_id = make_tenant()
    table_id = make_table(tenant_id=tenant_id).table_id
    count = 2_000
    files = [
        replace(make_file(table_id=table_id, rows=1, size_bytes=1), path=f"{tenant_id}/events/{number:06}.parquet")
        for number in range(count)
    ]
    with ThreadPoolExecutor(8) as pool:
        store = open_store(remote)
        list(pool.map(lambda file: store.put(file.path, b"x"), files))
    publish(tenant_id, files)
    with proxied(shared_swift()) as proxy:
        behind: ObjectStore = open_store(replace(remote, endpoint=proxy.host, autocreate_bucket=False))
        checked = check(lake, tenant_id, store=behind)
        assert (checked.summary["unique_files_checked"], checked.summary["missing_files"]) == (count, 0)
        # One more tells that there are no staged objects.
        assert proxy.requests <= count // 1_000 + 1
