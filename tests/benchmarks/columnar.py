"""How fast Arrow and Parquet bodies become durable: large requests, each with one key of its own."""

import io
import threading
import time
from collections.abc import Callable
from datetime import datetime
from itertools import count

import pyarrow as pa
import pyarrow.parquet as pq

from tests.benchmarks.ingest import make_table
from tests.benchmarks.load import Connection, Target, records
from tests.benchmarks.report import Figure

_ROWS, _CONNECTIONS = 100_000, 2
_COLUMNS = pa.schema(
    [
        ("id", pa.int64()),
        ("ts", pa.timestamp("us", tz="UTC")),
        ("user_id", pa.int64()),
        ("kind", pa.string()),
        ("amount", pa.float64()),
        ("url", pa.string()),
    ]
)


def large_bodies(target: Target) -> list[Figure]:
    """Rows a second of bodies of 100,000 rows, over 2 connections, acknowledged."""
    table = _table(target.some(_ROWS))
    arrow = _measure(target, "Arrow", "application/vnd.apache.arrow.stream", _arrow(table), rows=table.num_rows)
    parquet = _measure(target, "Parquet", "application/vnd.apache.parquet", _parquet(table), rows=table.num_rows)
    return [*arrow, *parquet]


def _measure(target: Target, name: str, media_type: str, body: bytes, *, rows: int) -> list[Figure]:
    path = make_table(target, f"bench_{name.lower()}")
    requests, numbers = max(4, target.some(40)), count()

    def post(connection: Connection) -> None:
        headers = {"Content-Type": media_type, "Idempotency-Key": f"request-{next(numbers)}"}
        connection.request("POST", path, body, headers=headers)

    _together(target, post, requests=_CONNECTIONS)
    seconds = _together(target, post, requests=requests)
    return [
        Figure(
            f"{name} bodies of {rows:,} rows, one request key, {_CONNECTIONS} connections",
            requests * rows / seconds,
            "rows/s",
            bar=1_000_000,
        ),
        Figure("… size of a body", len(body) / 2**20, "MiB"),
    ]


def _table(rows: int) -> pa.Table:
    payloads = [record["payload"] for record in records(start=0, count=rows)]
    for payload in payloads:
        payload["ts"] = datetime.fromisoformat(payload["ts"])
    return pa.Table.from_pylist(payloads, schema=_COLUMNS)


def _arrow(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def _parquet(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue()


def _together(target: Target, post: Callable[[Connection], None], *, requests: int) -> float:
    """Seconds that so many requests took, shared by the connections."""
    left = iter(range(requests))
    lock = threading.Lock()
    errors: list[BaseException] = []

    def work() -> None:
        connection = Connection(target)
        try:
            while True:
                with lock:
                    if next(left, None) is None:
                        return
                post(connection)
        except BaseException as exc:  # noqa: BLE001 - handed to the caller below
            errors.append(exc)

    threads = [threading.Thread(target=work) for _ in range(_CONNECTIONS)]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return time.perf_counter() - began
