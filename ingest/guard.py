"""Keeps the service from running full: while disk or PostgreSQL is short, writes are refused and reads go on.

No request measures anything. A thread does, every few seconds while writes come in, and the requests look at what it
found last; what it found too long ago counts for nothing.
"""

import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import psycopg2.errors
import structlog
from django.db import DatabaseError, InterfaceError, OperationalError, connection, transaction

from duckmesh.kernel.acting import acting_for_all
from duckmesh.kernel.errors import Unavailable

INTERVAL = 2.0
STALE_AFTER = 15.0
RETRY_AFTER = 5

log = structlog.get_logger(__name__)


class Shortage(StrEnum):
    """What there is too little of."""

    DISK = "disk"
    BUS = "bus"
    DATABASE = "database"


_SENTENCES = {
    Shortage.DISK: "The service is short of disk space.",
    Shortage.BUS: "PostgreSQL holds too much that is accepted and not yet visible.",
    Shortage.DATABASE: "PostgreSQL's database has reached its largest size.",
}


@dataclass(frozen=True, kw_only=True)
class GuardPolicy:
    """The bounds, each of them off at 0; free disk is looked at where these directories are, or will be."""

    directories: tuple[Path, ...]
    min_free_disk_bytes: int
    max_bus_bytes: int
    max_database_bytes: int


def shortages(policy: GuardPolicy) -> frozenset[Shortage]:
    """What is short now. Of a database that does not answer nothing is known, so nothing is said."""
    found = {Shortage.DISK} if _disk_is_short(policy) else set()
    try:
        found |= _short_in_database(policy)
    except (DatabaseError, InterfaceError) as exc:
        log.warning("guard_without_database", reason=str(exc))
    return frozenset(found)


def _disk_is_short(policy: GuardPolicy) -> bool:
    return any(free_bytes(directory) < policy.min_free_disk_bytes for directory in policy.directories)


def free_bytes(directory: Path) -> int:
    """What is free on the disk where the directory is, or will be."""
    there = next(path for path in (directory, *directory.parents) if path.exists())
    return shutil.disk_usage(there).free


_SIZES = """
SELECT pg_total_relation_size('ingest_payload'),
       CASE WHEN %s THEN pg_database_size(current_database()) ELSE 0 END
"""

# Along the index of what is pending. A staged payload is not in PostgreSQL.
_WAITING = """
SELECT coalesce(sum(p.size_bytes), 0)
  FROM tenant_catalog c CROSS JOIN LATERAL duckmesh_pending(c.tenant_id, NULL) p
 WHERE NOT EXISTS (SELECT FROM ingest_staged s WHERE s.event_id = p.event_id)
"""


def _short_in_database(policy: GuardPolicy) -> set[Shortage]:
    if not policy.max_bus_bytes and not policy.max_database_bytes:
        return set()
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SET LOCAL statement_timeout = '2s'")
        cursor.execute(_SIZES, [policy.max_database_bytes > 0])
        bus_bytes, database_bytes = cursor.fetchone()
    found = {Shortage.DATABASE} if 0 < policy.max_database_bytes <= database_bytes else set()
    # The table's size on disk costs nothing to ask for and is never less than what waits in it. It stays large after
    # a flood: only then what waits is added up.
    if 0 < policy.max_bus_bytes <= bus_bytes and _too_much_waits(policy.max_bus_bytes):
        found.add(Shortage.BUS)
    return found


def _too_much_waits(max_bytes: int) -> bool:
    try:
        with acting_for_all(), transaction.atomic(), connection.cursor() as cursor:
            cursor.execute("SET LOCAL statement_timeout = '2s'")
            cursor.execute(_WAITING)
            return bool(cursor.fetchone()[0] >= max_bytes)
    except OperationalError as exc:
        if isinstance(exc.__cause__, psycopg2.errors.QueryCanceled):
            return True  # what cannot be added up in that time is too much
        raise


class Guard:
    """Lets writes pass or not, by what `measure` found within the last seconds."""

    def __init__(self, measure: Callable[[], frozenset[Shortage]], *, interval: float = INTERVAL) -> None:
        self._measure, self._interval = measure, interval
        self._changed = threading.Condition()
        self._short: frozenset[Shortage] = frozenset()
        self._measured_at = self._asked_at = float("-inf")
        self._thread: threading.Thread | None = None
        self._closed = False

    def require_room(self) -> None:
        """Nothing is short, as far as is known; raises `Unavailable` otherwise. Returns at once."""
        with self._changed:
            now = self._asked_at = time.monotonic()
            if not self._closed and (self._thread is None or not self._thread.is_alive()):
                self._thread = threading.Thread(target=self._watch, name="guard", daemon=True)
                self._thread.start()
            short = self._short if now - self._measured_at < STALE_AFTER else frozenset()
        if short:
            sentences = " ".join(_SENTENCES[shortage] for shortage in sorted(short))
            raise Unavailable(
                f"{sentences} It takes no writes until there is room again; nothing was written. Reads go on.",
                retry_after=RETRY_AFTER,
                short_of=[*sorted(short)],
            )

    def close(self) -> None:
        """Nothing is measured any more, and the connection for it is closed."""
        with self._changed:
            self._closed = True
            thread = self._thread
            self._changed.notify_all()
        if thread is not None and thread.is_alive():
            thread.join()

    def _watch(self) -> None:
        """Measures until nobody has asked for a while. A costly measurement makes the next one wait for longer."""
        try:
            while True:
                began = time.monotonic()
                found = self._measure()
                ended = time.monotonic()
                with self._changed:
                    if found != self._short:
                        log.warning("writes_refused" if found else "writes_taken_again", short_of=sorted(found))
                    self._short, self._measured_at = found, ended
                    self._changed.wait_for(lambda: self._closed, max(self._interval, 4 * (ended - began)))
                    if self._closed or time.monotonic() - self._asked_at > STALE_AFTER:
                        return
        finally:
            connection.close()
