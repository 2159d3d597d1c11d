"""How fast records become durable over HTTP, and how soon the one who waits sees them."""

import json

from tests.benchmarks.load import SCHEMA, Connection, Target, drive, ingest_bodies, paced, sequential
from tests.benchmarks.report import Figure


def make_table(target: Target, name: str) -> str:
    """An empty table of the benchmark's schema; the path to write to."""
    Connection(target).request("POST", "/v1/tables", _json({"table_name": name, "schema_json": SCHEMA}))
    return f"/v1/ingest/{name}"


def throughput(target: Target, *, per_request: int = 1_000, connections: int = 8) -> list[Figure]:
    """Keyed JSON records of six columns, several connections, acknowledged; then how long until all are visible."""
    requests = target.some(400)
    path = make_table(target, "bench_throughput")
    warm = ingest_bodies(first=0, requests=connections * 2, per_request=per_request)
    drive(target, connections=connections, work=warm, path=path)
    first = len(warm) * per_request
    work = ingest_bodies(first=first, requests=requests, per_request=per_request)
    timing = drive(target, connections=connections, work=work, path=path)
    drain = sequential(target, times=1, call=lambda connection: await_all(connection, path))
    return [
        Figure(
            "ingest, 1,000 keyed JSON records a request, 8 connections",
            requests * per_request / timing.seconds,
            "records/s",
            bar=100_000,
        ),
        Figure("… acknowledged, p50", timing.percentile(0.5), "ms"),
        Figure("… acknowledged, p95", timing.percentile(0.95), "ms"),
        Figure("… all visible after the last acknowledgement", drain.seconds * 1000, "ms"),
    ]


def single_records(target: Target, *, connections: int = 16) -> list[Figure]:
    """One keyed record a request."""
    requests = target.some(4_000)
    path = make_table(target, "bench_single")
    drive(target, connections=connections, work=ingest_bodies(first=0, requests=200, per_request=1), path=path)
    work = ingest_bodies(first=10_000, requests=requests, per_request=1)
    timing = drive(target, connections=connections, work=work, path=path)
    return [
        Figure("acknowledgement of one record, 16 connections", timing.per_second, "requests/s", bar=800),
        Figure("… p50", timing.percentile(0.5), "ms"),
        Figure("… p95", timing.percentile(0.95), "ms", bar=40, lower_is_better=True),
    ]


def write_to_visible(target: Target, *, per_second: float = 20) -> list[Figure]:
    """Requests of 100 records at a steady pace, each answered when it is visible."""
    requests = target.some(300)
    path = make_table(target, "bench_visible")
    drive(target, connections=2, work=ingest_bodies(first=0, requests=20, per_request=100, wait=True), path=path)
    work = ingest_bodies(first=10_000, requests=requests, per_request=100, wait=True)
    timing = paced(target, per_second=per_second, work=work, path=path)
    return [
        Figure(
            "write to visible, 20 requests/s of 100 records, p50",
            timing.percentile(0.5),
            "ms",
            bar=40,
            lower_is_better=True,
        ),
        Figure("… p95", timing.percentile(0.95), "ms", bar=100, lower_is_better=True),
    ]


def await_all(connection: Connection, path: str) -> None:
    """Everything that was acknowledged to the table is visible."""
    body = _json({"records": [{"payload": {"id": -1}}], "wait_for_visibility": True, "visibility_timeout_ms": 120_000})
    connection.request("POST", path, body)


def _json(value: object) -> bytes:
    return json.dumps(value).encode()
