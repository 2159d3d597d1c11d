"""Data files made of data files by DuckDB, in bounded memory: what does not fit spills to a private directory.

A file made here is described in the catalog as one that `storage.parquet` wrote: the same layout, the same kinds of
bounds, the same content proof. Bounds and proof are taken from the file as it was written.
"""

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from storage.bounds import bounds
from storage.errors import ContentHashChanged, DataFileCorrupt, StoreUnavailable
from storage.parquet import ROW_GROUP_ROWS, ColumnStats, copy_sql, sha256_of
from storage.proof import GOLDEN_SQL, GOLDEN_SUM, ContentProof, hash_sum_sql, proof_sql
from storage.reading import ScanColumn, quote_name, uniform_scan_sql

_BATCH_ROWS = 65_536
_GROUP_BYTES = 16 * 2**20
_LEAST_GROUP_ROWS = 2_048  # DuckDB's vector
_UNBOUNDED = frozenset({"binary", "json", "list"})


@dataclass(frozen=True, kw_only=True)
class RewriteLimits:
    """What a rewrite may use of this machine. `keep_free_bytes` of the disk are not for it."""

    memory_bytes: int = 512 * 2**20
    spill_bytes: int = 64 * 2**30
    threads: int = 2
    keep_free_bytes: int = 0


@dataclass(frozen=True, kw_only=True)
class TargetColumn:
    """A column of the files to be written; `kind` is its logical type, which says what bounds it has."""

    scan: ScanColumn
    kind: str


@dataclass(frozen=True, kw_only=True)
class Rewritten:
    """A file as it lies at `path`."""

    path: Path
    size_bytes: int
    sha256: str
    proof: ContentProof
    columns: tuple[ColumnStats, ...]


class Rewriter:
    """One DuckDB for the rewrites of one run; `directory` is private to it and goes with it."""

    def __init__(self, *, directory: Path, connection: duckdb.DuckDBPyConnection) -> None:
        self.directory = directory
        self._connection = connection

    def proof(self, source: str, columns: Sequence[ScanColumn]) -> ContentProof:
        """The content proof of the FROM-able `source`."""
        count, hash_sum = self.rows(proof_sql(source, columns))[0]
        return ContentProof(count=int(count), hash_sum=int(hash_sum))

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        """The rows of a statement. Any: their types are the statement's."""
        with _translated():
            return self._connection.execute(sql).fetchall()

    def batches(self, sql: str) -> Iterator[pa.Table]:
        """The rows of a statement, some at a time."""
        with _translated():
            for batch in self._connection.execute(sql).to_arrow_reader(_BATCH_ROWS):
                yield pa.Table.from_batches([batch])

    def write(
        self,
        select: str,
        *,
        name: str,
        columns: Sequence[TargetColumn],
        order_by: Sequence[str],
        bytes_of_a_row: float,
    ) -> Rewritten | None:
        """The rows of `select` are in the file `name` of the directory; None if there are none.

        They are sorted by `order_by`. If it names nothing they keep their order, which spares the sorting. Where rows
        are long, in Parquet, row groups have fewer of them.
        """
        path = self.directory / name
        scans = [column.scan for column in columns]
        names = ", ".join(quote_name(scan.name) for scan in scans)
        order = " ORDER BY " + ", ".join(map(quote_name, order_by)) if order_by else ""
        # An ORDER BY is kept in any case, and without the other promise it takes half of the memory.
        self.rows(f"SET preserve_insertion_order = {not order_by}")
        # A thread holds a row group, whoever writes or reads it.
        group = max(_LEAST_GROUP_ROWS, min(ROW_GROUP_ROWS, int(_GROUP_BYTES / bytes_of_a_row)))
        copy = copy_sql(f"SELECT {names} FROM ({select}){order}", path, scans, row_group_rows=group)
        written = self.rows(copy)[0][0]
        if not written:
            path.unlink()
            return None
        # The digest is taken beside the scan: both leave Python alone while they run.
        with ThreadPoolExecutor(max_workers=1) as beside:
            digest = beside.submit(sha256_of, path)
            proof, stats = self.described(path, columns)
            return Rewritten(
                path=path, size_bytes=path.stat().st_size, sha256=digest.result(), proof=proof, columns=stats
            )

    def described(self, path: Path, columns: Sequence[TargetColumn]) -> tuple[ContentProof, tuple[ColumnStats, ...]]:
        """Proof and bounds of the file as it was written, in one scan of it."""
        scans = [column.scan for column in columns]
        found = [expression for column in columns for expression in _extremes(column)]
        sql = f"SELECT count(*), {hash_sum_sql(scans)}, {', '.join(found)} FROM {uniform_scan_sql([str(path)], scans)}"
        with _translated():
            row = self._connection.execute(sql).to_arrow_table()
        count, hash_sum = int(row.column(0)[0].as_py()), int(row.column(1)[0].as_py())
        stats = tuple(
            _column_stats(column, row.columns[first : first + 3], count)
            for column, first in zip(columns, range(2, 2 + 3 * len(columns), 3), strict=True)
        )
        return ContentProof(count=count, hash_sum=hash_sum), stats


def spare_bytes(directory: Path, limits: RewriteLimits) -> int:
    """How much a rewrite may write to the disk of `directory`; below zero where it is short already."""
    return shutil.disk_usage(directory).free - limits.keep_free_bytes


@contextmanager
def rewriter(limits: RewriteLimits, *, scratch: Path) -> Iterator[Rewriter]:
    """A rewriter within these limits, in a private directory of `scratch`; nothing of it is left behind."""
    scratch.mkdir(parents=True, exist_ok=True)
    directory = Path(tempfile.mkdtemp(dir=scratch, prefix="rewrite-"))
    try:
        with _translated():
            connection = _connect(limits, directory)
        with connection:
            yield Rewriter(directory=directory, connection=connection)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _connect(limits: RewriteLimits, directory: Path) -> duckdb.DuckDBPyConnection:
    connection = duckdb.connect(
        config={
            "threads": limits.threads,
            "memory_limit": f"{limits.memory_bytes // 1024}KiB",
            "temp_directory": str(directory / "spill"),
            "max_temp_directory_size": f"{_spill_bytes(limits, directory) // 1024}KiB",
            "enable_external_file_cache": False,
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
        }
    )
    connection.execute("SET GLOBAL TimeZone = 'UTC'")
    if connection.execute(GOLDEN_SQL).fetchall()[0][0] != GOLDEN_SUM:
        raise ContentHashChanged("DuckDB's hash() is not the one of the recorded content proofs")
    return connection


def _spill_bytes(limits: RewriteLimits, directory: Path) -> int:
    return max(0, min(limits.spill_bytes, spare_bytes(directory, limits)))


def _extremes(column: TargetColumn) -> list[str]:
    """Smallest and greatest value, and how many there are; NaN is the greatest of all floats."""
    name = quote_name(column.scan.name)
    if column.kind in _UNBOUNDED:
        return ["NULL", "NULL", f"count({name})"]
    value = f"CAST({name} AS VARCHAR)" if column.kind == "uuid" else name
    return [f"min({value})", f"max({value})", f"count({name})"]


def _column_stats(column: TargetColumn, found: Sequence[pa.ChunkedArray], rows: int) -> ColumnStats:
    low, high, held = found
    lowest, highest = bounds(column.kind, pa.chunked_array([*low.chunks, *high.chunks]))
    return ColumnStats(field_id=column.scan.field_id, min=lowest, max=highest, null_count=rows - int(held[0].as_py()))


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except duckdb.OutOfMemoryException as exc:
        raise StoreUnavailable("The rewrite needs more memory or disk than it may use") from exc
    except (duckdb.IOException, OSError) as exc:
        raise StoreUnavailable("A data file could not be read from or written to the local disk") from exc
    except (duckdb.ConversionException, duckdb.InvalidInputException, duckdb.BinderException) as exc:
        raise DataFileCorrupt("A data file holds what its schema version does not allow") from exc
