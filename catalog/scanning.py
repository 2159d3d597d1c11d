"""How files written in several versions of a table's schema are read in one of them."""

from collections.abc import Iterable, Mapping

from catalog.schema import Column, TableSchema, duckdb_type
from storage.columns import OP_COLUMN, OP_FIELD_ID, TOKEN_COLUMN, TOKEN_FIELD_ID
from storage.conversion import conversion_sql, is_cast, is_convertible
from storage.reading import Changed, Part, ScanColumn, quote_name


def scan_columns(schema: TableSchema, *, keyed: bool) -> list[ScanColumn]:
    """All columns of the table's files as a reader in this schema sees them, ours at the end."""
    columns = [
        ScanColumn(field_id=column.field_id, name=column.name, duckdb_type=duckdb_type(column.type))
        for column in schema.columns
    ]
    if keyed:
        columns.append(ScanColumn(field_id=OP_FIELD_ID, name=OP_COLUMN, duckdb_type="TINYINT"))
    return [*columns, ScanColumn(field_id=TOKEN_FIELD_ID, name=TOKEN_COLUMN, duckdb_type="BIGINT")]


def scan_parts(
    files: Iterable[tuple[str, int]], *, schema: TableSchema, others: Mapping[int, TableSchema]
) -> tuple[Part, ...]:
    """The files, given by path and schema version, apart by how they are read in `schema`.

    Those of versions that only need casts are one part; `others` are the schemas of the other versions.
    """
    ways: dict[int, Part] = {}
    found: dict[tuple[bool, tuple[Changed, ...]], tuple[list[str], set[Changed]]] = {}
    for path, written in files:
        if written not in ways:
            ways[written] = _way(others.get(written, schema), schema)
        way = ways[written]
        expressed = tuple(column for column in way.changed if column.expression)
        of_part, cast = found.setdefault((way.uniform, expressed), ([], set()))
        of_part.append(path)
        cast.update(column for column in way.changed if not column.expression)
    return tuple(
        Part(files=tuple(of_part), uniform=uniform, changed=(*expressed, *sorted(cast, key=lambda c: c.field_id)))
        for (uniform, expressed), (of_part, cast) in found.items()
    )


def has_bounds_of(*, stored: Column, shown: Column) -> bool:
    """Whether bounds of a column as a file stores it are bounds of it as it is shown: all values keep their order."""
    if stored.type == shown.type:
        return True
    # A number as text sorts otherwise than as a number.
    return is_cast(from_type=stored.type, to_type=shown.type) and shown.type != "string"


def _way(written: TableSchema, shown: TableSchema) -> Part:
    """How files of one version are read in another; a part without files."""
    if _layout(written) == _layout(shown):
        return Part(files=(), uniform=True)
    stored = {column.field_id: column for column in written.columns}
    changed = (
        _changed(stored[column.field_id], column)
        for column in shown.columns
        if column.field_id in stored and stored[column.field_id].type != column.type
    )
    return Part(files=(), changed=tuple(changed))


def _layout(schema: TableSchema) -> list[tuple[int, str, str]]:
    return [(column.field_id, column.name, column.type) for column in schema.columns]


def _changed(stored: Column, shown: Column) -> Changed:
    types = {"from_type": stored.type, "to_type": shown.type}
    holds = {"from_holds": stored.holds, "to_holds": shown.holds}
    if is_cast(**types) or not is_convertible(**types, **holds):
        # A file of a later version than the snapshot's, if it comes to that, is shown as far as DuckDB can cast it.
        return Changed(field_id=shown.field_id)
    return Changed(
        field_id=shown.field_id,
        stored_type=duckdb_type(stored.type),
        expression=conversion_sql(quote_name(shown.name), **types, **holds),
    )
