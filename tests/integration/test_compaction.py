"""Compaction of tables without a key, and what holds for every rewrite: proofs, bounds, races, commands."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from django.conf import settings
from django.core.management import load_command_class
from django.db import transaction

from catalog.change import TableChange
from catalog.definition import TableDefinition
from catalog.evolution import evolve_table
from catalog.models import DataFile, Snapshot, SnapshotFile
from catalog.publish import publish_snapshot
from catalog.schema import ParsedColumn
from catalog.snapshots import resolve
from catalog.tables import create_table, drop_table
from duckmesh.kernel.errors import JSON
from ingest.restores import order_restore
from maintenance.compactor import compact_table
from maintenance.errors import RewriteUnproven
from maintenance.job import Workplace
from maintenance.tiers import CompactionPolicy
from storage.local import LocalStore
from storage.store import ObjectInfo
from tests.factories import COLUMNS, make_table, make_tenant
from tests.lake import Lake, record, write, write_ids
from tests.tables import LIMITS, compact, rows_at

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def tenant_id() -> str:
    tenant_id = make_tenant()
    make_table(tenant_id=tenant_id)
    return tenant_id


def live(tenant_id: str) -> list[DataFile]:
    files = DataFile.objects.filter(tenant_id=tenant_id, intervals__removed_in=None)
    return list(files.order_by("min_token"))


def write_files(lake: Lake, tenant_id: str, identities: Iterable[str]) -> None:
    """A file for each identity."""
    for identity in identities:
        write_ids(tenant_id, identity)
        assert lake.materialize(tenant_id) == 1


def test_small_files_become_one_with_the_same_rows_and_tokens(lake: Lake, tenant_id: str) -> None:
    write_files(lake, tenant_id, "abcdefgh")
    before, tokens = resolve(tenant_id=tenant_id), lake.tokens(tenant_id)
    result = compact(lake, tenant_id, min_input_files=8)
    assert [(done.kind, done.input_files, done.output_files) for done in result.slices] == [("merge", 8, 1)]
    assert lake.tokens(tenant_id) == tokens
    after = resolve(tenant_id=tenant_id)
    assert (after.kind, after.visible_token) == ("compaction", before.visible_token)
    assert after.snapshot_id == before.snapshot_id + 1
    assert lake.tokens(tenant_id, snapshot_id=before.snapshot_id) == tokens
    assert [file.level for file in live(tenant_id)] == [1]
    assert not compact(lake, tenant_id, min_input_files=8).slices


def test_too_few_files_are_left_alone(lake: Lake, tenant_id: str) -> None:
    write_files(lake, tenant_id, "abcdefg")
    assert not compact(lake, tenant_id, min_input_files=8).slices
    assert len(live(tenant_id)) == 7


def test_merged_file_is_recorded_as_one_written_at_once_would_be(lake: Lake) -> None:
    kinds = (
        "bool", "int32", "int64", "float32", "float64", "decimal(10,2)", "string", "date", "timestamp", "uuid", "json",
        "binary", "list<float64>",
    )  # fmt: skip
    columns = [ParsedColumn(name=f"c{number}", type=kind) for number, kind in enumerate(kinds)]
    rows: list[tuple[JSON, ...]] = [
        (True, 1, 2**60, 1.5, -0.0, "1.50", "a\0b", "2013-01-01", "2013-01-01T00:00:00Z",
         "00000000-0000-0000-0000-000000000001", {"a": 1}, "AAE=", [1.5, -0.0, None]),
        (False, -1, -(2**60), -2.5, 0.0, "-1.25", "x" * 300, "1969-01-01", "1969-12-31T23:59:59.999999Z",
         "ffffffff-0000-0000-0000-000000000001", [1, "b"], "", []),
        (None,) * 13,
    ]  # fmt: skip
    whole, parts = make_tenant(), make_tenant()
    for tenant_id, step in ((whole, 3), (parts, 1)):
        make_table(tenant_id=tenant_id, columns=columns)
        for first in range(0, 3, step):
            payloads = [{f"c{n}": value for n, value in enumerate(row)} for row in rows[first : first + step]]
            write(tenant_id, [{"payload": payload} for payload in payloads])
            assert lake.materialize(tenant_id) == 1
    compact(lake, parts)
    recorded = [
        (f.row_count, f.content_algorithm, f.content_hash, f.column_stats, f.min_token, f.max_token, f.schema_version)
        for f in (*live(whole), *live(parts))
    ]
    assert len(recorded) == 2
    assert recorded[0] == recorded[1]
    schemas = [pq.read_schema(lake.root / "objects" / file.path) for file in (*live(whole), *live(parts))]
    assert schemas[0].equals(schemas[1], check_metadata=True)


def test_merged_rows_are_sorted_as_the_table_asks(lake: Lake) -> None:
    tenant_id = make_tenant()
    definition = TableDefinition(name="events", columns=COLUMNS, sort_cols=("n",))
    create_table(tenant_id=tenant_id, definition=definition, actor="test")
    for n in (3, 1, 2):
        write(tenant_id, [record(str(n), n=n)])
        assert lake.materialize(tenant_id) == 1
    compact(lake, tenant_id)
    (file,) = live(tenant_id)
    assert pq.read_table(lake.root / "objects" / file.path)["n"].to_pylist() == [1, 2, 3]


def test_rows_that_are_not_what_was_recorded_are_not_published(lake: Lake, tenant_id: str) -> None:
    write_files(lake, tenant_id, "ab")
    DataFile.objects.filter(file_id=live(tenant_id)[0].file_id).update(content_hash=1)
    before = resolve(tenant_id=tenant_id)
    with pytest.raises(RewriteUnproven):
        compact(lake, tenant_id)
    assert resolve(tenant_id=tenant_id) == before
    assert sum(1 for _ in lake.store.list("")) == 2
    assert not list((lake.root / "scratch").iterdir())


def _nothing() -> None:
    pass


class Meddling(LocalStore):
    """A store beside which something happens, once, when an object is put."""

    def __init__(self, root: Path, act: Callable[[], None]) -> None:
        super().__init__(root=root)
        self._act = act

    def put_file(self, key: str, path: Path) -> ObjectInfo:
        act, self._act = self._act, _nothing
        act()
        return super().put_file(key, path)


def compact_beside(lake: Lake, tenant_id: str, table_id: int, act: Callable[[], None]) -> int:
    """How often a full compaction was overtaken by what happened while it ran."""
    return compact_table(
        tenant_id=tenant_id,
        table_id=table_id,
        place=Workplace(store=Meddling(lake.root / "objects", act), scratch=lake.root / "scratch"),
        policy=CompactionPolicy().full(),
        limits=LIMITS,
    ).overtaken


def test_write_that_lands_meanwhile_is_kept(lake: Lake, tenant_id: str) -> None:
    write_files(lake, tenant_id, "ab")
    (table_id,) = {file.table_id for file in live(tenant_id)}
    assert not compact_beside(lake, tenant_id, table_id, lambda: write_files(lake, tenant_id, "c"))
    assert lake.tokens(tenant_id) == [("a", 1), ("b", 2), ("c", 3)]
    assert resolve(tenant_id=tenant_id).visible_token == 3
    assert len(live(tenant_id)) == 2


def test_compaction_gives_up_when_its_files_are_gone(lake: Lake, tenant_id: str) -> None:
    write_files(lake, tenant_id, "ab")
    first = live(tenant_id)[0]

    def remove() -> None:
        kind = Snapshot.Kind.COMPACTION
        publish_snapshot(tenant_id=tenant_id, kind=kind, actor="test", removed=[first.file_id])

    assert compact_beside(lake, tenant_id, first.table_id, remove)
    assert lake.tokens(tenant_id) == [("b", 2)]


def test_compaction_gives_up_when_its_table_is_dropped(lake: Lake, tenant_id: str) -> None:
    write_files(lake, tenant_id, "ab")
    (table_id,) = {file.table_id for file in live(tenant_id)}
    assert compact_beside(
        lake, tenant_id, table_id, lambda: drop_table(tenant_id=tenant_id, name="events", actor="test")
    )
    assert live(tenant_id) == []


def change(tenant_id: str, **steps: Any) -> None:
    evolve_table(
        tenant_id=tenant_id, name="events", change=TableChange(compatibility_mode="none", **steps), actor="test"
    )


@pytest.mark.parametrize("steps", [{"drop": frozenset({"n"})}, {"widen": {"n": "json"}}])
def test_compaction_gives_up_when_older_columns_come_back(lake: Lake, tenant_id: str, steps: dict[str, Any]) -> None:
    write(tenant_id, [record("a", n=2**60 + 1)])
    lake.materialize(tenant_id)
    write_files(lake, tenant_id, "b")
    before, rows = resolve(tenant_id=tenant_id), rows_at(lake, tenant_id)
    change(tenant_id, **steps)

    def restore() -> None:
        order_restore(tenant_id=tenant_id, snapshot_id=before.snapshot_id, actor="test")
        lake.materialize(tenant_id)

    (table_id,) = {file.table_id for file in live(tenant_id)}
    assert compact_beside(lake, tenant_id, table_id, restore)
    assert rows_at(lake, tenant_id) == rows
    assert not compact(lake, tenant_id).overtaken
    assert rows_at(lake, tenant_id) == rows


def test_compaction_is_not_in_the_way_of_changed_columns(lake: Lake, tenant_id: str) -> None:
    write_files(lake, tenant_id, "ab")
    (table_id,) = {file.table_id for file in live(tenant_id)}

    def evolve() -> None:
        change(tenant_id, add=(ParsedColumn(name="extra", type="int64"),), widen={"n": "json"})
        change(tenant_id, drop=frozenset({"n"}), rename={"id": "name"})

    assert not compact_beside(lake, tenant_id, table_id, evolve)
    assert len(live(tenant_id)) == 1
    assert rows_at(lake, tenant_id) == [{"name": name, "extra": None} for name in "ab"]


def test_command_says_what_it_would_do_and_what_it_did(tenant_id: str, capsys: pytest.CaptureFixture[str]) -> None:
    lake = Lake(settings.DUCKMESH.home)
    write_files(lake, tenant_id, "ab")

    def run(*arguments: str) -> Any:
        capsys.readouterr()
        command = load_command_class("maintenance", "compact")
        command.run_from_argv(["manage.py", "compact", "--tenant", tenant_id, "--json", *arguments])
        return json.loads(capsys.readouterr().out)["summary"]

    assert run("--dry-run")["groups"] == []
    (planned,) = run("--dry-run", "--full")["groups"]
    assert (planned["kind"], planned["inputs"]) == ("merge", [file.path for file in live(tenant_id)])
    assert len(live(tenant_id)) == 2
    (done,) = run("--full")["tables"]
    assert (done["input_files"], done["output_files"], done["output_rows"]) == (2, 1, 2)
    assert len(live(tenant_id)) == 1
    assert {row["id"] for row in rows_at(lake, tenant_id)} == {"a", "b"}


def test_fold_gives_up_when_older_operations_come_back(lake: Lake) -> None:
    tenant_id = make_tenant()
    table_id = make_table(tenant_id=tenant_id, primary_key_cols=["id"]).table_id
    write_files(lake, tenant_id, "a")
    (old,) = live(tenant_id)
    write(tenant_id, [{"op": "delete", "payload": {"id": "a"}}])
    assert lake.materialize(tenant_id) == 1
    compact(lake, tenant_id)
    assert live(tenant_id) == []
    write_files(lake, tenant_id, "b")

    def restore() -> None:
        with transaction.atomic():
            at = publish_snapshot(tenant_id=tenant_id, kind=Snapshot.Kind.RESTORE, actor="test").snapshot_id
            SnapshotFile.objects.create(file=old, tenant_id=tenant_id, table_id=table_id, added_in=at)

    assert compact_beside(lake, tenant_id, table_id, restore) == 1
    assert {row["id"] for row in rows_at(lake, tenant_id)} == {"a", "b"}
    assert [file.folded for file in live(tenant_id)] == [True], (
        "what came back was folded with the rest, once it was seen"
    )


class Remote(LocalStore):
    """A store whose objects have to be fetched."""

    @property
    def local_root(self) -> None:
        return None


@pytest.mark.parametrize("key", [[], ["id"]])
def test_files_of_a_remote_store_are_fetched_and_forgotten(lake: Lake, key: list[str]) -> None:
    tenant_id = make_tenant()
    table_id = make_table(tenant_id=tenant_id, primary_key_cols=key).table_id
    for identities in ("ab", "bc"):
        for identity in identities:
            write(tenant_id, [record(identity, key=None)])
            assert lake.materialize(tenant_id) == 1
        place = Workplace(store=Remote(root=lake.root / "objects"), scratch=lake.root / "scratch")
        policy = CompactionPolicy().full()
        compact_table(tenant_id=tenant_id, table_id=table_id, place=place, policy=policy, limits=LIMITS)
    assert len(live(tenant_id)) == 1
    assert sorted(row["id"] for row in rows_at(lake, tenant_id)) == (["a", "b", "c"] if key else ["a", "b", "b", "c"])
    assert not list((lake.root / "scratch").iterdir())
