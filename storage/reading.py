"""SQL that reads data files in the schema of a snapshot. Pure text: who runs it is the caller's business.

Two forms, measured with DuckDB 1.5.5. By field id (`scan_sql`) every file is right whatever version of the
schema it was written in; projections reach the files, and so do filters and row-group pruning, but for
columns of the types DOUBLE and DECIMAL that some file stores in another type, and for those that no cast
shows. It costs about 1 ms per query more than a plain read, and a single file is then scanned by one thread;
several files use all of them. A plain read (`uniform_scan_sql`) has none of these costs, and is right only if
every file was written in exactly this version. So a table is read in parts (`parts_sql`): files that may be
read plainly, and the others, apart by what has to be done to their columns.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

GLOB_CHARACTERS = frozenset("*?[")


@dataclass(frozen=True, kw_only=True)
class ScanColumn:
    """A column as the reader wants to see it; `duckdb_type` is text that DuckDB parses as a type.

    `alike` says that every file which has it stores it in this type. Where no cast shows what is stored, `expression`
    does it, over a column of this name that is read as `stored_type`.
    """

    field_id: int
    name: str
    duckdb_type: str
    alike: bool = False
    stored_type: str = ""
    expression: str = ""


@dataclass(frozen=True, kw_only=True)
class Changed:
    """A column that files of a part store in another type; a cast shows it unless there is an `expression`."""

    field_id: int
    stored_type: str = ""
    expression: str = ""


@dataclass(frozen=True, kw_only=True)
class Part:
    """Files that are read in the same way: plainly if `uniform`, else by field id with the `changed` columns shown."""

    files: tuple[str, ...]
    uniform: bool = False
    changed: tuple[Changed, ...] = ()


def parts_sql(parts: Sequence[Part], columns: Sequence[ScanColumn]) -> str:
    """A FROM-able expression of `columns` over all files of the parts."""
    scans = [_part_sql(part, columns) for part in parts if part.files]
    if not scans:
        _check(columns)
        return _empty(columns)
    if len(scans) == 1:
        return scans[0]
    names = ", ".join(quote_name(column.name) for column in columns)
    return "(" + " UNION ALL ".join(f"SELECT {names} FROM {scan}" for scan in scans) + ")"


def _part_sql(part: Part, columns: Sequence[ScanColumn]) -> str:
    if part.uniform:
        return uniform_scan_sql(part.files, columns)
    changed = {column.field_id: column for column in part.changed}
    return scan_sql(part.files, [_as_stored(column, changed.get(column.field_id)) for column in columns])


def _as_stored(column: ScanColumn, changed: Changed | None) -> ScanColumn:
    if changed is None:
        return replace(column, alike=True)
    return replace(column, stored_type=changed.stored_type, expression=changed.expression)


def scan_sql(paths: Sequence[str], columns: Sequence[ScanColumn]) -> str:
    """A FROM-able expression of `columns` over the files `paths`, matched by field id.

    A renamed column appears under its new name, one that a file lacks is NULL there, a narrower type is
    widened. Without files it is an empty relation with the same columns and types.
    """
    _check(columns)
    if not paths:
        return _empty(columns)
    fields = ", ".join(
        f"{c.field_id}: {{name: {quote_literal(c.name)}, type: {quote_literal(c.stored_type or c.duckdb_type)},"
        " default_value: NULL}"
        for c in columns
    )
    scan = f"read_parquet({_list(paths)}, hive_partitioning = false, schema = MAP {{{fields}}})"
    shown = [_shown(column) for column in columns]
    if shown == [quote_name(column.name) for column in columns]:
        return scan
    return f"(SELECT {', '.join(shown)} FROM {scan})"


def uniform_scan_sql(paths: Sequence[str], columns: Sequence[ScanColumn]) -> str:
    """As `scan_sql`, for files that were all written in the schema version that `columns` come from."""
    _check(columns)
    if not paths:
        return _empty(columns)
    names = ", ".join(quote_name(column.name) for column in columns)
    return f"(SELECT {names} FROM read_parquet({_list(paths)}, hive_partitioning = false))"


def quote_name(name: str) -> str:
    """`name` as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def quote_literal(text: str) -> str:
    """`text` as an SQL string."""
    if "\0" in text:
        raise ValueError("a zero byte cannot stand in SQL text")
    return "'" + text.replace("'", "''") + "'"


def _loses_when_narrowed(column: ScanColumn) -> bool:
    """Whether a column of this type may be stored as one that cannot hold every value of it."""
    return any(kind in column.duckdb_type.upper() for kind in ("DOUBLE", "DECIMAL"))


def _shown(column: ScanColumn) -> str:
    name = quote_name(column.name)
    if column.expression:
        return f"{column.expression} AS {name}"
    if column.alike or not _loses_when_narrowed(column):
        return name
    # DuckDB (until the fix of its issue 24900) rounds the constant of a filter to the type in which a file stores
    # the column: a stored integer 2501 would equal 2500.5. It does not see through this expression.
    return f"CASE WHEN {name} IS NULL THEN NULL ELSE {name} END AS {name}"


def _list(paths: Sequence[str]) -> str:
    for path in paths:
        # DuckDB would expand the pattern, and an escaped one does not pass `allowed_directories`.
        if GLOB_CHARACTERS.intersection(path):
            raise ValueError("a path with *, ? or [ would be read as a pattern")
    return "[" + ", ".join(quote_literal(path) for path in paths) + "]"


def _empty(columns: Sequence[ScanColumn]) -> str:
    nulls = ", ".join(f"CAST(NULL AS {column.duckdb_type}) AS {quote_name(column.name)}" for column in columns)
    return f"(SELECT {nulls} WHERE false)"


def _check(columns: Sequence[ScanColumn]) -> None:
    if not columns:
        raise ValueError("a scan needs at least one column")
    if len({column.field_id for column in columns}) < len(columns):
        raise ValueError("two columns have the same field id")
    if len({column.name.lower() for column in columns}) < len(columns):
        raise ValueError("two columns have the same name")
