"""The queries of this process that have not ended, and how another process learns of them and calls them off.

A query that ends soon costs no row. One that runs for longer than `SHOW_AFTER` gets a row in `query_running`, and its
process looks a few times a second at whether somebody has asked to cancel it. Whoever cancels a query that has no row
yet waits for the row. The thread and its database connection exist only while they have something to do.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime

import structlog
from django.db import Error, connection

from duckmesh.kernel.acting import acting_for_all
from query.cancel import Cancellation
from query.shown import Shown, forget, show_and_hear, tell_heard

SHOW_AFTER = 0.4
LOOK_INTERVAL = 0.2
TOUCH_INTERVAL = 5.0
LINGER = 1.0
"""For whoever has asked, the row of a query that was called off says for so long that this was heard."""
IDLE_BEFORE_CLOSE = 10.0

log = structlog.get_logger(__name__)


@dataclass(frozen=True, kw_only=True, eq=False)
class Flight:
    """One query from its arrival to its end. `sql` is empty unless the operator lets statements be kept."""

    query_id: str
    tenant_id: str
    key_id: str
    sql_hash: str
    sql: str
    at: datetime
    cancellation: Cancellation = field(default_factory=Cancellation)
    started: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        """How long it has been running."""
        return time.monotonic() - self.started

    @property
    def shown(self) -> Shown:
        """It as others see it."""
        return Shown(
            query_id=self.query_id,
            tenant_id=self.tenant_id,
            key_id=self.key_id,
            sql_hash=self.sql_hash,
            sql=self.sql,
            seconds=self.seconds,
            cancelling=self.cancellation.asked,
        )


class Inflight:
    """The flights of one process. `close` ends its thread; rows that are left are those of queries that still run."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._flights: dict[str, Flight] = {}
        self._touched: dict[str, float] = {}  # the rows there are, and when they were last written
        self._heard: dict[str, float] = {}  # of these, when they were last called off
        self._thread: threading.Thread | None = None
        self._closed = False

    @contextmanager
    def holding(self, flight: Flight) -> Iterator[None]:
        """The query can be seen and cancelled during this block."""
        with self._changed:
            self._flights[flight.query_id] = flight
            # After a fork the parent's thread is not alive here, and this process starts its own.
            if not self._closed and (self._thread is None or not self._thread.is_alive()):
                self._thread = threading.Thread(target=self._watch, name="query-watch", daemon=True)
                self._thread.start()
            if len(self._flights) == 1:
                self._changed.notify()
        try:
            yield
        finally:
            with self._changed:
                del self._flights[flight.query_id]

    def of(self, tenant_id: str) -> list[Flight]:
        """The tenant's flights here."""
        with self._changed:
            return [flight for flight in self._flights.values() if flight.tenant_id == tenant_id]

    def cancel(self, *, tenant_id: str, query_id: str) -> bool:
        """The query is being stopped, if it is one of the tenant's and runs here."""
        with self._changed:
            flight = self._flights.get(query_id)
        if flight is None or flight.tenant_id != tenant_id:
            return False
        flight.cancellation.ask()
        return True

    def close(self) -> None:
        """The thread has ended."""
        with self._changed:
            self._closed = True
            thread = self._thread
            self._changed.notify()
        if thread is not None and thread.is_alive():
            thread.join()

    def _watch(self) -> None:
        try:
            while self._work_comes():
                try:
                    with acting_for_all():
                        self._look()
                except Error as exc:
                    log.warning("query_watch_failed", reason=type(exc).__name__)
                    connection.close()
                with self._changed:
                    self._changed.wait_for(lambda: self._closed, LOOK_INTERVAL)
        finally:
            connection.close()

    def _work_comes(self) -> bool:
        """True as soon as a query runs or a row is to go; False when this is closed."""
        with self._changed:
            if not self._changed.wait_for(self._has_work, IDLE_BEFORE_CLOSE):
                connection.close()
                self._changed.wait_for(self._has_work)
            return not self._closed

    def _has_work(self) -> bool:
        return self._closed or bool(self._flights) or bool(self._touched)

    def _look(self) -> None:
        """The rows are those of the long queries of this process, and what others asked of these is being done."""
        with self._changed:
            long = {name: flight for name, flight in self._flights.items() if flight.seconds > SHOW_AFTER}
        now = time.monotonic()
        ended = [name for name in self._touched if name not in long]
        if gone := [name for name in ended if now - self._heard.get(name, -LINGER) >= LINGER]:
            forget(gone)
            for name in gone:
                del self._touched[name]
                self._heard.pop(name, None)
        if not long:
            return
        due = [name for name in long if now - self._touched.get(name, -TOUCH_INTERVAL) >= TOUCH_INTERVAL]
        cancelled = show_and_hear(write=[long[name].shown for name in due], read=list(long))
        self._touched.update(dict.fromkeys(due, now))
        with self._changed:
            heard = [name for name in cancelled if name in self._flights]
        for name in heard:
            long[name].cancellation.ask()
        if heard:
            tell_heard(heard)
            self._heard.update(dict.fromkeys(heard, now))
