"""Writers and readers that go on while something breaks: honest clients, bounded in count and in time."""

import statistics
import threading
import time
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Self

from tests.client import Client, Lost, Refused
from tests.history import Recorder
from tests.invariants import check

MOST_SECONDS = 40
MOST_REQUESTS = 1_500  # of one writer


class Load:
    """Writers of small keyed batches, which send again what they do not know the outcome of, and readers at barriers.

    Every fifth unknown write of a writer is left unknown. The load ends with the block; what no client should meet
    (a refusal, an answer that is not JSON) is raised then.
    """

    def __init__(
        self,
        client: Client,
        *tables: str,
        writers: int = 3,
        readers: int = 1,
        batch: int = 3,
        pause: float = 0.02,
        seconds: float = MOST_SECONDS,
    ) -> None:
        self._client = client
        self._tables = tables
        self._batch = batch
        self._pause = pause
        self._ending = threading.Event()
        self._deadline = time.monotonic() + seconds
        self._lock = threading.Lock()
        self._names = [f"{tables[0]}-w{number}" for number in range(writers)]
        self._readers = readers
        self.outcomes: Counter[str] = Counter()
        self.latencies: list[tuple[float, float]] = []  # when it was sent, seconds until the acknowledgement
        self.token = 0

    def __enter__(self) -> Self:
        self._pool = ThreadPoolExecutor(max_workers=len(self._names) + self._readers)
        self._running: list[Future[None]] = [self._pool.submit(self._write, name) for name in self._names]
        self._running += [self._pool.submit(self._read) for _ in range(self._readers)]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ending.set()
        self._pool.shutdown(wait=True)
        if kind is None:
            for future in self._running:
                future.result()

    def wait_for_acks(self, more: int, *, seconds: float = 20) -> None:
        """This many further writes have been acknowledged."""
        goal = self.outcomes["acknowledged"] + more
        deadline = time.monotonic() + seconds
        while self.outcomes["acknowledged"] < goal:
            for future in self._running:
                if future.done():
                    future.result()
            assert time.monotonic() < deadline, f"writes are not acknowledged: {dict(self.outcomes)}"
            time.sleep(0.02)

    def latency(self, since: float, until: float) -> tuple[float, float]:
        """Median and 95th percentile, in seconds, of the acknowledgements sent between two monotonic times."""
        took = [seconds for sent, seconds in self.latencies if since <= sent < until]
        return statistics.median(took), statistics.quantiles(took, n=20)[-1]

    def _over(self) -> bool:
        return self._ending.is_set() or time.monotonic() > self._deadline

    def _count(self, outcome: str) -> None:
        with self._lock:
            self.outcomes[outcome] += 1

    def _write(self, name: str) -> None:
        for number in range(MOST_REQUESTS):
            if self._over():
                return
            table = self._tables[number % len(self._tables)]
            identities = [f"{name}-{number}-{i}" for i in range(self._batch)]
            for attempt in range(200):
                sent = time.monotonic()
                try:
                    ack = self._client.ingest(table, *identities)
                except Lost:
                    self._count("unknown")
                    if self._over() or (attempt == 0 and number % 5 == 0):
                        break
                    time.sleep(0.1)
                else:
                    with self._lock:
                        self.latencies.append((sent, time.monotonic() - sent))
                        self.token = max(self.token, ack.token)
                        self.outcomes["acknowledged"] += 1
                    break
            time.sleep(self._pause)

    def _read(self) -> None:
        for number in range(MOST_REQUESTS):
            if self._over():
                return
            try:
                self._client.read(*self._tables, min_token=self.token if number % 2 else None, seconds=5)
                self._count("read")
            except Lost:
                self._count("unread")
            except Refused as exc:
                if exc.status != 429:
                    raise
                self._count("unread")
            time.sleep(5 * self._pause)


def settle(client: Client, recorder: Recorder, *tables: str, seconds: float = 20) -> dict[str, int]:
    """Every acknowledged write becomes visible in time, and the history keeps the promises; the rows at the end."""
    tokens = [ingest.ack.token for ingest in recorder.history().ingests if ingest.ack is not None]
    deadline = time.monotonic() + seconds
    while True:
        try:
            last = client.read(*tables, min_token=max(tokens), seconds=max(1, deadline - time.monotonic()))
            break
        except (Lost, Refused):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)
    client.read(*tables, snapshot_id=last.snapshot_id)
    violations = check(recorder.history())
    assert not violations, "\n".join(map(str, violations))
    return {identity: count for rows in last.rows.values() for identity, count in rows.items()}
