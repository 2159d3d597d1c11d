"""DuckMesh against DuckLake, in one run on one PostgreSQL server: many writers of small batches."""

from duckmesh.kernel.config import Config
from tests.benchmarks.ducklake import fresh_catalog, run_beside
from tests.benchmarks.ingest import make_table
from tests.benchmarks.load import Target
from tests.benchmarks.report import Figure
from tests.benchmarks.writers import Contest, Writer, compete

WRITERS, ROWS, SECONDS = 16, 100, 8.0
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
    data = config.home / "scratch" / f"ducklake-{inline}"
    data.mkdir(parents=True)
    job = {
        "dsn": fresh_catalog(config),
        "data": str(data),
        "schema": "bench",
        "inline": inline,
        "writers": WRITERS,
        "rows": ROWS,
        "seconds": seconds,
    }
    told = run_beside("ducklake_writers", job)
    writers = [Writer(latencies_ms=one["latencies_ms"], failed=one["failed"]) for one in told["writers"]]
    written = sum(len(writer.latencies_ms) for writer in writers) * ROWS
    if told["rows"] != written:
        raise RuntimeError(f"DuckLake holds {told['rows']} rows of {written} that it acknowledged")
    return Contest(seconds=max(one["seconds"] for one in told["writers"]), rows=ROWS, writers=writers)
