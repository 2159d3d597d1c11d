"""Ten million rows read through the API, beside bare DuckDB on one plain Parquet file, and beside DuckLake.

Once while they lie in as many files as there were requests, once after compaction. All times are those of whoever asks:
the API's include HTTP, the catalog and JSON.
"""

import io
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import duckdb
import pyarrow as pa

from duckmesh.kernel.config import ROOT, Config
from tests.benchmarks.columnar import ARROW
from tests.benchmarks.ducklake import fresh_catalog, run_beside
from tests.benchmarks.load import Connection, Target
from tests.benchmarks.report import Figure

_TABLE = "bench_scan"
_ROWS, _FILES, _ROUNDS = 10_000_000, 500, 9
_COLUMNS = {
    "id": "int64",
    "seen": "timestamp",
    "user_id": "int64",
    "kind": "string",
    "amount": "float64",
    "price": "decimal(12,2)",
    "country": "string",
    "paid": "bool",
}
_ROW = """
  i AS id, TIMESTAMP '2026-01-01' + to_seconds(i // 4) AS seen, (hash(i, 1) % 100000)::BIGINT AS user_id,
  'kind_' || (hash(i, 2) % 20) AS kind, (hash(i, 3) % 1000003)::DOUBLE / 7 AS amount,
  ((hash(i, 4) % 10000000)::BIGINT / 100)::DECIMAL(12,2) AS price, 'country ' || (hash(i, 5) % 200) AS country,
  hash(i, 6) % 3 = 0 AS paid
"""
_SCANS = {
    "grouped": "SELECT kind, count(*), sum(amount), sum(price) FROM {source} GROUP BY kind ORDER BY kind",
    "filtered": "SELECT count(*), sum(price) FROM {source} WHERE amount > 140000 AND country = 'country 17' AND paid",
    "every column": "SELECT max(id), max(seen), max(user_id), max(kind), max(amount), max(price), max(country),"
    " max(paid) FROM {source}",
}
# Bounds spare these nearly all of it; so the time is that of a request, and has no bar.
_SELECTIVE = {
    "one row by its id": "SELECT * FROM {source} WHERE id = {middle}",
    "an hour": "SELECT count(*), avg(amount) FROM {source} WHERE seen BETWEEN '2026-01-10' AND '2026-01-10 01:00:00'",
}


def many_rows(target: Target, config: Config) -> list[Figure]:
    """Each statement's time against bare DuckDB's, with 500 files and after compaction; DuckLake's likewise."""
    rows = max(_FILES, target.some(_ROWS))
    files = max(2, target.some(_FILES))
    plain = config.home / "scratch" / "plain.parquet"
    plain.parent.mkdir(parents=True, exist_ok=True)
    with duckdb.connect(config={"threads": os.cpu_count() or 1}) as database:
        database.execute("SET enable_progress_bar = false")
        database.execute(
            f"COPY (SELECT {_ROW} FROM range({rows}) r(i)) TO '{plain}' (FORMAT parquet, COMPRESSION zstd)"
        )
        _ingest(target, database, plain, rows_per_file=-(-rows // files))
        statements = {name: sql.replace("{middle}", str(rows // 2)) for name, sql in {**_SCANS, **_SELECTIVE}.items()}
        small = _beside_bare(target, database, plain, statements, files=files)
        _compact()
        whole = _beside_bare(target, database, plain, statements, files=None)
    lake = _ducklake(config, plain, statements, rows_per_file=-(-rows // files))
    return [
        figure
        for state, ours, theirs, bar in (
            (f"in {files} files", small, lake["small"], 3.0),
            ("after compaction", whole, lake["merged"], 1.25),
        )
        for name, (mine, bare) in ours.items()
        for figure in (
            Figure(
                f"{rows:,} rows {state}, {name}: /v1/query against bare DuckDB on one file",
                mine / bare,
                "x",
                bar=bar if name in _SCANS else None,
                lower_is_better=True,
            ),
            Figure("… bare DuckDB", bare, "ms"),
            Figure("… /v1/query", mine, "ms"),
            Figure("… DuckLake against bare DuckDB", theirs[name] / bare, "x"),
        )
    ]


def _ingest(target: Target, database: duckdb.DuckDBPyConnection, plain: Path, *, rows_per_file: int) -> None:
    """Every request has become a file of its own."""
    connection = Connection(target)
    columns = [{"name": name, "type": kind, "nullable": False} for name, kind in _COLUMNS.items()]
    definition = {"table_name": _TABLE, "schema_json": {"columns": columns}}
    connection.request("POST", "/v1/tables", json.dumps(definition).encode())
    rows = database.execute(f"FROM read_parquet('{plain}') ORDER BY id").to_arrow_table()
    for start in range(0, rows.num_rows, rows_per_file):
        connection.request(
            "POST",
            f"/v1/ingest/{_TABLE}?wait_for_visibility=true",
            _arrow(rows.slice(start, rows_per_file)),
            headers={"Content-Type": ARROW},
        )


def _arrow(rows: pa.Table) -> bytes:
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, rows.schema) as writer:
        writer.write_table(rows)
    return sink.getvalue()


def _beside_bare(
    target: Target,
    database: duckdb.DuckDBPyConnection,
    plain: Path,
    statements: dict[str, str],
    *,
    files: int | None,
) -> dict[str, tuple[float, float]]:
    """Milliseconds of each statement, through the API and bare, measured in turn."""
    connection = Connection(target)
    stats = connection.request("POST", "/v1/query", _body(f"SELECT sum(amount) FROM {_TABLE}"))["stats"]
    if files is not None and stats["scanned_files"] != files:
        raise RuntimeError(f"the table consists of {stats['scanned_files']} files, not of {files}")
    found = {}
    for name, sql in statements.items():
        ours, bare = _body(sql.format(source=_TABLE)), sql.format(source=f"read_parquet('{plain}')")
        found[name] = _medians(
            partial(connection.request, "POST", "/v1/query", ours), partial(_fetched, database, bare)
        )
    return found


def _fetched(database: duckdb.DuckDBPyConnection, sql: str) -> object:
    return database.execute(sql).fetchall()


def _medians(first: Callable[[], object], second: Callable[[], object]) -> tuple[float, float]:
    taken: tuple[list[float], list[float]] = ([], [])
    for _ in range(_ROUNDS + 1):
        for times, call in zip(taken, (first, second), strict=True):
            started = time.perf_counter()
            call()
            times.append((time.perf_counter() - started) * 1_000)
    return statistics.median(taken[0][1:]), statistics.median(taken[1][1:])


def _compact() -> None:
    command = [sys.executable, "manage.py", "compact", "--table", _TABLE]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)


def _ducklake(
    config: Config, plain: Path, statements: dict[str, str], *, rows_per_file: int
) -> dict[str, dict[str, float]]:
    data = config.home / "scratch" / "ducklake-scan"
    data.mkdir(parents=True)
    job = {
        "dsn": fresh_catalog(config),
        "data": str(data),
        "schema": "bench",
        "inline": 0,
        "threads": os.cpu_count() or 1,
        "plain": str(plain),
        "rows_per_file": rows_per_file,
        "rounds": _ROUNDS,
        "statements": {name: sql.format(source="lake.scan") for name, sql in statements.items()},
    }
    told: dict[str, dict[str, float]] = run_beside("ducklake_scans", job, timeout=1_800)
    return told


def _body(sql: str) -> bytes:
    return json.dumps({"sql": sql, "timeout_ms": 120_000}).encode()
