"""Every source is asked in a thread of its own and for a bounded time: a scrape tells what it can, and what is missing.

A server that hangs holds one thread, however often the page is asked for. A thread that is still waiting when the next
scrape comes is waited for again, and what it has found meanwhile is shown.
"""

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from datetime import timedelta
from threading import Lock

import structlog
from django.db import Error as DatabaseError
from django.db import connection, transaction
from prometheus_client.core import GaugeMetricFamily
from redis import RedisError

from duckmesh.kernel import metrics
from duckmesh.kernel.acting import acting_for_all
from duckmesh.kernel.errors import DuckMeshError

Reader = Callable[[], Iterable[GaugeMetricFamily]]

log = structlog.get_logger(__name__)


@dataclass(frozen=True, kw_only=True)
class Server:
    """Readers that are asked one after the other, because they ask the same server."""

    readers: Mapping[str, Reader]
    in_database: bool = False


@dataclass
class _Round:
    """One time of asking a server: what its readers have answered so far."""

    found: dict[str, list[GaugeMetricFamily]] = field(default_factory=dict)
    future: "Future[None] | None" = None


class Reading:
    """Asks the same servers at each scrape."""

    def __init__(self, servers: Mapping[str, Server], *, within: timedelta) -> None:
        self._servers = dict(servers)
        self._within = within
        self._threads = ThreadPoolExecutor(max_workers=len(servers), thread_name_prefix="scrape")
        self._rounds: dict[str, _Round] = {}
        self._lock = Lock()

    def read(self) -> dict[str, list[GaugeMetricFamily] | None]:
        """What each reader found, by its name; None of one that failed or did not answer in time."""
        rounds = {name: self._ask(name) for name in self._servers}
        wait([each.future for each in rounds.values() if each.future], timeout=self._within.total_seconds())
        answer = {
            reader: rounds[name].found.get(reader)
            for name, server in self._servers.items()
            for reader in server.readers
        }
        for reader, found in answer.items():
            if found is None:
                metrics.scrape_failures.labels(reader).inc()
        return answer

    def _ask(self, name: str) -> _Round:
        with self._lock:
            running = self._rounds.get(name)
            if running is None or running.future is None or running.future.done():
                running = self._rounds[name] = _Round()
                running.future = self._threads.submit(_ask, self._servers[name], running.found)
            return running


def _ask(server: Server, found: dict[str, list[GaugeMetricFamily]]) -> None:
    try:
        for name, reader in server.readers.items():
            try:
                found[name] = _in_database(reader) if server.in_database else list(reader())
            except (DatabaseError, RedisError, DuckMeshError, OSError) as exc:
                log.warning("scrape_without", source=name, reason=str(exc))
                if server.in_database and connection.connection is None:
                    return  # the others would wait for the same server
    finally:
        connection.close()


def _in_database(reader: Reader) -> list[GaugeMetricFamily]:
    with acting_for_all(), transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SET LOCAL statement_timeout = '2s'")  # a scrape that waits is a scrape that tells nothing
        return list(reader())
