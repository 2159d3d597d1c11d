"""Who asked what, written in batches off the request's path. A database that is away costs rows here, never a query."""

import atexit
import threading
import time
from collections import deque
from dataclasses import dataclass
from datetime import datetime
from itertools import islice

import structlog
from django.db import Error, InterfaceError, OperationalError, connection

from duckmesh.kernel.acting import acting_for_all
from query.models import QueryAudit

FLUSH_INTERVAL = 0.5
BATCH = 1_000
IDLE_BEFORE_CLOSE = 10.0
LAST_FLUSH = 2.0

log = structlog.get_logger(__name__)


@dataclass(frozen=True, kw_only=True)
class AuditEntry:
    """One query that has ended. `outcome` is "ok" or the code of the error."""

    tenant_id: str
    key_id: str
    snapshot_id: int | None
    sql_hash: str
    outcome: str
    duration_ms: float
    row_count: int
    size_bytes: int
    at: datetime
    query_id: str = ""
    sql_text: str | None = None  # only where the operator lets statements be kept


class AuditLog:
    """Keeps up to `limit` entries until they are written, within a second; `dropped` counts those it could not keep."""

    def __init__(self, *, limit: int = 20_000) -> None:
        self._limit = limit
        self.dropped = 0
        self._pending: deque[AuditEntry] = deque()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closed = False

    def record(self, entry: AuditEntry) -> None:
        """The entry will be written; this returns at once."""
        with self._changed:
            if self._closed or len(self._pending) >= self._limit:
                self.dropped += 1
                return
            self._pending.append(entry)
            # After a fork the parent's thread is not alive here, and this process starts its own.
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, name="query-audit", daemon=True)
                self._thread.start()
                atexit.register(self.close)
            self._changed.notify()

    def close(self) -> None:
        """What was recorded is written, if the database takes it in time; no more is recorded."""
        with self._changed:
            self._closed = True
            thread = self._thread
            self._changed.notify()
        if thread is not None and thread.is_alive():
            thread.join(LAST_FLUSH)
        atexit.unregister(self.close)

    def _run(self) -> None:
        try:
            while self._entries_come():
                self._flush()
                with self._changed:
                    self._changed.wait_for(lambda: self._closed, FLUSH_INTERVAL)
            self._flush()
        finally:
            connection.close()

    def _entries_come(self) -> bool:
        """True as soon as there is something to write; False when the log is closed."""
        with self._changed:
            if not self._changed.wait_for(self._has_work, IDLE_BEFORE_CLOSE):
                connection.close()
                self._changed.wait_for(self._has_work)
            return not self._closed

    def _has_work(self) -> bool:
        return self._closed or bool(self._pending)

    def _flush(self) -> None:
        started = time.monotonic()
        while batch := list(islice(self._pending, BATCH)):
            try:
                with acting_for_all():
                    QueryAudit.objects.bulk_create(QueryAudit(**vars(entry)) for entry in batch)
            except (OperationalError, InterfaceError) as exc:
                # They stay, up to the limit, for when the database is back.
                connection.close()
                log.warning("query_audit_delayed", pending=len(self._pending), reason=type(exc).__name__)
                return
            except Error as exc:
                self.dropped += len(batch)
                log.error("query_audit_dropped", entries=len(batch), reason=type(exc).__name__)
            with self._changed:
                for _ in batch:
                    self._pending.popleft()
            if self._closed and time.monotonic() - started > LAST_FLUSH:
                return
