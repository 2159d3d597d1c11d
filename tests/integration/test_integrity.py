"""Integrity: nothing in a healthy lake whatever it went through, and each damage by its name."""

import os
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from django.db import connection

from catalog.change import TableChange
from catalog.definition import TableDefinition
from catalog.evolution import evolve_table
from catalog.expire import expire_snapshots
from catalog.incarnation import begin_incarnation
from catalog.models import DataFile, Snapshot, SnapshotFile
from catalog.schema import ParsedColumn
from catalog.snapshots import resolve
from catalog.tables import create_table, drop_table
from duckmesh.kernel.clock import now
from duckmesh.kernel.errors import JSON
from ingest.accept import Staging
from ingest.restores import order_restore
from maintenance.history import gravest_findings
from maintenance.models import Backup
from tests.damages import CONTRADICTIONS
from tests.factories import COLUMNS, make_table, make_tenant
from tests.integrity import check, three_files
from tests.lake import Lake, fail_oldest, record, write, write_ids
from tests.tables import compact

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def tenant_id(lake: Lake) -> str:
    return three_files(lake)


def files(tenant_id: str) -> list[DataFile]:
    return list(DataFile.objects.filter(tenant_id=tenant_id).order_by("file_id"))


def object_of(lake: Lake, file: DataFile) -> Path:
    return lake.root / "objects" / file.path


def eventful(lake: Lake) -> str:
    """A tenant whose history has seen everything that is allowed."""
    tenant_id = make_tenant()
    make_table(tenant_id=tenant_id)
    make_table(tenant_id=tenant_id, name="keyed", primary_key_cols=["id"])
    fields = {"fields": [{"column": "n", "transform": "identity"}, {"column": "id", "transform": "bucket[2]"}]}
    divided = TableDefinition(name="divided", columns=COLUMNS, partition_spec=fields, sort_cols=("id",))
    create_table(tenant_id=tenant_id, definition=divided, actor="test")
    for n in range(4):
        write_ids(tenant_id, f"a{n}", f"b{n}")
        write(tenant_id, [record("k", n=n, key=None), record(f"k{n}", n=n, key=None)], table="keyed")
        write(tenant_id, [record(str(i), n=i % 3, key=None) for i in range(9)], table="divided")
        assert lake.materialize(tenant_id) == 1
    early = resolve(tenant_id=tenant_id).snapshot_id
    write(tenant_id, [record("k1", key=None, op="delete")], table="keyed")
    fail_oldest(tenant_id)
    write(tenant_id, [record("k2", key=None, op="delete")], table="keyed")
    lake.materialize(tenant_id)
    for table in ("events", "keyed", "divided"):
        compact(lake, tenant_id, table)
    drop_table(tenant_id=tenant_id, name="keyed", actor="test")
    write_ids(tenant_id, "late")
    lake.materialize(tenant_id)
    order_restore(tenant_id=tenant_id, snapshot_id=early, actor="test")
    lake.materialize(tenant_id)
    drop_table(tenant_id=tenant_id, name="events", actor="test")
    make_table(tenant_id=tenant_id)
    write_ids(tenant_id, "anew")
    lake.materialize(tenant_id)
    latest = resolve(tenant_id=tenant_id).snapshot_id
    expire_snapshots(tenant_id=tenant_id, snapshot_ids=[at for at in range(latest) if at % 3])
    write(tenant_id, [record("staged", n=1)], staging=Staging(store=lake.store, above_bytes=1))
    begin_incarnation(dumped_at=now())
    return tenant_id


@pytest.mark.parametrize("mode", ["quick", "deep"])
def test_healthy_lake_with_a_full_history_has_no_findings(lake: Lake, mode: str) -> None:
    tenant_id = eventful(lake)
    checked = check(lake, tenant_id, mode=mode)
    assert [(found.kind, found.detail) for found in checked.findings] == []
    assert checked.run.state == "succeeded"
    summary = checked.summary
    kept = Snapshot.objects.filter(tenant_id=tenant_id).count()
    assert (summary["tenants_scanned"], summary["snapshots_scanned"]) == (1, kept)
    assert summary["referenced_files"] > summary["unique_files_checked"] > 20
    assert summary["operational_failures"] == summary["orphan_files"] == 0
    assert summary["staged_objects_checked"] == 1
    assert summary["files_read"] == (summary["unique_files_checked"] if mode == "deep" else 0)


def test_files_of_every_type_and_version_are_as_recorded(lake: Lake) -> None:
    tenant_id = make_tenant()
    kinds = (
        "bool", "int32", "int64", "float32", "float64", "decimal(10,2)", "string", "date", "timestamp", "uuid", "json",
        "binary", "list<float64>", "float64",
    )  # fmt: skip
    columns = tuple(ParsedColumn(name=f"c{number}", type=kind) for number, kind in enumerate(kinds))
    names = ("c1", "c5", "c6", "c7", "c8", "c9", "c11", "c13")
    for name, divided in (("events", ()), ("divided", names)):
        spec = {"fields": [{"column": column, "transform": "identity"} for column in divided]}
        definition = TableDefinition(name=name, columns=columns, partition_spec=spec if divided else {})
        create_table(tenant_id=tenant_id, definition=definition, actor="test")
    rows: list[tuple[JSON, ...]] = [
        (True, 1, 2**60, 1.5, -0.0, "1.50", "a\0b", "2013-01-01", "2013-01-01T00:00:00Z",
         "00000000-0000-0000-0000-000000000001", {"a": 1}, "AAE=", [1.5, -0.0, None], 1e300),
        (False, -1, -(2**60), -2.5, 0.0, "-1.25", "x" * 300, "1969-01-01", "1969-12-31T23:59:59.999999Z",
         "FFFFFFFF-0000-0000-0000-000000000001", [1, "b"], "", [], 1e-300),
        (None,) * 14,
    ]  # fmt: skip
    payloads = [{f"c{n}": value for n, value in enumerate(row)} for row in rows]
    for table in ("events", "divided"):
        write(tenant_id, [{"payload": payload} for payload in payloads], table=table)
    lake.materialize(tenant_id)
    assert [(each.kind, each.detail) for each in check(lake, None, mode="deep").findings] == []
    change = TableChange(
        compatibility_mode="none",
        widen={"c1": "int64", "c3": "float64", "c2": "json"},
        rename={"c6": "text"},
        drop=frozenset({"c0"}),
    )
    evolve_table(tenant_id=tenant_id, name="events", change=change, actor="test")
    write(tenant_id, [{"payload": {"c1": 2**40, "text": "later"}}])
    lake.materialize(tenant_id)
    compact(lake, tenant_id)
    checked = check(lake, None, mode="deep")
    assert [(each.kind, each.detail) for each in checked.findings] == []
    assert checked.summary["rows_read"] == 3 + 3 + 1 + 4


def flip_a_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def replace_by_another(path: Path) -> None:
    other = next(each for each in sorted(path.parents[2].rglob("*.parquet")) if each != path)
    path.write_bytes(other.read_bytes())


@pytest.mark.parametrize(
    ("damage", "quick", "deep"),
    [
        (flip_a_byte, set(), {"checksum_mismatch"}),
        (truncate, {"size_mismatch"}, {"size_mismatch", "checksum_mismatch"}),
        (Path.unlink, {"missing_file"}, {"missing_file"}),
        (replace_by_another, set(), {"checksum_mismatch"}),
    ],
)
def test_damaged_file_is_named_with_what_it_takes_away(
    lake: Lake, tenant_id: str, damage: Callable[[Path], None], quick: set[str], deep: set[str]
) -> None:
    file = files(tenant_id)[1]
    damage(object_of(lake, file))
    assert check(lake, tenant_id).kinds == quick
    checked = check(lake, tenant_id, mode="deep")
    assert checked.kinds == deep
    assert (checked.run.state, checked.run.error_code) == ("failed", "INTEGRITY_CHECK_FAILED")
    latest = resolve(tenant_id=tenant_id).snapshot_id
    for found in checked.findings:
        assert (found.severity, found.runbook) == ("error", "integrity-findings.md")
        assert (found.tenant_id, found.table_id, found.file_id) == (tenant_id, file.table_id, file.file_id)
        assert found.object_key == file.path
        assert (found.detail["table_name"], found.detail["rows_lost"]) == ("events", 1)
        assert found.detail["snapshots"] == {"count": 2, "first": latest - 1, "last": latest, "latest": True}
    assert gravest_findings(run_id=checked.run.run_id, limit=1)[0].object_key == file.path
    assert checked.summary["missing_files"] == ("missing_file" in deep)
    assert checked.summary["size_mismatch_files"] == ("size_mismatch" in deep)
    assert checked.summary["checksum_mismatch_files"] == ("checksum_mismatch" in deep)


def test_object_without_a_row_is_an_orphan_unless_it_may_be_under_way(lake: Lake, tenant_id: str) -> None:
    name = "part-7-0-00000000-0000-0000-0000-000000000000.parquet"
    lake.store.put(f"{tenant_id}/events/date=2013-01-01/hour=00/{name}", b"fresh")
    lake.store.put(f"{tenant_id}/events/date=2012-01-01/hour=00/{name}", b"old")
    lake.store.put(f"{tenant_id}/events/stray", b"not a name of ours")
    lake.store.put("_duckmesh/anything", b"the store's own")
    lake.store.put("elsewhere", b"nobody's")
    old = lake.root / "objects" / f"{tenant_id}/events/date=2012-01-01/hour=00/{name}"
    os.utime(old, (0, 0))
    checked = check(lake, tenant_id)
    prefix = f"{tenant_id}/events/"
    told = [(found.kind, found.severity, found.object_key.removeprefix(prefix)) for found in checked.findings]
    assert told == [
        ("orphan_in_grace", "info", f"date=2013-01-01/hour=00/{name}"),
        ("orphan_object", "warning", f"date=2012-01-01/hour=00/{name}"),
        ("orphan_object", "warning", "stray"),
    ]
    assert (checked.run.state, checked.summary["orphan_files"], checked.summary["warnings"]) == ("succeeded", 3, 2)
    everything = check(lake, None)
    known = {found.object_key for found in checked.findings}
    assert {found.object_key for found in everything.findings} == {*known, "elsewhere"}


def test_staged_object_of_an_accepted_write_is_missed(lake: Lake, tenant_id: str) -> None:
    write(tenant_id, [record("x"), record("y")], staging=Staging(store=lake.store, above_bytes=1))
    (staged,) = lake.store.list("_staged/")
    lake.store.delete_many([staged.key])
    found = check(lake, tenant_id).one("missing_staged_object")
    assert (found.object_key, found.detail["rows_lost"]) == (staged.key, 2)


def test_missing_file_tells_where_its_rows_are_too(lake: Lake, tenant_id: str) -> None:
    compact(lake, tenant_id)
    *inputs, output = files(tenant_id)
    object_of(lake, output).unlink()
    (elsewhere,) = check(lake, tenant_id).one("missing_file").detail["recover"]
    assert (elsewhere["from"], elsewhere["files"], elsewhere["rows"], elsewhere["same_rows"]) == (
        "compaction_inputs", 3, 3, True,
    )  # fmt: skip
    assert elsewhere["object_keys"] == [file.path for file in inputs]
    object_of(lake, inputs[0]).unlink()
    found = {each.file_id: each for each in check(lake, tenant_id).findings}
    (elsewhere,) = found[inputs[0].file_id].detail["recover"]
    assert (elsewhere["from"], elsewhere["object_keys"]) == ("compaction_output", [output.path])


def test_missing_file_tells_of_the_backups_that_hold_it(lake: Lake, tenant_id: str) -> None:
    (file, *_) = files(tenant_id)
    object_of(lake, file).unlink()
    later = file.created_at + timedelta(seconds=1)
    for name, with_data, began in (("held", True, later), ("before", True, file.created_at), ("bare", False, later)):
        Backup.objects.create(
            name=name,
            directory="elsewhere",
            state=Backup.State.COMPLETED,
            incarnation=1,
            with_data=with_data,
            encrypted=False,
            started_at=began,
            dumped_at=began,
            size_bytes=1,
            object_count=1,
        )
    (elsewhere,) = check(lake, tenant_id).one("missing_file").detail["recover"]
    assert (elsewhere["from"], elsewhere["backup"]) == ("backup", "held")


def test_interval_removed_by_hand_is_found_with_the_snapshots_and_rows_that_it_took(lake: Lake, tenant_id: str) -> None:
    file = files(tenant_id)[1]
    SnapshotFile.objects.filter(file_id=file.file_id).delete()
    latest = resolve(tenant_id=tenant_id).snapshot_id
    checked = check(lake, tenant_id)
    assert checked.kinds == {
        "file_without_interval", "totals_mismatch", "change_log_mismatch", "records_missing",
    }  # fmt: skip
    assert checked.one("file_without_interval").object_key == file.path
    totals = checked.one("totals_mismatch")
    assert totals.table_id == file.table_id
    assert totals.detail == {
        "table_name": "events",
        "snapshots": {"count": 2, "first": latest - 1, "last": latest},
        "rows_lost": 1,
        "files_lost": 1,
        "bytes_lost": file.size_bytes,
    }
    assert checked.one("change_log_mismatch").detail["snapshot_id"] == latest - 1
    records = checked.one("records_missing").detail
    assert (records["rows_lost"], records["first_token"], records["last_token"]) == (1, 2, 2)


def test_interval_of_a_restored_file_removed_by_hand_is_found(lake: Lake, tenant_id: str) -> None:
    early = resolve(tenant_id=tenant_id).snapshot_id
    compact(lake, tenant_id)
    order_restore(tenant_id=tenant_id, snapshot_id=early, actor="test")
    lake.materialize(tenant_id)
    again = SnapshotFile.objects.filter(tenant_id=tenant_id, removed_in=None).order_by("file_id")[0]
    SnapshotFile.objects.filter(file_id=again.file_id, added_in=again.added_in).delete()
    checked = check(lake, tenant_id)
    assert checked.kinds == {"totals_mismatch", "change_log_mismatch"}
    assert checked.one("totals_mismatch").detail["snapshots"] == {
        "count": 1, "first": again.added_in, "last": again.added_in,
    }  # fmt: skip


@pytest.mark.parametrize("case", CONTRADICTIONS)
def test_contradiction_in_the_catalog_is_named(lake: Lake, tenant_id: str, case: str) -> None:
    sql, expected = CONTRADICTIONS[case]
    with connection.cursor() as cursor:
        cursor.execute(sql, {"tenant": tenant_id})
        assert cursor.rowcount
    assert check(lake, tenant_id, mode="deep").kinds == expected
