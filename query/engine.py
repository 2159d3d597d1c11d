"""The locked DuckDB instance of one runner: the only place where a tenant's statement meets DuckDB.

The order is the wall's order. The process is sealed before `Engine` is made; then: configuration at connect, the one
directory that may be read, external access off, and the lock last. Views come and go after it, settings do not.
"""

import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
from pyarrow import ipc

from query.errors import QueryInvalid, QueryResourcesExceeded
from query.explaining import plan_text
from query.failures import OUT_OF_MEMORY, UNREADABLE, Failure, StatementError, failure_of, params_of
from query.request import Params, RunRequest, TableView
from storage.columns import OP_COLUMN, OP_FIELD_ID, TOKEN_COLUMN, TOKEN_FIELD_ID
from storage.keyed import latest_sql
from storage.reading import ScanColumn, parts_sql, quote_name

DUCKDB_VERSION = duckdb.__version__
BATCH_ROWS = 32_768
PART_BYTES = 4 * 2**20
MAX_ROW_BYTES = 128 * 2**20
CHUNK_BYTES = 256 * 1024
Emit = Callable[[bytes, bool], None]  # a piece, and whether another may follow
Announce = Callable[[tuple[str, ...]], None]

# Arrow has no form for these: UHUGEINT loses its highest bit, TIME WITH TIME ZONE its offset, and the others
# would come as DuckDB's own bytes.
_AS_TEXT = re.compile(r"\b(UHUGEINT|TIME WITH TIME ZONE|BIT|BIGNUM)\b")
# HUGEINT travels as a decimal of 38 digits; the rare value of 39 makes its column text.
_WIDE = re.compile(r"\bHUGEINT\b")
_AS_TEXT_ALSO_WIDE = re.compile(f"{_WIDE.pattern}|{_AS_TEXT.pattern}")
LONG_ROW = Failure(
    code=QueryResourcesExceeded.code, message=f"A row of the result is larger than {MAX_ROW_BYTES} bytes."
)
DIGITS = Failure(code=QueryInvalid.code, message="An integer in the result has 39 digits; cast its column to VARCHAR.")


@dataclass(frozen=True, kw_only=True)
class EngineSettings:
    """What one runner's DuckDB may use. `spill_dir` is private to the runner; none, or 0 bytes, means no spilling."""

    memory_bytes: int = 512 * 2**20
    threads: int = 2
    spill_dir: str = ""
    spill_bytes: int = 0


@dataclass(frozen=True, kw_only=True)
class Ran:
    """The end of a statement whose rows have all been emitted."""

    column_types: tuple[str, ...]
    row_count: int
    truncated: bool
    engine_ms: float


def shipped_functions(*, kinds: Sequence[str]) -> list[str]:
    """The names, in lower case, of all functions of these types that this DuckDB has."""
    with duckdb.connect() as connection:
        rows = connection.execute(
            "SELECT DISTINCT lower(function_name) FROM duckdb_functions() WHERE list_contains(?, function_type)",
            [list(kinds)],
        ).fetchall()
    return sorted(row[0] for row in rows)


def _nobody(_column_types: tuple[str, ...]) -> None:
    """The types are not asked for ahead of the rows."""


class _DigitsError(Exception):
    """A HUGEINT does not fit the decimal that its column was announced as."""


class Engine:
    """DuckDB for one tenant, able to read files below `tenant_dir` and nothing else."""

    def __init__(self, *, tenant_dir: str, settings: EngineSettings) -> None:
        self._tenant_dir = tenant_dir.rstrip("/") + "/"
        self._made: dict[str, TableView] = {}
        self._connection = _locked(self._tenant_dir, settings)

    def serialise(self, sql: str) -> str:
        """The statement's syntax tree as JSON text; a statement that does not parse becomes a JSON error."""
        # A literal costs half of what a parameter costs here.
        with _translated(sql, self._tenant_dir):
            row = self._connection.execute(f"SELECT json_serialize_sql({_literal(sql)}::VARCHAR)").fetchone()
        return str(row[0]) if row else ""

    def run(self, request: RunRequest, *, emit: Emit, announce: Announce = _nobody) -> Ran:
        """Every row of the statement, up to the limits, has been emitted as pieces of one Arrow IPC stream.

        DuckDB's names of the columns' types are announced before the first piece.
        The statement must have passed the gate, and `request.views` must be all it reads.
        """
        started = time.perf_counter()
        with _translated(request.sql, self._tenant_dir):
            self._show(request.views)
            cursor = self._connection.cursor()  # a connection of its own: what a statement leaves behind goes with it
            try:
                cursor.execute("BEGIN TRANSACTION READ ONLY")
                types, rows, truncated = _answer(cursor, request, emit, announce)
            finally:
                cursor.close()
        engine_ms = (time.perf_counter() - started) * 1000
        return Ran(column_types=types, row_count=rows, truncated=truncated, engine_ms=engine_ms)

    def _show(self, views: Sequence[TableView]) -> None:
        """Exactly `views` exist; those that have not changed since the last statement are left as they are."""
        wanted = {view.name.lower(): view for view in views}
        for name in [name for name in self._made if name not in wanted]:
            del self._made[name]
            self._connection.execute(f"DROP VIEW IF EXISTS {quote_name(name)}")
        for name, view in wanted.items():
            if self._made.get(name) == view:
                continue
            self._made.pop(name, None)  # if the next line fails, nothing may claim that the view is as it was
            self._connection.execute(
                f"CREATE OR REPLACE VIEW {quote_name(name)} AS {view_sql(view, below=self._tenant_dir)}"
            )
            self._made[name] = view


@contextmanager
def _translated(sql: str, tenant_dir: str) -> Iterator[None]:
    """Whatever DuckDB or Arrow raise inside leaves as `StatementError`."""
    try:
        yield
    except (MemoryError, pa.ArrowMemoryError):
        raise StatementError(OUT_OF_MEMORY) from None
    except (duckdb.Error, pa.ArrowException, RuntimeError, OSError) as exc:
        # An error in the middle of a stream comes as Arrow's, with DuckDB's text.
        raise StatementError(failure_of(str(exc), sql=sql, tenant_dir=tenant_dir)) from None


def view_sql(view: TableView, *, below: str) -> str:
    """The SELECT that shows `view`'s columns. Raises `StatementError` for a file that is not below `below`."""
    parts = (*view.folded, *view.fresh)
    for path in (path for part in parts for path in part.files):
        if not path.startswith(below) or ".." in Path(path).parts:
            raise StatementError(UNREADABLE)
    columns = [ScanColumn(field_id=c.field_id, name=c.name, duckdb_type=c.duckdb_type) for c in view.columns]
    if not view.key:
        names = ", ".join(quote_name(column.name) for column in columns)
        return f"SELECT {names} FROM {parts_sql(parts, columns)}"
    ours = [
        ScanColumn(field_id=TOKEN_FIELD_ID, name=TOKEN_COLUMN, duckdb_type="BIGINT"),
        ScanColumn(field_id=OP_FIELD_ID, name=OP_COLUMN, duckdb_type="TINYINT"),
    ]
    return latest_sql(
        folded=parts_sql(view.folded, [*columns, *ours]) if view.folded else None,
        fresh=parts_sql(view.fresh, [*columns, *ours]) if view.fresh or not view.folded else None,
        columns=[column.name for column in columns],
        key=view.key,
    )


def _locked(tenant_dir: str, settings: EngineSettings) -> duckdb.DuckDBPyConnection:
    spills = settings.spill_bytes > 0 and settings.spill_dir != ""
    connection = duckdb.connect(
        ":memory:",
        config={
            "threads": settings.threads,
            "memory_limit": f"{settings.memory_bytes // 1024}KiB",
            "max_expression_depth": 250,
            "temp_directory": settings.spill_dir if spills else "",
            "max_temp_directory_size": f"{settings.spill_bytes // 1024 if spills else 0}KiB",
            "extension_directory": "/nonexistent",
            "home_directory": "/nonexistent",
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
            "allow_community_extensions": False,
            "allow_unsigned_extensions": False,
            "allow_persistent_secrets": False,
            "python_enable_replacements": False,
            "python_scan_all_frames": False,
            # Data files are immutable and the operating system caches them; a second cache would only hold memory.
            "enable_external_file_cache": False,
        },
    )
    connection.execute("SET GLOBAL TimeZone = 'UTC'")
    connection.execute("SET GLOBAL catalog_error_max_schemas = 0")  # no "did you mean duckdb_settings"
    connection.execute(f"SET allowed_directories = [{_literal(tenant_dir)}]")
    connection.execute("SET enable_external_access = false")
    connection.execute("SET lock_configuration = true")
    return connection


def _answer(
    cursor: duckdb.DuckDBPyConnection, request: RunRequest, emit: Emit, announce: Announce
) -> tuple[tuple[str, ...], int, bool]:
    pieces = _Pieces(emit, request.max_bytes)
    try:
        types, reader = _execute(cursor, request, _AS_TEXT)
        announce(types)
        return types, *_write(types, reader, request, pieces)
    except _DigitsError:
        if pieces.emitted:
            raise StatementError(DIGITS) from None
    pieces = _Pieces(emit, request.max_bytes)
    types, reader = _execute(cursor, request, _AS_TEXT_ALSO_WIDE)
    return types, *_write((), reader, request, pieces)


def _execute(
    cursor: duckdb.DuckDBPyConnection, request: RunRequest, as_text: re.Pattern[str]
) -> tuple[tuple[str, ...], pa.RecordBatchReader]:
    """The statement runs; DuckDB's names of its columns' types, and its rows, those columns that match as text."""
    batch_rows = _batch_rows(request)
    params: Params = params_of(request.params)
    if request.explain:
        return ("VARCHAR",), _explained(cursor, request.sql, params)
    cursor.execute(request.sql, params)
    description: list[Any] = cursor.description or []
    names, types = [column[0] for column in description], tuple(str(column[1]) for column in description)
    if any(as_text.search(kind) for kind in types):
        # The types are known only now; the statement begins again around these columns.
        cursor.execute(_with_text_columns(_plain(cursor, request.sql), types, as_text), params)
        reader = cursor.to_arrow_reader(batch_rows)
        fields = [field.with_name(name) for field, name in zip(reader.schema, names, strict=True)]
        return types, _renamed(reader, pa.schema(fields))
    return types, cursor.to_arrow_reader(batch_rows)


def _batch_rows(request: RunRequest) -> int:
    """How many rows are asked of DuckDB at a time: of a limit one more, which tells whether there are more."""
    return BATCH_ROWS if request.row_limit is None else max(1, min(BATCH_ROWS, request.row_limit + 1))


def _explained(cursor: duckdb.DuckDBPyConnection, sql: str, params: Params) -> pa.RecordBatchReader:
    row = cursor.execute(f"EXPLAIN (FORMAT JSON) {_plain(cursor, sql)}", params).fetchone()
    return pa.table({"plan": [plan_text(str(row[1]) if row else "[]")]}).to_reader()


def _plain(cursor: duckdb.DuckDBPyConnection, sql: str) -> str:
    """The statement as DuckDB would write it: no comments, and no semicolon at its end."""
    row = cursor.execute(f"SELECT json_deserialize_sql(json_serialize_sql({_literal(sql)}::VARCHAR))").fetchone()
    return str(row[0]).rstrip("; \n") if row else sql


def _with_text_columns(sql: str, types: Sequence[str], as_text: re.Pattern[str]) -> str:
    columns = [f"c{number}" for number in range(len(types))]
    shown = [
        f"{column}::VARCHAR AS {column}" if as_text.search(kind) else column
        for column, kind in zip(columns, types, strict=True)
    ]
    return f"SELECT {', '.join(shown)} FROM (\n{sql}\n) AS _answer({', '.join(columns)})"


def _renamed(reader: pa.RecordBatchReader, schema: pa.Schema) -> pa.RecordBatchReader:
    batches = (pa.RecordBatch.from_arrays(batch.columns, schema=schema) for batch in reader)
    return pa.RecordBatchReader.from_batches(schema, batches)


class _Pieces:
    """A sink that hands on what is written in pieces of some size, and refuses more than `max_bytes` in all."""

    def __init__(self, emit: Emit, max_bytes: int) -> None:
        self._emit, self._max_bytes = emit, max_bytes
        self._pending: list[bytes] = []
        self._size = self.total = 0
        self.closed = self.emitted = False

    def write(self, data: bytes) -> int:
        piece = bytes(data)
        self.total += len(piece)
        if self.total > self._max_bytes:
            raise StatementError(
                Failure(
                    code=QueryResourcesExceeded.code,
                    message=f"The result is larger than {self._max_bytes} bytes; select fewer rows or columns.",
                )
            )
        self._pending.append(piece)
        self._size += len(piece)
        if self._size >= CHUNK_BYTES:
            self.flush()
        return len(piece)

    def flush(self, *, more: bool = True) -> None:
        if self._pending:
            self.emitted = True
            self._emit(b"".join(self._pending), more)
            self._pending, self._size = [], 0

    def tell(self) -> int:
        return self.total

    def close(self) -> None:
        self.closed = True


def _write(
    types: Sequence[str], reader: pa.RecordBatchReader, request: RunRequest, pieces: _Pieces
) -> tuple[int, bool]:
    """Writes the rows up to the limit; the number of them, and whether there were more."""
    rows, truncated, full = 0, False, _batch_rows(request)
    wide = [number for number, kind in enumerate(types) if _WIDE.search(kind)]
    with reader, ipc.new_stream(pa.PythonFile(pieces, mode="w"), reader.schema) as writer:
        for batch in _batches(reader):
            left = None if request.row_limit is None else request.row_limit - rows
            truncated = left is not None and batch.num_rows > left
            kept = batch.slice(0, left) if truncated else batch
            _check_digits(kept, wide)
            rows += kept.num_rows
            for part in _parts(kept):
                writer.write_batch(part)
                if batch.num_rows == full:
                    pieces.flush()  # a reader that has some rows must not wait for the next batch
            if truncated:
                break
    pieces.flush(more=False)
    return rows, truncated


def _parts(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    """The batch in slices that whoever reads them can hold many of: not all rows are short."""
    step = max(1, batch.num_rows * PART_BYTES // max(batch.nbytes, 1))
    for start in range(0, batch.num_rows, step):
        part = batch.slice(start, step)
        if part.nbytes > MAX_ROW_BYTES and part.num_rows == 1:
            raise StatementError(LONG_ROW)
        yield part


def _check_digits(batch: pa.RecordBatch, wide: Sequence[int]) -> None:
    for number in wide:
        try:
            batch.column(number).validate(full=True)
        except pa.ArrowInvalid:
            raise _DigitsError from None


def _batches(reader: pa.RecordBatchReader) -> Iterator[pa.RecordBatch]:
    while True:
        try:
            yield reader.read_next_batch()
        except StopIteration:
            return


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
