"""How fast compaction rewrites files, beside bare DuckDB that copies the same ones without proving or publishing it."""

import io
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import duckdb
import psutil
import pyarrow as pa

from duckmesh.kernel.config import ROOT, Config
from storage.parquet import ROW_GROUP_ROWS
from storage.reading import quote_literal
from tests.benchmarks.columnar import ARROW
from tests.benchmarks.ingest import await_all
from tests.benchmarks.load import SCHEMA, Connection, Target
from tests.benchmarks.report import Figure

_TENANT = "demo"
_FILES = 20  # fewer than the beat's own compaction waits for
_ROWS = 250_000
_ROUNDS = 3
_PAUSE = 0.02
_ROW = """
  i AS id, TIMESTAMPTZ '2024-01-01 00:00:00+00' + to_microseconds(i * 7000) AS ts,
  (hash(i, 1) % 100000)::BIGINT AS user_id, ['view', 'click', 'buy', 'return'][(hash(i, 2) % 4)::INTEGER + 1] AS kind,
  (hash(i, 3) % 1000000)::DOUBLE / 100 AS amount,
  '/items/' || (hash(i, 4) % 1000000) || '?from=' || (hash(i, 5) % 50) AS url
"""


@dataclass(frozen=True, kw_only=True)
class _Compacted:
    """What a compaction took: `seconds` from the run's beginning to its end, of it `memory` the most."""

    seconds: float
    memory: int
    summary: dict[str, Any]


def beside_a_bare_copy(target: Target, config: Config) -> list[Figure]:
    """Files of a table in no order of its own, and of one that is sorted by a column, each in rounds of both ways."""
    figures = []
    for label, sort_cols, bar in (("", (), 0.7), (", sorted by a column", ("user_id",), None)):
        ratios, copied, memory = [], [], 0
        for number in range(_ROUNDS):
            name = f"bench_compaction_{'_'.join(sort_cols)}_{number}"
            files = _write(target, config, name, sort_cols)
            size = sum(file.stat().st_size for file in files)
            before = _bare(files, sort_cols)
            compacted = _compact(name)
            assert compacted.summary["input_bytes"] == size, "all of it and nothing else was compacted"
            bare = statistics.mean((before, _bare(files, sort_cols)))
            ratios.append(bare / compacted.seconds)
            copied.append(size / 2**20 / compacted.seconds)
            memory = max(memory, compacted.memory)
        against = "COPY … ORDER BY" if sort_cols else "COPY"
        figures += [
            Figure(f"compaction{label}, against bare DuckDB {against}", statistics.median(ratios), "x", bar=bar),
            Figure("… Parquet rewritten", statistics.median(copied), "MiB/s"),
            Figure("… most memory of the process", memory / 2**20, "MiB", bar=1024, lower_is_better=True),
        ]
    return figures


def _write(target: Target, config: Config, name: str, sort_cols: Sequence[str]) -> list[Path]:
    """A new table of so many files; where they lie."""
    connection = Connection(target)
    table = {"table_name": name, "schema_json": SCHEMA, "sort_cols": list(sort_cols)}
    connection.request("POST", "/v1/tables", json.dumps(table).encode())
    rows = target.some(_ROWS)
    for number in range(_FILES):
        headers = {"Content-Type": ARROW}
        path = f"/v1/ingest/{name}?wait_for_visibility=true&visibility_timeout_ms=120000"
        connection.request("POST", path, _body(first=number * rows, rows=rows), headers=headers)
    await_all(connection, f"/v1/ingest/{name}")
    return sorted((config.home / "objects" / _TENANT / name).rglob("*.parquet"))


def _body(*, first: int, rows: int) -> bytes:
    with duckdb.connect() as database:
        database.execute("SET TimeZone = 'UTC'")
        table = database.execute(f"SELECT {_ROW} FROM range({first}, {first + rows}) r(i)").to_arrow_table()
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def _bare(files: Sequence[Path], sort_cols: Sequence[str]) -> float:
    """Seconds that DuckDB takes to copy the files into one, with its own settings and our kind of file."""
    listed = ", ".join(quote_literal(str(file)) for file in files)
    order = f"ORDER BY {', '.join(sort_cols)}" if sort_cols else ""
    with tempfile.TemporaryDirectory(prefix="duckmesh-bench-") as directory, duckdb.connect() as database:
        copied = quote_literal(str(Path(directory) / "copied.parquet"))
        started = time.perf_counter()
        database.execute(
            f"COPY (SELECT * FROM read_parquet([{listed}]) {order}) TO {copied} (FORMAT parquet, COMPRESSION zstd, "
            f"COMPRESSION_LEVEL 1, ROW_GROUP_SIZE {ROW_GROUP_ROWS})"
        )
        return time.perf_counter() - started


def _compact(table: str) -> _Compacted:
    command = [sys.executable, str(ROOT / "manage.py"), "compact", "--tenant", _TENANT, "--table", table]
    with subprocess.Popen([*command, "--full", "--json"], stdout=subprocess.PIPE, text=True) as process:
        watched, memory = psutil.Process(process.pid), 0
        while process.poll() is None:
            try:
                memory = max(memory, watched.memory_info().rss)
            except psutil.NoSuchProcess:
                break
            time.sleep(_PAUSE)
        assert process.stdout is not None
        run = json.loads(process.stdout.read())
    assert run["state"] == "succeeded", run
    taken = datetime.fromisoformat(run["ended_at"]) - datetime.fromisoformat(run["started_at"])
    return _Compacted(seconds=taken.total_seconds(), memory=memory, summary=run["summary"])
