"""The line to the workers that compute runs: they are told of a run, and its end is waited for.

A worker is told from a thread of its own, so that no answer waits for the broker. All requests of a process that wait
share one poller, which asks for the ends of all their runs in one statement, and only while somebody waits.
"""

import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from contextvars import copy_context
from uuid import UUID

import structlog
from django.db import Error, connection

from duckmesh.kernel import metrics
from duckmesh.kernel.acting import acting_for_all
from duckmesh.kernel.errors import Unavailable
from maintenance.history import ended_runs
from maintenance.runs import Poke
from query.errors import TooManyWaiters

POLL_INTERVAL = 0.05
PAUSE_AFTER_ERROR = 0.5
IDLE_BEFORE_CLOSE = 10.0

log = structlog.get_logger(__name__)


class RunLine:
    """`send` tells a worker of a run and may fail; `place` is held by each request that waits, and may be refused."""

    def __init__(
        self,
        *,
        send: Callable[[Poke], None],
        place: Callable[[], AbstractContextManager[None]],
        read: Callable[[Iterable[UUID]], set[UUID]] = ended_runs,
    ) -> None:
        self._send, self._place, self._read = send, place, read
        self._pokes = ThreadPoolExecutor(max_workers=1, thread_name_prefix="run-pokes")
        self._changed = threading.Condition()
        self._waiting: dict[UUID, list[threading.Event]] = {}
        self._thread: threading.Thread | None = None
        self._closed = False

    def poke(self, run: Poke) -> None:
        """A worker hears of the run, unless the broker is away: then the tick tells one."""
        self._pokes.submit(copy_context().run, self._try_to_send, run)

    def wait(self, run_id: UUID, *, seconds: float) -> bool:
        """Whether the run ends within this time. No time passes if as many requests wait as may."""
        if seconds <= 0:
            return False
        try:
            with self._place():
                return self._ended(run_id, seconds)
        except (TooManyWaiters, Unavailable):
            return False

    def stop_waiting(self) -> None:
        """Nobody who waits is kept any longer; pokes go on."""
        with self._changed:
            self._closed = True
            thread = self._thread
            self._changed.notify_all()
        if thread is not None:
            thread.join()

    def close(self) -> None:
        """The threads have ended; nobody who waits is kept any longer."""
        self.stop_waiting()
        self._pokes.shutdown()

    def _try_to_send(self, run: Poke) -> None:
        try:
            self._send(run)
        except Exception as exc:  # noqa: BLE001 - whatever the broker does, the thread goes on
            metrics.doorbell_errors.inc()
            log.warning("run_poke_failed", run_id=str(run.run_id), error=type(exc).__name__)

    def _ended(self, run_id: UUID, seconds: float) -> bool:
        ended = threading.Event()
        with self._changed:
            self._waiting.setdefault(run_id, []).append(ended)
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._poll, name="run-poller", daemon=True)
                self._thread.start()
            self._changed.notify_all()
        try:
            return ended.wait(seconds) and not self._closed
        finally:
            with self._changed:
                self._waiting[run_id].remove(ended)
                if not self._waiting[run_id]:
                    del self._waiting[run_id]

    def _poll(self) -> None:
        try:
            while run_ids := self._awaited():
                time.sleep(POLL_INTERVAL if self._look(run_ids) else PAUSE_AFTER_ERROR)
        finally:
            connection.close()

    def _awaited(self) -> list[UUID]:
        """The runs that are waited for, as soon as there are any; none when the line is closed."""
        with self._changed:
            if not self._waiting and not self._changed.wait_for(self._has_work, IDLE_BEFORE_CLOSE):
                connection.close()
                self._changed.wait_for(self._has_work)
            if self._closed:
                for ended in (ended for group in self._waiting.values() for ended in group):
                    ended.set()
                return []
            return list(self._waiting)

    def _has_work(self) -> bool:
        return self._closed or bool(self._waiting)

    def _look(self, run_ids: list[UUID]) -> bool:
        """Whoever waits for a run that has ended is woken. False if the database did not answer."""
        try:
            with acting_for_all():
                found = self._read(run_ids)
        except Error as exc:
            log.warning("run_poll_failed", reason=type(exc).__name__)
            connection.close()
            return False
        with self._changed:
            for run_id in found:
                for ended in self._waiting.get(run_id, ()):
                    ended.set()
        return True
