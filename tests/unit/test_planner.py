"""From a read set to views: what may be read as it lies, and what must be matched by field id."""

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from catalog.errors import IngestFailed, TableNotFound
from catalog.readset import ReadFile, ReadSet, ReadTable
from catalog.schema import Column, TableSchema
from query.cache import InPlace
from query.errors import QueryForbidden
from query.planner import check, plan

SCHEMA = TableSchema(version=2, columns=(Column(field_id=7, name="a", type="decimal(5,2)"),))
EMPTY = ReadSet(
    snapshot_id=1,
    snapshot_time=datetime(2024, 1, 1, tzinfo=UTC),
    visible_token=1,
    tables={},
    issued_token=None,
    failed_event_id=None,
)


def read_set(*versions: int) -> ReadSet:
    """A table `t` whose files were written in these versions of its schema."""
    files = tuple(
        ReadFile(path=f"acme/{n}.parquet", row_count=1, size_bytes=10, sha256="", schema_version=version)
        for n, version in enumerate(versions)
    )
    table = ReadTable(table_id=1, name="T", schema=SCHEMA, primary_key_cols=("a",), files=files)
    return replace(EMPTY, tables={"t": table})


@pytest.mark.parametrize(
    ("versions", "uniform"), [((), True), ((2,), True), ((2, 2), True), ((1, 2), False), ((1, 1), False), ((3,), False)]
)
def test_files_are_read_as_they_lie_only_if_all_have_the_version_of_the_snapshot(
    tmp_path: Path, versions: tuple[int, ...], uniform: bool
) -> None:
    made = plan(read_set(*versions), tenant_id="acme", source=InPlace(tmp_path))
    (view,) = made.views
    assert view.uniform is uniform
    assert view.files == tuple(str(tmp_path / f"acme/{n}.parquet") for n in range(len(versions)))
    assert [(c.name, c.duckdb_type, c.field_id) for c in view.columns] == [("a", "DECIMAL(5,2)", 7)]
    assert (view.name, view.key) == ("T", ("a",))
    assert (made.files, made.size_bytes, made.hit_bytes) == (len(versions), 10 * len(versions), 10 * len(versions))


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
