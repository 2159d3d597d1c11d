"""How fast Arrow and Parquet bodies become durable: large requests, each with one key of its own."""

import io
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from itertools import count

import pyarrow as pa
import pyarrow.parquet as pq

from tests.benchmarks.ingest import make_table
from tests.benchmarks.load import Connection, Target, records
from tests.benchmarks.report import Figure

ARROW, PARQUET = "application/vnd.apache.arrow.stream", "application/vnd.apache.parquet"
CONNECTIONS = 2
_ROWS = 100_000
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


@dataclass(frozen=True, kw_only=True)
class Load:
    """One body and a table that it is posted to again and again, each time with another request key."""

    target: Target
    path: str
    media_type: str
    body: bytes
    rows: int
    numbers: "count[int]" = field(default_factory=count)

    def post(self, requests: int) -> float:
        """The rows a second that so many requests made durable."""
        return requests * self.rows / _together(self.target, self._post, requests=requests)

    def _post(self, connection: Connection) -> None:
        headers = {"Content-Type": self.media_type, "Idempotency-Key": f"request-{next(self.numbers)}"}
        connection.request("POST", self.path, self.body, headers=headers)


def load(target: Target, *, table: str, media_type: str) -> Load:
    """A body of 100,000 rows for a new table."""
    rows = _table(target.some(_ROWS))
    body = (_arrow if media_type == ARROW else _parquet)(rows)
    return Load(target=target, path=make_table(target, table), media_type=media_type, body=body, rows=rows.num_rows)


def large_bodies(target: Target) -> list[Figure]:
    """Rows a second of bodies of 100,000 rows, over 2 connections, acknowledged."""
    figures = []
    for name, media_type in (("Arrow", ARROW), ("Parquet", PARQUET)):
        bodies = load(target, table=f"bench_{name.lower()}", media_type=media_type)
        bodies.post(CONNECTIONS)
        rate = bodies.post(max(4, target.some(40)))
        figures += [
            Figure(
                f"{name} bodies of {bodies.rows:,} rows, one request key, {CONNECTIONS} connections",
                rate,
                "rows/s",
                bar=1_000_000,
            ),
            Figure("… size of a body", len(bodies.body) / 2**20, "MiB"),
        ]
    return figures


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

    threads = [threading.Thread(target=work) for _ in range(CONNECTIONS)]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return time.perf_counter() - began
