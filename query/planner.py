"""From the tables a statement names to what the engine is shown: views over files of one snapshot."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from catalog.errors import IngestFailed, TableNotFound
from catalog.readset import ReadFile, ReadSet, ReadTable
from catalog.scanning import scan_parts
from catalog.schema import duckdb_type
from query.cache import NEVER, FileSource
from query.errors import QueryForbidden, QueryInvalid
from query.gate import belongs_to_system, system_name_refused
from query.predicates import TableUse
from query.pruning import needed_files
from query.request import Params, TableView, ViewColumn
from storage.reading import Part


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The views, and what will be read through them."""

    views: tuple[TableView, ...]
    files: int
    pruned_files: int
    size_bytes: int
    hit_bytes: int


def check(read: ReadSet, *, names: Iterable[str]) -> None:
    """Every named table exists in the snapshot and has columns, and no failed write is missing from it.

    Raises `TableNotFound`, `QueryForbidden` for a name of the system, `QueryInvalid` and `IngestFailed`.
    """
    for name in sorted(names):
        if name not in read.tables:
            if belongs_to_system(name):
                raise QueryForbidden(system_name_refused(name))
            raise TableNotFound(f"There is no table {name}.", table_name=name)
        if not read.tables[name].schema.columns:
            raise QueryInvalid(f"The table {name} has no columns yet: they come with its first rows.")
    if read.failed_event_id is not None:
        raise IngestFailed(
            "A write that the token covers could not be made visible; an operator can replay or discard it.",
            failed_event_id=read.failed_event_id,
        )


def plan(
    read: ReadSet,
    *,
    tenant_id: str,
    source: FileSource,
    uses: Sequence[TableUse] = (),
    params: Params | None = None,
    now: datetime | None = None,
    deadline: float = NEVER,
) -> Plan:
    """The plan of reading every table of the set, as far as its `uses` need it; the files are on this machine.

    Raises `QueryTimeout` if they are not by the deadline. Without `now`, conditions on the present moment tell nothing.
    """
    tables = [_needed(table, read, uses, params, now) for table in read.tables.values()]
    files = [file for table in tables for file in table.files]
    local = source.bring(tenant_id=tenant_id, files=files, deadline=deadline)
    paths = dict(zip((file.path for file in files), local.paths, strict=True))
    return Plan(
        views=tuple(_view(table, paths) for table in tables),
        files=len(files),
        pruned_files=sum(len(table.files) for table in read.tables.values()) - len(files),
        size_bytes=sum(file.size_bytes for file in files),
        hit_bytes=local.hit_bytes,
    )


def bounded_columns(uses: Iterable[TableUse]) -> frozenset[str]:
    """The columns, in lower case, whose bounds may spare the statement a file."""
    return frozenset(condition.column for use in uses for condition in use.conditions)


def _needed(
    table: ReadTable, read: ReadSet, uses: Iterable[TableUse], params: Params | None, now: datetime | None
) -> ReadTable:
    of_table = [use for use in uses if use.table == table.name.lower()]
    if not table.stat_fields or not of_table:
        return table
    columns = {name: frozenset(other.schema.by_folded_name) for name, other in read.tables.items()}
    files = needed_files(table, uses=of_table, params=params, columns=columns, now=now)
    return replace(table, files=files)


def _view(table: ReadTable, paths: Mapping[str, str]) -> TableView:
    keyed = bool(table.primary_key_cols)
    return TableView(
        name=table.name,
        columns=tuple(
            ViewColumn(name=column.name, duckdb_type=duckdb_type(column.type), field_id=column.field_id)
            for column in table.schema.columns
        ),
        folded=_parts((file for file in table.files if file.folded or not keyed), table, paths),
        fresh=_parts((file for file in table.files if keyed and not file.folded), table, paths),
        key=table.primary_key_cols,
    )


def _parts(files: Iterable[ReadFile], table: ReadTable, paths: Mapping[str, str]) -> tuple[Part, ...]:
    found = [(paths[file.path], file.schema_version) for file in files]
    return scan_parts(found, schema=table.schema, others=table.other_schemas)
