"""DuckLake's reads, run by the Python of an environment of its own: a job as JSON on stdin, figures on stdout.

The rows of a Parquet file are inserted in equal parts, so that there are as many files; each statement is timed, and
again after DuckLake has merged them.
"""

import json
import statistics
import sys
import time
from typing import Any

import duckdb

from tests.benchmarks.ducklake_writers import connect

Job = dict[str, Any]  # the JSON that tests.benchmarks.scan sends


def main() -> None:
    """Run the job."""
    job = json.load(sys.stdin)
    with connect(job, threads=job["threads"]) as lake:
        lake.execute("SET enable_progress_bar = false")
        rows = lake.execute(f"SELECT * FROM read_parquet('{job['plain']}') ORDER BY id").to_arrow_table()
        lake.register("part", rows.slice(0, 0))
        lake.execute("CREATE TABLE lake.scan AS SELECT * FROM part")
        for start in range(0, rows.num_rows, job["rows_per_file"]):
            lake.register("part", rows.slice(start, job["rows_per_file"]))
            lake.execute("INSERT INTO lake.scan SELECT * FROM part")
        del rows
        small = timed(lake, job)
        lake.execute("CALL ducklake_merge_adjacent_files('lake')")
        merged = timed(lake, job)
    json.dump({"small": small, "merged": merged}, sys.stdout)


def timed(lake: duckdb.DuckDBPyConnection, job: Job) -> dict[str, float]:
    """The median of each statement, in milliseconds."""
    found = {}
    for name, sql in job["statements"].items():
        taken = []
        for _ in range(job["rounds"] + 1):
            started = time.perf_counter()
            lake.execute(sql).fetchall()
            taken.append((time.perf_counter() - started) * 1_000)
        found[name] = statistics.median(taken[1:])
    return found


if __name__ == "__main__":
    main()
