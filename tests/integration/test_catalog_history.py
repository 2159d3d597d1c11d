"""A long random history of a tenant, against a model so simple that it is plainly right."""

import random
from collections.abc import Mapping
from dataclasses import dataclass, field

import pytest

from catalog.errors import SnapshotExpired, TableNotFound
from catalog.expire import expire_snapshots
from catalog.manifests import files_at
from catalog.models import DataFile, Snapshot
from catalog.publish import publish_snapshot
from catalog.snapshots import resolve
from catalog.tables import drop_table, get_table, list_tables, tables_at
from duckmesh.kernel.errors import Conflict
from tests.factories import make_file, make_table, make_tenant

pytestmark = pytest.mark.django_db(transaction=True)

NAMES = ("a", "b", "c", "Select")
Contents = Mapping[int, frozenset[int]]  # the ids of the files, by table


@dataclass
class Model:
    """Every snapshot as a copy of everything in it."""

    tables: dict[str, int] = field(default_factory=dict)
    files: dict[int, set[int]] = field(default_factory=dict)
    snapshots: list[tuple[dict[str, int], Contents]] = field(default_factory=list)
    expired: set[int] = field(default_factory=set)

    def remember(self) -> None:
        contents = {table_id: frozenset(files) for table_id, files in self.files.items()}
        self.snapshots.append((dict(self.tables), contents))


def contents(tenant_id: str, snapshot_id: int, table_ids: list[int]) -> Contents:
    found = files_at(tenant_id=tenant_id, snapshot_id=snapshot_id, table_ids=table_ids)
    return {table_id: frozenset(file.file_id for file in files) for table_id, files in found.items()}


def step(tenant_id: str, model: Model, chance: random.Random) -> None:
    """One change of the tenant, made in the catalog and in the model."""
    name = chance.choice(NAMES)
    known = model.tables.get(name.lower())
    match chance.randrange(10):
        case 0 if known is None:
            table_id = make_table(tenant_id=tenant_id, name=name).table_id
            model.tables[name.lower()] = table_id
            model.files[table_id] = set()
            model.remember()
        case 1 if known is not None and chance.random() < 0.4:
            drop_table(tenant_id=tenant_id, name=name.upper(), actor="test")
            del model.files[model.tables.pop(name.lower())]
            model.remember()
        case 2 | 3 if known is not None:
            some = sorted(model.files[known])[: chance.randrange(4)]
            publish(tenant_id, model, {known: 1}, some)
        case 4 if len(model.snapshots) > 3:
            gone = chance.sample(range(len(model.snapshots) - 1), k=2)
            expire_snapshots(tenant_id=tenant_id, snapshot_ids=gone)
            model.expired.update(gone)
        case _:
            tables = chance.sample(sorted(model.tables.values()), k=min(2, len(model.tables)))
            publish(tenant_id, model, {table_id: chance.randrange(1, 3) for table_id in tables}, [])


def publish(tenant_id: str, model: Model, counts: Mapping[int, int], removed: list[int]) -> None:
    added = [make_file(table_id=table_id) for table_id, count in counts.items() for _ in range(count)]
    kind = Snapshot.Kind.COMPACTION if removed else Snapshot.Kind.INGEST
    publish_snapshot(tenant_id=tenant_id, kind=kind, actor="test", added=added, removed=removed)
    ids = dict(DataFile.objects.filter(path__in=[file.path for file in added]).values_list("path", "file_id"))
    for file in added:
        model.files[file.table_id].add(ids[file.path])
    for files in model.files.values():
        files -= set(removed)
    model.remember()


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_every_snapshot_of_a_long_random_history_is_what_it_was(seed: int) -> None:
    tenant_id = make_tenant()
    model, chance = Model(), random.Random(seed)
    model.remember()
    for _ in range(150):
        step(tenant_id, model, chance)
    every_table = sorted({table_id for tables, _ in model.snapshots for table_id in tables.values()})
    assert len(every_table) > len(NAMES), "names were dropped and used anew"
    assert resolve(tenant_id=tenant_id).snapshot_id == len(model.snapshots) - 1
    kept: set[int] = set()
    for snapshot_id, (tables, expected) in enumerate(model.snapshots):
        if snapshot_id in model.expired:
            with pytest.raises(SnapshotExpired):
                resolve(tenant_id=tenant_id, snapshot_id=snapshot_id)
            continue
        found = tables_at(tenant_id=tenant_id, snapshot_id=snapshot_id)
        assert {name: table.table_id for name, table in found.items()} == tables
        every_file = contents(tenant_id, snapshot_id, every_table)
        assert {table_id: files for table_id, files in every_file.items() if files} == {
            table_id: files for table_id, files in expected.items() if files
        }
        kept |= {file_id for files in expected.values() for file_id in files}
    marked = set(
        DataFile.objects.filter(tenant_id=tenant_id, unreferenced_since__isnull=False).values_list("file_id", flat=True)
    )
    every = set(DataFile.objects.filter(tenant_id=tenant_id).values_list("file_id", flat=True))
    assert not marked & kept, "a file that a kept snapshot names is never marked"
    expire_snapshots(tenant_id=tenant_id, snapshot_ids=[])
    assert every - kept == set(
        DataFile.objects.filter(tenant_id=tenant_id, unreferenced_since__isnull=False).values_list("file_id", flat=True)
    )


def test_dropped_name_created_anew_shares_nothing_with_the_old_one() -> None:
    tenant_id = make_tenant()
    old = make_table(tenant_id=tenant_id, name="Events")
    publish_snapshot(
        tenant_id=tenant_id, kind=Snapshot.Kind.INGEST, actor="test", added=[make_file(table_id=old.table_id)]
    )
    before = resolve(tenant_id=tenant_id).snapshot_id
    drop_table(tenant_id=tenant_id, name="EVENTS", actor="test")
    between = resolve(tenant_id=tenant_id).snapshot_id
    with pytest.raises(TableNotFound):
        get_table(tenant_id=tenant_id, name="events")
    new = make_table(tenant_id=tenant_id, name="events")
    assert new.table_id != old.table_id
    after = resolve(tenant_id=tenant_id).snapshot_id

    def at(snapshot_id: int) -> dict[str, int]:
        tables = tables_at(tenant_id=tenant_id, snapshot_id=snapshot_id)
        return {
            table.name: len(contents(tenant_id, snapshot_id, [table.table_id])[table.table_id])
            for table in tables.values()
        }

    assert (at(before), at(between), at(after)) == ({"Events": 1}, {}, {"events": 0})
    assert set(tables_at(tenant_id=tenant_id, snapshot_id=before, names=["EVENTS", "none"])) == {"events"}


def test_dropping_twice_is_refused_and_makes_no_snapshot() -> None:
    tenant_id = make_tenant()
    make_table(tenant_id=tenant_id)
    drop_table(tenant_id=tenant_id, name="events", actor="test")
    head = resolve(tenant_id=tenant_id)
    with pytest.raises(TableNotFound):
        drop_table(tenant_id=tenant_id, name="events", actor="test")
    assert resolve(tenant_id=tenant_id) == head


@pytest.mark.parametrize("name", ["events\0", "\0", "event\u017f", "even%", "event_", "", "e" * 10_000])
def test_only_the_name_itself_drops_a_table(name: str) -> None:
    """U+017F, the long s, is an S in upper case, and a NUL is nothing that PostgreSQL takes."""
    tenant_id = make_tenant()
    make_table(tenant_id=tenant_id)
    with pytest.raises(TableNotFound):
        drop_table(tenant_id=tenant_id, name=name, actor="test")
    assert get_table(tenant_id=tenant_id, name="events").name == "events"


def test_name_in_use_is_refused_and_makes_no_snapshot() -> None:
    tenant_id = make_tenant()
    make_table(tenant_id=tenant_id, name="Events")
    head = resolve(tenant_id=tenant_id)
    with pytest.raises(Conflict) as refusal:
        make_table(tenant_id=tenant_id, name="eVENTS")
    assert refusal.value.code == "TABLE_EXISTS"
    assert resolve(tenant_id=tenant_id) == head
    make_table(tenant_id=make_tenant(), name="events")


def test_tables_are_listed_in_pages_and_in_order() -> None:
    tenant_id = make_tenant()
    for name in ("b", "A", "d", "C"):
        make_table(tenant_id=tenant_id, name=name)
    drop_table(tenant_id=tenant_id, name="d", actor="test")
    first = list_tables(tenant_id=tenant_id, limit=2)
    rest = list_tables(tenant_id=tenant_id, after=first[-1].name, limit=2)
    assert [table.name for table in first + rest] == ["A", "b", "C"]
    assert list_tables(tenant_id=make_tenant(), limit=2) == []
