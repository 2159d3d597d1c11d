"""Whether everything the service depends on answers: each is asked in a thread of its own, for a bounded time."""

from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from datetime import timedelta
from functools import cache
from threading import Lock

import redis
import structlog
from django.db import connection
from django.db.migrations.loader import MigrationLoader
from django.db.migrations.recorder import MigrationRecorder

from duckmesh.kernel.errors import Unavailable
from query import limits

OK = "ok"
SILENT = "does not answer"

log = structlog.get_logger(__name__)


class NotReady(Unavailable):
    """Something the service depends on does not answer or is not as it must be; `context.checks` says what."""


class Readiness:
    """Asks the same dependencies again and again. One that hangs holds one thread, however often it is asked."""

    def __init__(self, probes: Mapping[str, Callable[[], None]], *, within: timedelta) -> None:
        """Each probe returns, or raises `NotReady` with a sentence for the outside, or anything else."""
        self._probes = dict(probes)
        self._within = within
        self._threads = ThreadPoolExecutor(max_workers=len(self._probes), thread_name_prefix="readiness")
        self._asked: dict[str, Future[None]] = {}
        self._lock = Lock()

    def require(self) -> dict[str, str]:
        """`ok` for every dependency; raises `NotReady` naming those that are not."""
        asked = {name: self._ask(name) for name in self._probes}
        wait(asked.values(), timeout=self._within.total_seconds())
        checks = {name: _outcome(name, future) for name, future in asked.items()}
        down = [name for name, outcome in checks.items() if outcome != OK]
        if down:
            named = "; ".join(f"{name} {checks[name]}" for name in down)
            raise NotReady(f"Not ready: {named}.", down=[*down], checks={**checks})
        return checks

    def _ask(self, name: str) -> Future[None]:
        with self._lock:
            running = self._asked.get(name)
            if running is None or running.done():
                running = self._asked[name] = self._threads.submit(self._probes[name])
            return running


def _outcome(name: str, future: Future[None]) -> str:
    if not future.done():
        return SILENT
    error = future.exception()
    if error is None:
        return OK
    if isinstance(error, NotReady):
        return error.message
    log.warning("dependency_down", dependency=name, reason=str(error))
    return SILENT


def postgresql() -> None:
    """PostgreSQL answers a statement over a new connection."""
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
    finally:
        connection.close()


def migrations() -> None:
    """Every migration of this code has been applied."""
    try:
        missing = _known_migrations() - set(MigrationRecorder(connection).applied_migrations())
    finally:
        connection.close()
    if missing:
        raise NotReady(f"lacks {len(missing)} of this version's migrations")


@cache
def _known_migrations() -> frozenset[tuple[str, str]]:
    return frozenset(MigrationLoader(None).graph.nodes)


def broker(url: str) -> Callable[[], None]:
    """A probe that Redis answers at this address."""

    def ping() -> None:
        with redis.Redis.from_url(url, socket_connect_timeout=1, socket_timeout=1) as client:
            client.ping()

    return ping


def sealing(*, allow_unsealed: bool) -> Callable[[], None]:
    """A probe that tenants' statements can be run: sealed, or with the operator's leave without."""

    def look() -> None:
        if not allow_unsealed and not limits.sealing().sealed:
            raise NotReady("is not possible on this system")

    return look
