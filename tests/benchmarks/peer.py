"""DuckMesh against DuckLake, in one run on one PostgreSQL server: many writers of small batches."""

import json
import subprocess
from contextlib import closing
from pathlib import Path

import psycopg2
from psycopg2.extensions import ISOLATION_LEVEL_AUTOCOMMIT, parse_dsn

from duckmesh.kernel.config import Config, load_config
from tests.benchmarks.ingest import make_table
from tests.benchmarks.load import Target
from tests.benchmarks.report import Figure
from tests.benchmarks.writers import Contest, Writer, compete
from tests.environments import ROOT, environment

WRITERS, ROWS, SECONDS = 16, 100, 8.0
DATABASE = "ducklake"
INLINING = {"files only": 0, "rows inlined in PostgreSQL": 100_000}


def against_ducklake(target: Target, config: Config) -> list[Figure]:
    """16 native DuckLake writers, in both of its ways to write, then 16 HTTP writers with a key for each record."""
    seconds = max(1.0, SECONDS * target.share)
    theirs = {way: _ducklake(config, inline=inline, seconds=seconds) for way, inline in INLINING.items()}
    path = make_table(target, "bench_peer")
    compete(target, path=path, writers=WRITERS, rows=ROWS, seconds=seconds / 4)
    ours = compete(target, path=make_table(target, "bench_peer_2"), writers=WRITERS, rows=ROWS, seconds=seconds)
    figures = [figure for way, contest in theirs.items() for figure in contest.figures(f"DuckLake 1.5.5, {way}")]
    best = max(contest.rows_per_second for contest in theirs.values())
    return [
        *figures,
        *ours.figures("DuckMesh over HTTP, keyed", most_failed=0),
        Figure("DuckMesh against the faster of the two", ours.rows_per_second / best, "times", bar=4),
    ]


def _ducklake(config: Config, *, inline: int, seconds: float) -> Contest:
    address = load_config({"DUCKMESH_HOME": str(config.home)}).database_url
    with closing(psycopg2.connect(address)) as connection, connection.cursor() as cursor:
        connection.set_isolation_level(ISOLATION_LEVEL_AUTOCOMMIT)
        cursor.execute(f"DROP DATABASE IF EXISTS {DATABASE} WITH (FORCE)")
        cursor.execute(f"CREATE DATABASE {DATABASE}")
    data = config.home / "scratch" / f"ducklake-{inline}"
    data.mkdir(parents=True)
    job = {
        "dsn": " ".join(f"{name}={value}" for name, value in {**parse_dsn(address), "dbname": DATABASE}.items()),
        "data": str(data),
        "schema": "bench",
        "inline": inline,
        "writers": WRITERS,
        "rows": ROWS,
        "seconds": seconds,
    }
    python = environment("bench/ducklake", requirements=ROOT / "requirements" / "bench.txt") / "bin" / "python"
    script = Path(__file__).with_name("ducklake_writers.py")
    done = subprocess.run(
        [python, script], input=json.dumps(job), capture_output=True, text=True, check=False, timeout=600
    )
    if done.returncode:
        raise RuntimeError(f"DuckLake's writers ended with status {done.returncode}: {done.stderr[-2000:]}")
    told = json.loads(done.stdout)
    writers = [Writer(latencies_ms=one["latencies_ms"], failed=one["failed"]) for one in told["writers"]]
    written = sum(len(writer.latencies_ms) for writer in writers) * ROWS
    if told["rows"] != written:
        raise RuntimeError(f"DuckLake holds {told['rows']} rows of {written} that it acknowledged")
    return Contest(seconds=max(one["seconds"] for one in told["writers"]), rows=ROWS, writers=writers)
