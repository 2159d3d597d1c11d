"""From a read set to views: what may be read as it lies, and what must be matched by field id."""

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from catalog.errors import IngestFailed, TableNotFound
from catalog.readset import ReadFile, ReadSet, ReadTable
from catalog.schema import Column, TableSchema
from query.cache import InPlace
from query.errors import QueryForbidden, QueryInvalid
from query.planner import check, plan
from query.request import TableView
from storage.reading import Changed, Part

OLD = TableSchema(
    version=1,
    columns=(Column(field_id=7, name="a", type="int32"), Column(field_id=8, name="b", type="float64")),
)
SAME = TableSchema(
    version=2, columns=(Column(field_id=7, name="a", type="decimal(12,2)"), Column(field_id=8, name="b", type="json"))
)
SCHEMA = replace(SAME, version=3)
EMPTY = ReadSet(
    snapshot_id=1,
    snapshot_time=datetime(2024, 1, 1, tzinfo=UTC),
    visible_token=1,
    tables={},
    issued_token=None,
    failed_event_id=None,
    token_is_void=False,
)


def read_set(*versions: int, key: tuple[str, ...] = (), folded: int = 0) -> ReadSet:
    """A table `t` in version 3 of its schema, whose files were written in these versions; the first are `folded`."""
    files = tuple(
        ReadFile(
            path=f"acme/{n}.parquet", row_count=1, size_bytes=10, sha256="", schema_version=version, folded=n < folded
        )
        for n, version in enumerate(versions)
    )
    table = ReadTable(
        table_id=1, name="T", schema=SCHEMA, primary_key_cols=key, files=files, other_schemas={1: OLD, 2: SAME}
    )
    return replace(EMPTY, tables={"t": table})


def view_of(read: ReadSet, root: Path) -> TableView:
    (view,) = plan(read, tenant_id="acme", source=InPlace(root)).views
    return view


def test_files_that_lie_as_the_snapshot_shows_them_are_read_plainly_and_the_others_apart(tmp_path: Path) -> None:
    made = plan(read_set(3, 1, 2, 1), tenant_id="acme", source=InPlace(tmp_path))
    (view,) = made.views
    paths = [str(tmp_path / f"acme/{n}.parquet") for n in range(4)]
    plain, shown = view.folded
    assert plain == Part(files=(paths[0], paths[2]), uniform=True)
    assert shown.files == (paths[1], paths[3])
    as_json, cast = shown.changed
    assert (as_json.field_id, as_json.stored_type, cast) == (8, "DOUBLE", Changed(field_id=7))
    assert "JSON" in as_json.expression
    assert [(c.name, c.duckdb_type, c.field_id) for c in view.columns] == [("a", "DECIMAL(12,2)", 7), ("b", "JSON", 8)]
    assert (view.name, view.key, view.fresh) == ("T", (), ())
    assert (made.files, made.size_bytes, made.hit_bytes) == (4, 40, 40)


def test_a_table_without_files_has_no_parts(tmp_path: Path) -> None:
    assert view_of(read_set(), tmp_path).folded == ()


def test_a_dropped_and_a_renamed_column_need_no_expression(tmp_path: Path) -> None:
    table = replace(
        read_set(1).tables["t"],
        schema=TableSchema(version=3, columns=(Column(field_id=8, name="a", type="float64"),)),
    )
    view = view_of(replace(EMPTY, tables={"t": table}), tmp_path)
    assert view.folded == (Part(files=(str(tmp_path / "acme/0.parquet"),)),)


def test_a_keyed_table_keeps_its_folded_files_apart(tmp_path: Path) -> None:
    view = view_of(read_set(3, 3, 3, key=("a",), folded=1), tmp_path)
    assert [len(part.files) for part in view.folded] == [1]
    assert [len(part.files) for part in view.fresh] == [2]
    assert view.key == ("a",)


def test_a_table_that_has_no_columns_yet_says_so() -> None:
    table = replace(read_set().tables["t"], schema=TableSchema(version=1, columns=()))
    with pytest.raises(QueryInvalid, match="no columns yet"):
        check(replace(EMPTY, tables={"t": table}), names={"t"})


def test_every_name_must_be_a_table_of_the_snapshot() -> None:
    check(read_set(), names={"t"})
    with pytest.raises(TableNotFound):
        check(read_set(), names={"t", "u"})
    for name in ("pg_class", "duckdb_tables", "sqlite_master", "pragma_database_list", "information_schema"):
        with pytest.raises(QueryForbidden):
            check(read_set(), names={name})
        check(replace(EMPTY, tables={name: read_set().tables["t"]}), names={name})


def test_a_failed_write_is_a_hole() -> None:
    with pytest.raises(IngestFailed) as failed:
        check(replace(read_set(), failed_event_id=5), names={"t"})
    assert failed.value.context == {"failed_event_id": 5}
