"""Native DuckLake writers, run by the Python of an environment of their own: a job as JSON on stdin, figures on stdout.

Every writer is a process with a connection of its own and inserts the same rows again and again, as DuckMesh's
writers post them. What DuckLake cannot commit after its own retries is a write that failed.
"""

import json
import multiprocessing
import random
import sys
import sysconfig
import time
from datetime import datetime, timedelta
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

Job = dict[str, Any]  # the JSON that tests.benchmarks.peer sends
DDL = "CREATE TABLE lake.events(id BIGINT, ts TIMESTAMP, user_id BIGINT, kind VARCHAR, amount DOUBLE, url VARCHAR)"


def main() -> None:
    """Run the job."""
    job = json.load(sys.stdin)
    with connect(job) as lake:
        lake.execute(DDL)
    context = multiprocessing.get_context("spawn")
    start, done = context.Barrier(job["writers"]), context.Queue()
    writers = [context.Process(target=write, args=(number, job, start, done)) for number in range(job["writers"])]
    for writer in writers:
        writer.start()
    figures = [done.get(timeout=job["seconds"] + 120) for _ in writers]
    for writer in writers:
        writer.join()
    with connect(job) as lake:
        ((written,),) = lake.execute("SELECT count(*) FROM lake.events").fetchall()
    json.dump({"writers": figures, "rows": written}, sys.stdout)


def connect(job: Job, *, threads: int = 1) -> duckdb.DuckDBPyConnection:
    """A connection with the lake attached, its catalog in PostgreSQL."""
    lake = duckdb.connect(config={"allow_unsigned_extensions": "true", "threads": threads})
    packages = Path(sysconfig.get_paths()["purelib"])
    for name in ("postgres_scanner", "ducklake"):
        (path,) = packages.glob(f"duckdb_extension_{name}/extensions/v*/{name}.duckdb_extension")
        lake.execute(f"LOAD '{path}'")
    lake.execute(
        f"ATTACH 'ducklake:postgres:{job['dsn']}' AS lake"
        f" (DATA_PATH '{job['data']}/', METADATA_SCHEMA '{job['schema']}', DATA_INLINING_ROW_LIMIT {job['inline']})"
    )
    return lake


def write(number: int, job: Job, start: Barrier, done: "Queue[Job]") -> None:
    """One writer: inserts until the time is up."""
    latencies, failed = [], 0
    with connect(job) as lake:
        lake.register("batch", rows(number * 1_000_000, job["rows"]))
        lake.execute("SELECT count(*) FROM lake.events").fetchall()
        start.wait()
        began = time.monotonic()
        while time.monotonic() < began + job["seconds"]:
            sent = time.perf_counter()
            try:
                lake.execute("INSERT INTO lake.events SELECT * FROM batch")
            except duckdb.Error:
                failed += 1
            else:
                latencies.append((time.perf_counter() - sent) * 1000)
        done.put({"latencies_ms": latencies, "failed": failed, "seconds": time.monotonic() - began})


def rows(start: int, count: int) -> pa.Table:
    """The columns of DuckMesh's benchmark, with values of the same kinds."""
    numbers = random.Random(start)
    first = datetime(2026, 1, 1) + timedelta(seconds=start)  # noqa: DTZ001 - DuckLake's column has no zone either
    return pa.table(
        {
            "id": pa.array(range(start, start + count), pa.int64()),
            "ts": pa.array([first + timedelta(milliseconds=i) for i in range(count)], pa.timestamp("us")),
            "user_id": pa.array([numbers.randrange(10_000) for _ in range(count)], pa.int64()),
            "kind": [f"kind_{numbers.randrange(20):02d}" for _ in range(count)],
            "amount": [numbers.random() * 100 for _ in range(count)],
            "url": [
                f"https://example.com/p/{numbers.randrange(10**9):09d}/item/{numbers.randrange(100):02d}"
                for _ in range(count)
            ],
        }
    )


if __name__ == "__main__":
    main()
