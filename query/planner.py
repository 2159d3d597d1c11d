"""From the tables a statement names to what the engine is shown: views over files of one snapshot."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from catalog.errors import IngestFailed, TableNotFound
from catalog.readset import ReadFile, ReadSet, ReadTable
from catalog.schema import TableSchema, duckdb_type
from query.cache import FileSource
from query.errors import QueryForbidden
from query.gate import belongs_to_system, system_name_refused
from query.request import TableView, ViewColumn


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The views, and what will be read through them."""

    views: tuple[TableView, ...]
    files: int
    size_bytes: int
    hit_bytes: int


def check(read: ReadSet, *, names: Iterable[str]) -> None:
    """Every named table exists in the snapshot, and no failed write is missing from it.

    Raises `TableNotFound`, `QueryForbidden` for a name of the system, and `IngestFailed`.
    """
    for name in sorted(names):
        if name not in read.tables:
            if belongs_to_system(name):
                raise QueryForbidden(system_name_refused(name))
            raise TableNotFound(f"There is no table {name}.", table_name=name)
    if read.failed_event_id is not None:
        raise IngestFailed(
            "A write that the token covers could not be made visible; an operator can replay or discard it.",
            failed_event_id=read.failed_event_id,
        )


def plan(read: ReadSet, *, tenant_id: str, source: FileSource) -> Plan:
    """The plan of reading every table of the set; its files are on this machine."""
    tables = read.tables.values()
    files = [file for table in tables for file in table.files]
    local = source.bring(tenant_id=tenant_id, files=files)
    paths = dict(zip((file.path for file in files), local.paths, strict=True))
    return Plan(
        views=tuple(_view(table, paths) for table in tables),
        files=len(files),
        size_bytes=sum(file.size_bytes for file in files),
        hit_bytes=local.hit_bytes,
    )


def _view(table: ReadTable, paths: Mapping[str, str]) -> TableView:
    return TableView(
        name=table.name,
        columns=_columns(table.schema),
        files=tuple(paths[file.path] for file in table.files),
        key=table.primary_key_cols,
        uniform=_uniform(table.files, table.schema.version),
    )


def _columns(schema: TableSchema) -> tuple[ViewColumn, ...]:
    return tuple(
        ViewColumn(name=column.name, duckdb_type=duckdb_type(column.type), field_id=column.field_id)
        for column in schema.columns
    )


def _uniform(files: Iterable[ReadFile], version: int) -> bool:
    return all(file.schema_version == version for file in files)
