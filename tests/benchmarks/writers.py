"""Writers that write as much as they can for a while: what each of them got done, how long it waited, what failed."""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from tests.benchmarks.load import Connection, Target, ingest_bodies
from tests.benchmarks.report import Figure


@dataclass(kw_only=True)
class Writer:
    """The milliseconds that each write of one writer took, and how many failed."""

    latencies_ms: list[float] = field(default_factory=list)
    failed: int = 0


@dataclass(frozen=True, kw_only=True)
class Contest:
    """What all writers did in these seconds, each write of so many rows."""

    seconds: float
    rows: int
    writers: Sequence[Writer]

    @property
    def rows_per_second(self) -> float:
        """Rows of the writes that succeeded."""
        return sum(len(writer.latencies_ms) for writer in self.writers) * self.rows / self.seconds

    def figures(self, who: str, *, most_failed: int | None = None) -> list[Figure]:
        """Rows a second, what a write took, how even it was, and what failed, with a bar for that if there is one."""
        latencies = sorted(latency for writer in self.writers for latency in writer.latencies_ms) or [0.0]
        counts = [len(writer.latencies_ms) for writer in self.writers]
        return [
            Figure(f"{len(counts)} writers of {self.rows} rows, {who}", self.rows_per_second, "rows/s"),
            Figure("… a write, p50", latencies[len(latencies) // 2], "ms"),
            Figure("… a write, p95", latencies[int(len(latencies) * 0.95)], "ms"),
            Figure("… the longest that any writer waited", latencies[-1], "ms"),
            Figure("… writes of the writer that got least done", min(counts), "writes"),
            Figure("… writes of the writer that got most done", max(counts), "writes"),
            Figure(
                "… writes that failed",
                sum(writer.failed for writer in self.writers),
                "writes",
                bar=most_failed,
                lower_is_better=True,
            ),
        ]


def compete(target: Target, *, path: str, writers: int, rows: int, seconds: float) -> Contest:
    """So many connections post keyed records, each the next as soon as it is answered."""
    bodies = ingest_bodies(first=0, requests=writers, per_request=rows)
    done = [Writer() for _ in range(writers)]
    start = threading.Barrier(writers + 1)

    def write(number: int) -> None:
        connection = Connection(target)
        start.wait()
        end = time.monotonic() + seconds
        turn = 0
        while time.monotonic() < end:
            # No key comes twice, and nothing is encoded while the clock runs.
            body = bodies[number].replace(b'"key-', b'"turn-%d-' % turn)
            turn += 1
            _timed(done[number], partial(connection.request, "POST", path, body))

    threads = [threading.Thread(target=write, args=(number,)) for number in range(writers)]
    for thread in threads:
        thread.start()
    start.wait()
    began = time.monotonic()
    for thread in threads:
        thread.join()
    return Contest(seconds=time.monotonic() - began, rows=rows, writers=done)


def _timed(writer: Writer, write: Callable[[], object]) -> None:
    began = time.perf_counter()
    try:
        write()
    except (RuntimeError, OSError):
        writer.failed += 1
    else:
        writer.latencies_ms.append((time.perf_counter() - began) * 1000)
