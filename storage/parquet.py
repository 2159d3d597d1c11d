"""Data files: Arrow tables written as Parquet by DuckDB, with field ids, statistics and a content proof.

DuckDB writes and not pyarrow: in the file's own statistics it leaves out bounds of float columns that hold NaN, its
files are smaller and it scans them faster. Row groups of 122,880 rows and zstd level 1 were the best of those measured.
"""

import hashlib
import os
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from storage.bounds import Bound, bounds
from storage.columns import FIELD_ID_KEY, HOLDS_KEY, OP_COLUMN, OP_FIELD_ID, TOKEN_COLUMN, TOKEN_FIELD_ID, TYPE_KEY
from storage.conversion import conversion_sql, item_of
from storage.errors import ContentHashChanged, DataFileCorrupt, StoreUnavailable, UnwritableData
from storage.proof import CONTENT_HASH_ALGORITHM, GOLDEN_SQL, GOLDEN_SUM, proof_sql
from storage.reading import ScanColumn, quote_literal, quote_name

__all__ = [
    "CONTENT_HASH_ALGORITHM",
    "ColumnStats",
    "FooterInfo",
    "WrittenFile",
    "conform",
    "read_footer",
    "write_parquet",
]

ROW_GROUP_ROWS = 122_880
_SYSTEM_METADATA = {
    TOKEN_COLUMN: {FIELD_ID_KEY: b"%d" % TOKEN_FIELD_ID, TYPE_KEY: b"int64"},
    OP_COLUMN: {FIELD_ID_KEY: b"%d" % OP_FIELD_ID, TYPE_KEY: b"int8"},
}

_TRAVELS_AS_TEXT = {"uuid": "UUID", "json": "JSON"}

_SETTINGS: dict[str, str | bool | int | float | list[str]] = {
    "threads": 2,
    "memory_limit": "1GB",
    "temp_directory": "",
    "autoinstall_known_extensions": False,
    "autoload_known_extensions": False,
}


@dataclass(frozen=True, kw_only=True)
class ColumnStats:
    """Bounds of one column in one file; None is no bound. Nulls lie outside the bounds and are counted."""

    field_id: int
    min: Bound
    max: Bound
    null_count: int


@dataclass(frozen=True, kw_only=True)
class WrittenFile:
    """What the catalog records of a file. The content proof is of `CONTENT_HASH_ALGORITHM`."""

    row_count: int
    size_bytes: int
    sha256: str
    content_count: int
    content_hash: int
    columns: tuple[ColumnStats, ...]


@dataclass(frozen=True, kw_only=True)
class FooterInfo:
    """What a file says of itself: its rows and the field ids of its columns, in their order."""

    rows: int
    field_ids: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class _Target:
    """A column as it is written: `select` makes it of the Arrow column, `scan` is how it can be read."""

    scan: ScanColumn
    select: str
    kind: str


def write_parquet(table: pa.Table, path: Path, *, sort_by: Sequence[str] = ()) -> WrittenFile:
    """Write the rows of `table` to `path`; the caller sees to it that the bytes are synced (`put_file` does).

    Every field of the table's schema names its field id and its logical type in its metadata. Rows keep their
    order unless `sort_by` names columns. Raises `UnwritableData` for values that are not of the type claimed,
    and `StoreUnavailable` when the disk has no room; then nothing is left at `path`.
    """
    if table.num_rows == 0:
        raise ValueError("an empty data file would only cost a request: do not write one")
    targets = [_target(field) for field in table.schema]
    select = ", ".join(target.select for target in targets)
    database = _connection()
    try:
        with database.cursor() as cursor:
            cursor.execute("PRAGMA disable_optimizer")  # plans this plain gain nothing: 0.7 ms of 6 for 1,000 rows
            cursor.register("batch", table)
            # The path is ours, and the names are quoted; DuckDB takes neither as a parameter here.
            columns = [target.scan for target in targets]
            cursor.execute(copy_sql(f"SELECT {select} FROM batch{_order(sort_by)}", path, columns))
            source = f"(SELECT {select} FROM batch)"
            proof = cursor.execute(proof_sql(source, columns)).fetchall()
        return WrittenFile(
            row_count=table.num_rows,
            size_bytes=path.stat().st_size,
            sha256=sha256_of(path),
            content_count=int(proof[0][0]),
            content_hash=int(proof[0][1]),
            columns=tuple(_column_stats(table, target) for target in targets),
        )
    except (duckdb.ConversionException, duckdb.InvalidInputException) as exc:
        path.unlink(missing_ok=True)
        raise UnwritableData("The rows hold a value that is not of its column's type") from exc
    except (duckdb.IOException, OSError) as exc:
        path.unlink(missing_ok=True)
        raise StoreUnavailable("The data file could not be written to the local disk") from exc
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def conform(table: pa.Table, target: pa.Schema) -> pa.Table:
    """The rows of `table`, written under another version of the schema, as `target` wants them.

    Columns are found by field id: one that `table` lacks is null, one that `target` lacks is left out, and one of
    another type is shown in the new one. Columns of the same type are the same memory. Raises `UnwritableData`.
    """
    held = {field.metadata[FIELD_ID_KEY]: index for index, field in enumerate(table.schema)}
    changed: list[tuple[int, pa.Field, str]] = []
    columns: list[pa.ChunkedArray | pa.Array] = []
    for place, field in enumerate(target):
        index = held.get(field.metadata[FIELD_ID_KEY])
        if index is None:
            columns.append(pa.nulls(table.num_rows, field.type))
            continue
        column, source = table.column(index), table.schema.field(index)
        alike = source.metadata[TYPE_KEY] == field.metadata[TYPE_KEY]
        # Nulls are nulls in every type, also where the one cannot be shown as the other.
        columns.append(column if alike or column.null_count < table.num_rows else pa.nulls(table.num_rows, field.type))
        if not alike and column.null_count < table.num_rows:
            changed.append((place, field, _shown(source, field, f"c{place}")))
    if changed:
        rows = pa.table({f"c{place}": columns[place] for place, _, _ in changed})
        selected = ", ".join(f"{expression} AS c{place}" for place, _, expression in changed)
        for (place, field, _), column in zip(changed, _select(selected, rows).columns, strict=True):
            columns[place] = column if column.type == field.type else column.cast(field.type)
    return pa.Table.from_arrays(columns, schema=target)


def read_footer(path: Path) -> FooterInfo:
    """What the file at `path` says of itself; `DataFileCorrupt` if it is no Parquet file with field ids."""
    try:
        metadata = pq.read_metadata(path)
        fields: Iterable[pa.Field] = metadata.schema.to_arrow_schema()
        ids = tuple(int(field.metadata[FIELD_ID_KEY]) for field in fields)
    except (pa.ArrowException, OSError, KeyError, TypeError) as exc:
        raise DataFileCorrupt("The data file's footer cannot be read") from exc
    return FooterInfo(rows=metadata.num_rows, field_ids=ids)


def sha256_of(path: Path) -> str:
    """The SHA-256 of the file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _shown(source: pa.Field, field: pa.Field, name: str) -> str:
    """The expression that makes the column `name`, of the field `source`, what Arrow carries for `field`."""
    from_type, to_type = source.metadata[TYPE_KEY].decode(), field.metadata[TYPE_KEY].decode()
    kind, depth = _item(from_type)
    cast = _TRAVELS_AS_TEXT.get(kind)
    shown = conversion_sql(
        f"CAST({name} AS {cast}{'[]' * depth})" if cast else name,
        from_type=from_type,
        from_holds=source.metadata.get(HOLDS_KEY, b"").decode(),
        to_type=to_type,
        to_holds=field.metadata.get(HOLDS_KEY, b"").decode(),
    )
    kind, depth = _item(to_type)
    return f"CAST({shown} AS VARCHAR{'[]' * depth})" if kind in _TRAVELS_AS_TEXT else shown


def _select(selected: str, rows: pa.Table) -> pa.Table:
    with _connection().cursor() as cursor:
        cursor.register("rows", rows)
        try:
            return cursor.execute(f"SELECT {selected} FROM rows").to_arrow_table()
        except (duckdb.ConversionException, duckdb.InvalidInputException) as exc:
            raise UnwritableData("The rows hold a value that has no place in the new type of its column") from exc


def _target(field: pa.Field) -> _Target:
    metadata = _SYSTEM_METADATA.get(field.name) or field.metadata or {}
    if FIELD_ID_KEY not in metadata or TYPE_KEY not in metadata:
        raise ValueError(f"column {field.name} names no field id and type in its metadata")
    kind, depth = _item(metadata[TYPE_KEY].decode())
    name = quote_name(field.name)
    cast = _TRAVELS_AS_TEXT.get(kind)
    floating = {"float32": "FLOAT", "float64": "DOUBLE"}.get(kind, "")  # the only types the proof asks about
    return _Target(
        scan=ScanColumn(field_id=int(metadata[FIELD_ID_KEY]), name=field.name, duckdb_type=floating + "[]" * depth),
        select=f"CAST({name} AS {cast}{'[]' * depth}) AS {name}" if cast else name,
        kind="list" if depth else kind,
    )


def _item(kind: str) -> tuple[str, int]:
    """The type inside of all lists, and how many there are around it."""
    depth = 0
    while item := item_of(kind):
        kind, depth = item, depth + 1
    return kind, depth


def copy_sql(select: str, path: Path, columns: Sequence[ScanColumn], *, row_group_rows: int = ROW_GROUP_ROWS) -> str:
    """The statement that writes the rows of `select`, which yields `columns`, as a data file."""
    ids = ", ".join(f"{quote_name(column.name)}: {column.field_id}" for column in columns)
    return (
        f"COPY ({select}) TO {quote_literal(str(path))} (FORMAT parquet, COMPRESSION zstd, COMPRESSION_LEVEL 1, "
        f"ROW_GROUP_SIZE {row_group_rows}, FIELD_IDS {{{ids}}}, USE_TMP_FILE false)"
    )


def _order(sort_by: Sequence[str]) -> str:
    return " ORDER BY " + ", ".join(quote_name(name) for name in sort_by) if sort_by else ""


def _column_stats(table: pa.Table, target: _Target) -> ColumnStats:
    values = table.column(target.scan.name)
    low, high = bounds(target.kind, values)
    return ColumnStats(field_id=target.scan.field_id, min=low, max=high, null_count=int(values.null_count))


_lock = threading.Lock()
_opened: dict[int, duckdb.DuckDBPyConnection] = {}


def require_content_hash() -> str:
    """DuckDB hashes as it did when content proofs were recorded; its version. Raises `ContentHashChanged`."""
    _require_golden(_connection())
    return str(duckdb.__version__)


def _require_golden(opened: duckdb.DuckDBPyConnection) -> None:
    if opened.cursor().execute(GOLDEN_SQL).fetchall()[0][0] != GOLDEN_SUM:
        raise ContentHashChanged("DuckDB's hash() is not the one of the recorded content proofs")


def _connection() -> duckdb.DuckDBPyConnection:
    """This process's one DuckDB, opened when first needed; a forked child opens its own."""
    pid = os.getpid()
    if (held := _opened.get(pid)) is not None:
        return held
    with _lock:
        if pid not in _opened:
            opened = duckdb.connect(config=_SETTINGS)
            opened.execute("SET GLOBAL TimeZone = 'UTC'")
            _require_golden(opened)
            _opened[pid] = opened
        return _opened[pid]
