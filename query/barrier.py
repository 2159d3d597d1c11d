"""The barrier: a request waits until a token is visible. All that wait in a process share one poller.

The poller reads the watermarks of every tenant somebody waits for in one statement, every few milliseconds and only
while somebody waits. It has a thread and a database connection of its own, which it gives back when it is idle.
"""

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

import structlog
from django.db import Error, connection

from catalog.snapshots import visible_tokens
from duckmesh.kernel.acting import acting_for_all
from duckmesh.kernel.errors import Unavailable
from query.cancel import Cancellation
from query.errors import ConsistencyTimeout, TooManyWaiters

POLL_INTERVAL = 0.005
RING_INTERVAL = 0.1
IDLE_BEFORE_CLOSE = 10.0
PAUSE_AFTER_ERROR = 0.1
STALE_AFTER = 1.0

log = structlog.get_logger(__name__)


class ReadTokens(Protocol):
    """Reads the latest watermark of each tenant."""

    def __call__(self, *, tenant_ids: Iterable[str]) -> Mapping[str, int]: ...


def _nobody(tenant_id: str, token: int) -> None:
    """The callback of a barrier whose waiters nobody needs to hear of."""


@dataclass(eq=False)
class _Waiter:
    token: int
    reached: threading.Event = field(default_factory=threading.Event)


class Barrier:
    """Waits for tokens of any tenant, at most `max_waiters` requests at a time.

    `on_wait(tenant_id, token)` is called in the waiting request's thread when its wait begins and, as long as
    somebody waits for the tenant, about every 100 ms: whoever publishes can be woken, and woken again if the first
    call was lost. It should return at once; what it raises ends the wait of that request.
    """

    def __init__(
        self,
        *,
        max_waiters: int,
        on_wait: Callable[[str, int], None] = _nobody,
        read: ReadTokens = visible_tokens,
    ) -> None:
        self._max_waiters, self._on_wait, self._read = max_waiters, on_wait, read
        self._changed = threading.Condition()
        self._waiting: dict[str, list[_Waiter]] = {}
        self._count = 0
        self._rung: dict[str, float] = {}
        self._latest: dict[str, int] = {}
        self._read_at = 0.0
        self._thread: threading.Thread | None = None
        self._closed = False

    def wait(self, *, tenant_id: str, token: int, timeout: float, cancellation: Cancellation | None = None) -> int:
        """The tenant's latest watermark, once it is `token` or greater; at most `timeout` seconds pass.

        Cancelled, the wait times out at once.
        Raises `ConsistencyTimeout`, `TooManyWaiters`, and `Unavailable` if at the end nobody knows the watermark.
        """
        latest = self._read(tenant_ids=[tenant_id]).get(tenant_id, 0)
        if latest >= token:
            return latest
        if timeout > 0:
            deadline = time.monotonic() + timeout
            latest = self._wait(tenant_id, token, latest, deadline, cancellation or Cancellation())
        if latest >= token:
            return latest
        raise ConsistencyTimeout(
            f"The token {token} is not visible yet; the latest that is, is {latest}.",
            min_visibility_token=token,
            latest_visibility_token=latest,
        )

    @contextmanager
    def place(self) -> Iterator[None]:
        """For this block one more request waits in this process, for something else. Raises `TooManyWaiters`."""
        with self._changed:
            self._take_place()
        try:
            yield
        finally:
            with self._changed:
                self._count -= 1

    def close(self) -> None:
        """The poller has ended and its connection is closed; whoever still waits gets `Unavailable`."""
        with self._changed:
            self._closed = True
            thread = self._thread
            for waiter in (waiter for group in self._waiting.values() for waiter in group):
                waiter.reached.set()
            self._changed.notify_all()
        if thread is not None and thread.is_alive():
            thread.join()

    def _wait(self, tenant_id: str, token: int, seen: int, deadline: float, cancellation: Cancellation) -> int:
        waiter = _Waiter(token)
        self._enter(tenant_id, waiter, seen)
        cancellation.add(waiter.reached.set)
        try:
            self._on_wait(tenant_id, token)
            while not cancellation.wait(waiter.reached, until=min(deadline, time.monotonic() + RING_INTERVAL)):
                if time.monotonic() >= deadline or cancellation.asked:
                    break
                if self._ring_is_due(tenant_id):
                    self._on_wait(tenant_id, token)
        finally:
            cancellation.remove(waiter.reached.set)
            self._leave(tenant_id, waiter)
        with self._changed:
            latest = max(seen, self._latest.get(tenant_id, 0))
            known = time.monotonic() - self._read_at < STALE_AFTER
        if latest < token and self._closed:
            raise Unavailable("This process is stopping; whether the token is visible is not known.", retry_after=1)
        if latest < token and not known:
            raise Unavailable("The catalog does not answer; whether the token is visible is not known.", retry_after=1)
        return latest

    def _enter(self, tenant_id: str, waiter: _Waiter, seen: int) -> None:
        with self._changed:
            self._take_place()
            self._waiting.setdefault(tenant_id, []).append(waiter)
            self._latest[tenant_id] = max(seen, self._latest.get(tenant_id, 0))
            self._rung[tenant_id] = self._read_at = time.monotonic()
            # After a fork the parent's thread is not alive here, and this process starts its own.
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._poll, name="visibility-poller", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def _take_place(self) -> None:
        if self._closed:
            raise Unavailable("This process is stopping.", retry_after=1)
        if self._count >= self._max_waiters:
            raise TooManyWaiters("Too many requests wait for visibility here; try again.", retry_after=1)
        self._count += 1

    def _leave(self, tenant_id: str, waiter: _Waiter) -> None:
        with self._changed:
            self._count -= 1
            group = self._waiting[tenant_id]
            group.remove(waiter)
            if not group:
                del self._waiting[tenant_id], self._rung[tenant_id]

    def _ring_is_due(self, tenant_id: str) -> bool:
        """Whether this waiter is to call for all that wait for the tenant; the next one is due an interval later."""
        now = time.monotonic()
        with self._changed:
            if now - self._rung[tenant_id] < RING_INTERVAL:
                return False
            self._rung[tenant_id] = now
            return True

    def _poll(self) -> None:
        try:
            while tenant_ids := self._tenants():
                time.sleep(POLL_INTERVAL if self._look(tenant_ids) else PAUSE_AFTER_ERROR)
        finally:
            connection.close()

    def _tenants(self) -> list[str]:
        """The tenants that are waited for, as soon as there are any; none when the barrier is closed."""
        with self._changed:
            if not self._waiting and not self._changed.wait_for(self._has_work, IDLE_BEFORE_CLOSE):
                connection.close()
                self._latest.clear()
                self._changed.wait_for(self._has_work)
            return [] if self._closed else list(self._waiting)

    def _has_work(self) -> bool:
        return self._closed or bool(self._waiting)

    def _look(self, tenant_ids: list[str]) -> bool:
        """One reading of the watermarks; those it satisfies are woken. False if the database did not answer."""
        try:
            with acting_for_all():
                tokens = self._read(tenant_ids=tenant_ids)
        except Error as exc:
            log.warning("visibility_poll_failed", reason=type(exc).__name__)
            connection.close()
            return False
        with self._changed:
            self._read_at = time.monotonic()
            self._latest.update(tokens)
            for tenant_id, token in tokens.items():
                for waiter in self._waiting.get(tenant_id, ()):
                    if waiter.token <= token:
                        waiter.reached.set()
        return True
