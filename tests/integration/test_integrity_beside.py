"""Integrity runs beside everything that changes a lake: what happens between two looks is no finding."""

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from uuid import uuid4

import pytest

from catalog.collect import forget_files, tombstone_files
from catalog.expire import expire_snapshots
from catalog.models import DataFile
from catalog.snapshots import resolve
from ingest.restores import order_restore
from maintenance.job import Scope, Workplace
from maintenance.retention import RetentionLimits, RetentionOptions
from maintenance.retention import perform as retain_now
from storage.errors import StoreUnavailable
from storage.local import LocalStore
from storage.store import ObjectInfo
from tests.factories import make_table, make_tenant
from tests.integrity import Checked, check, three_files
from tests.keeping import ONLY_LATEST
from tests.lake import Lake, record, write, write_ids
from tests.progress import Recorder
from tests.tables import compact
from tests.together import Background

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def tenant_id(lake: Lake) -> str:
    return three_files(lake)


class Meddling(LocalStore):
    """A store beside which something happens, once: after the catalog was read, and before the store is."""

    def __init__(self, root: Path, act: Callable[[], None], *, remote: bool = False) -> None:
        super().__init__(root=root)
        self._act: Callable[[], None] | None = act
        self._remote = remote

    @property
    def local_root(self) -> Path | None:
        return None if self._remote else super().local_root

    def list(self, prefix: str, *, after: str = "") -> Iterator[ObjectInfo]:
        if not self._remote:
            self._meddle()
        yield from super().list(prefix, after=after)

    def fetch(self, key: str, path: Path) -> None:
        self._meddle()
        super().fetch(key, path)

    def _meddle(self) -> None:
        act, self._act = self._act, None
        if act is not None:
            act()


def collect(lake: Lake, tenant_id: str, path: str) -> None:
    """The file has left the snapshots, and is gone with its object: what compaction, expiry and collection do."""
    compact(lake, tenant_id)
    latest = resolve(tenant_id=tenant_id).snapshot_id
    expire_snapshots(tenant_id=tenant_id, snapshot_ids=range(latest))
    tombstone_files(tenant_id=tenant_id, table_id=None, unreferenced_for=timedelta(0), most=100)
    lake.store.delete_many([path])


@pytest.mark.parametrize("forgotten", [False, True])
@pytest.mark.parametrize("mode", ["quick", "deep"])
def test_file_collected_between_two_looks_is_no_finding(lake: Lake, tenant_id: str, mode: str, forgotten: bool) -> None:
    file = DataFile.objects.filter(tenant_id=tenant_id).order_by("file_id")[0]

    def act() -> None:
        collect(lake, tenant_id, file.path)
        if forgotten:
            forget_files(tenant_id=tenant_id, file_ids=[file.file_id])

    store = Meddling(lake.root / "objects", act, remote=mode == "deep")
    assert check(lake, tenant_id, mode=mode, store=store).kinds == set()
    assert not (lake.root / "objects" / file.path).exists()


def test_file_published_between_two_looks_is_no_orphan(lake: Lake, tenant_id: str) -> None:
    def act() -> None:
        write_ids(tenant_id, "late")
        lake.materialize(tenant_id)

    checked = check(lake, tenant_id, store=Meddling(lake.root / "objects", act))
    assert checked.findings == []
    assert resolve(tenant_id=tenant_id).visible_token == 4


class Stirring:
    """A tenant in which everything that changes a lake happens at once, until it is stopped."""

    def __init__(self, lake: Lake) -> None:
        self.lake, self.stopped = lake, False
        self.tenant_id = make_tenant()
        make_table(tenant_id=self.tenant_id)
        make_table(tenant_id=self.tenant_id, name="keyed", primary_key_cols=["id"])
        make_table(tenant_id=self.tenant_id, name="passing")
        self.running = [Background(each) for each in (self.write, self.compact, self.retain, self.restore)]

    def write(self) -> None:
        number = 0
        while not self.stopped:
            number += 1
            write_ids(self.tenant_id, f"w{number}", f"v{number}")
            write(self.tenant_id, [record(f"k{number % 7}", n=number, key=None)], table="keyed")
            self.lake.materialize(self.tenant_id)

    def compact(self) -> None:
        while not self.stopped:
            for table in ("events", "keyed"):
                with suppress(StoreUnavailable):  # no age keeps what it reads from being collected meanwhile
                    compact(self.lake, self.tenant_id, table)

    def retain(self) -> None:
        at_once = RetentionLimits(
            safety_age=timedelta(0),
            least_safety_age=timedelta(0),
            orphan_grace=timedelta(hours=1),
            sweep_every=timedelta(0),
        )
        place = Workplace(store=self.lake.store, scratch=self.lake.root / "scratch")
        scope = Scope(tenant_id=self.tenant_id)
        while not self.stopped:
            options = RetentionOptions(orphans=True)
            retain_now(
                scope=scope, options=options, place=place, policy=ONLY_LATEST, limits=at_once, progress=Recorder()
            )

    def restore(self) -> None:
        while not self.stopped:
            make_table(tenant_id=self.tenant_id, name=f"t{uuid4().hex[:8]}")
            latest = resolve(tenant_id=self.tenant_id).snapshot_id
            order_restore(tenant_id=self.tenant_id, snapshot_id=latest, actor="test")
            time.sleep(0.2)

    def stop(self) -> None:
        """Everything has stopped, and nothing of it has failed."""
        self.stopped = True
        for each in self.running:
            each.result()


def looked_at_for(seconds: float, lake: Lake, tenant_id: str) -> list[Checked]:
    """Runs of both modes, one after the other, for so long."""
    until, found = time.monotonic() + seconds, []
    while time.monotonic() < until or len(found) < 4:
        found.append(check(lake, tenant_id, mode=("quick", "deep")[len(found) % 2]))
    return found


@pytest.mark.timeout(300)
@pytest.mark.parametrize("seconds", [3, pytest.param(60, marks=pytest.mark.long)])
def test_nothing_that_happens_meanwhile_is_a_finding(lake: Lake, seconds: float) -> None:
    stirring = Stirring(lake)
    try:
        runs = looked_at_for(seconds, lake, stirring.tenant_id)
    finally:
        stirring.stop()
    for checked in runs:
        alarms = [found for found in checked.findings if found.severity != "info"]
        assert [(found.kind, found.object_key, found.detail) for found in alarms] == []
        assert checked.run.state == "succeeded"
    assert resolve(tenant_id=stirring.tenant_id).snapshot_id > 20
    lake.materialize(stirring.tenant_id)
    assert check(lake, stirring.tenant_id, mode="deep").kinds == set()
