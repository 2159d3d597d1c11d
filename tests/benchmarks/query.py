"""What `/v1/query` costs beside the same SQL on the same file in bare DuckDB."""

import json
import time
from pathlib import Path

import duckdb

from tests.benchmarks.ingest import make_table
from tests.benchmarks.load import Connection, Target, drive, ingest_bodies, sequential
from tests.benchmarks.report import Figure

_SQL = "SELECT kind, count(*) AS n, sum(amount) AS total FROM {source} GROUP BY kind ORDER BY kind"
_SMALL = "SELECT count(*) FROM bench_query"


def overhead(target: Target, *, objects: Path) -> list[Figure]:
    """A small aggregate over 20,000 rows: the API's p50 minus bare DuckDB's, and small queries a second."""
    path = make_table(target, "bench_query")
    drive(target, connections=1, work=ingest_bodies(first=0, requests=1, per_request=20_000, wait=True), path=path)
    token = Connection(target).request("POST", "/v1/query", _body(_SMALL))["max_visibility_token"]
    sql = _SQL.format(source="bench_query")
    body = _body(sql, min_visibility_token=token)
    sequential(target, times=50, call=lambda connection: connection.request("POST", "/v1/query", body))
    ours = sequential(
        target, times=target.some(300), call=lambda connection: connection.request("POST", "/v1/query", body)
    )
    bare = _bare(_SQL.format(source="t"), files=sorted(objects.rglob("bench_query/**/*.parquet")))
    small = drive(target, connections=8, work=[_body(_SMALL)] * target.some(1_500), path="/v1/query")
    return [
        Figure("query overhead, warm, p50: /v1/query with barrier", ours.percentile(0.5), "ms"),
        Figure("… the same SQL on the same file in bare DuckDB, p50", bare, "ms"),
        Figure("… difference", ours.percentile(0.5) - bare, "ms", bar=5, lower_is_better=True),
        Figure("small queries over HTTP, 8 connections", small.per_second, "queries/s", bar=300),
    ]


def _bare(sql: str, *, files: list[Path]) -> float:
    with duckdb.connect(config={"threads": 2}) as connection:
        connection.execute(f"CREATE VIEW t AS SELECT * FROM read_parquet({[str(file) for file in files]})")
        latencies = []
        for _ in range(300):
            started = time.perf_counter()
            connection.execute(sql).fetchall()
            latencies.append((time.perf_counter() - started) * 1000)
    return sorted(latencies)[150]


def _body(sql: str, **options: object) -> bytes:
    return json.dumps({"sql": sql, **options}).encode()
