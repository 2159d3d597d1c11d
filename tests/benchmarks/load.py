"""The load generator: bodies are built before the clock starts, connections are kept, latencies are per request."""

import http.client
import json
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

SCHEMA = {
    "columns": [
        {"name": "id", "type": "int64", "nullable": False},
        {"name": "ts", "type": "timestamp"},
        {"name": "user_id", "type": "int64"},
        {"name": "kind", "type": "string"},
        {"name": "amount", "type": "float64"},
        {"name": "url", "type": "string"},
    ]
}


@dataclass(frozen=True, kw_only=True)
class Target:
    """A running DuckMesh, a key of it with every role, and how much of the full size is to be measured."""

    base_url: str
    api_key: str
    share: float = 1.0

    def some(self, count: int) -> int:
        """That share of what the full size has."""
        return max(1, round(count * self.share))


class Connection:
    """One kept connection; a status other than the expected one raises."""

    def __init__(self, target: Target) -> None:
        address = urlsplit(target.base_url)
        self._http = http.client.HTTPConnection(address.hostname or "", address.port, timeout=60)
        self._headers = {"Authorization": f"Bearer {target.api_key}", "Content-Type": "application/json"}

    def request(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        *,
        expect: Sequence[int] = (200, 201),
        headers: Mapping[str, str] | None = None,
    ) -> Any:
        """The decoded answer."""
        self._http.request(method, path, body, {**self._headers, **(headers or {})})
        response = self._http.getresponse()
        content = response.read()
        if response.status not in expect:
            raise RuntimeError(f"{method} {path}: {response.status} {content[:300]!r}")
        return json.loads(content) if content else None


def records(*, start: int, count: int) -> list[dict[str, Any]]:
    """Keyed records of six columns, the same for the same `start`."""
    numbers = random.Random(start)
    first = datetime(2026, 1, 1) + timedelta(seconds=start)  # noqa: DTZ001 - only its text is used, with a Z
    return [
        {
            "idempotency_key": f"key-{start + i}",
            "payload": {
                "id": start + i,
                "ts": (first + timedelta(milliseconds=i)).isoformat() + "Z",
                "user_id": numbers.randrange(10_000),
                "kind": f"kind_{numbers.randrange(20):02d}",
                "amount": round(numbers.random() * 100, 6),
                "url": f"https://example.com/p/{numbers.randrange(10**9):09d}/item/{numbers.randrange(100):02d}",
            },
        }
        for i in range(count)
    ]


def ingest_bodies(*, first: int, requests: int, per_request: int, wait: bool = False) -> list[bytes]:
    """Bodies of `POST /v1/ingest`, with ids and keys that follow each other from `first`."""
    starts = range(first, first + requests * per_request, per_request)
    return [
        json.dumps({"records": records(start=start, count=per_request), "wait_for_visibility": wait}).encode()
        for start in starts
    ]


@dataclass(frozen=True, kw_only=True)
class Timing:
    """What a run of many requests took: wall seconds, and milliseconds per request in order of size."""

    seconds: float
    latencies_ms: tuple[float, ...]

    def percentile(self, share: float) -> float:
        """The latency that `share` of the requests did not exceed."""
        return self.latencies_ms[min(len(self.latencies_ms) - 1, int(share * len(self.latencies_ms)))]

    @property
    def per_second(self) -> float:
        """Requests a second."""
        return len(self.latencies_ms) / self.seconds


def drive(target: Target, *, connections: int, work: Sequence[bytes], path: str) -> Timing:
    """Posts every body of `work` over that many connections, each taking the next one as soon as it is answered."""
    bodies = iter(work)
    lock = threading.Lock()
    latencies: list[float] = []
    errors: list[BaseException] = []

    def worker() -> None:
        connection = Connection(target)
        mine: list[float] = []
        try:
            for body in _shared(bodies, lock):
                started = time.perf_counter()
                connection.request("POST", path, body)
                mine.append((time.perf_counter() - started) * 1000)
        except BaseException as exc:  # noqa: BLE001 - handed to the caller below
            errors.append(exc)
        with lock:
            latencies.extend(mine)

    threads = [threading.Thread(target=worker) for _ in range(connections)]
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - started
    if errors:
        raise errors[0]
    return Timing(seconds=seconds, latencies_ms=tuple(sorted(latencies)))


def _shared(bodies: Iterator[bytes], lock: threading.Lock) -> Iterator[bytes]:
    while True:
        with lock:
            body = next(bodies, None)
        if body is None:
            return
        yield body


def paced(target: Target, *, per_second: float, work: Sequence[bytes], path: str) -> Timing:
    """Posts every body at its time, `per_second` of them, whatever the earlier ones take: counted from that time."""
    start = time.perf_counter() + 0.1
    latencies: list[float] = []
    errors: list[BaseException] = []
    lock = threading.Lock()

    def worker(offset: int, step: int) -> None:
        connection = Connection(target)
        try:
            for index in range(offset, len(work), step):
                due = start + index / per_second
                time.sleep(max(0.0, due - time.perf_counter()))
                connection.request("POST", path, work[index])
                with lock:
                    latencies.append((time.perf_counter() - due) * 1000)
        except BaseException as exc:  # noqa: BLE001 - handed to the caller below
            errors.append(exc)

    threads = [threading.Thread(target=worker, args=(offset, 8)) for offset in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return Timing(seconds=time.perf_counter() - start, latencies_ms=tuple(sorted(latencies)))


Query = Callable[[Connection], None]


def sequential(target: Target, *, times: int, call: Query) -> Timing:
    """`call` that many times over one connection."""
    connection = Connection(target)
    latencies = []
    begun = time.perf_counter()
    for _ in range(times):
        started = time.perf_counter()
        call(connection)
        latencies.append((time.perf_counter() - started) * 1000)
    return Timing(seconds=time.perf_counter() - begun, latencies_ms=tuple(sorted(latencies)))
