"""Wakes the workers after a commit, from a thread of its own: an acknowledgement never waits for the broker.

What is pending is in PostgreSQL. A ring that is lost, late or doubled changes nothing but the time until the sweep.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import structlog

from duckmesh.kernel import metrics
from duckmesh.kernel.traces import MOST_LINKS, current_trace, working_for
from ingest.backlog import FlushPolicy

log = structlog.get_logger(__name__)


@dataclass(kw_only=True)
class _Due:
    at: float
    wanted: int = 0
    size_bytes: int = 0
    traces: dict[str, None] = field(default_factory=dict)  # in their order, the first few

    def serve(self, trace_id: str | None) -> None:
        if trace_id is not None and len(self.traces) < MOST_LINKS:
            self.traces[trace_id] = None


class Doorbell:
    """Rings for a tenant at once when somebody waits, else when its writes are due; rings of one tenant are merged.

    `send(tenant_id, wanted)` delivers a ring, for the traces of the first few requests of it, and may fail.
    `wanted` is the greatest token somebody waits for, or 0.
    """

    def __init__(self, *, send: Callable[[str, int], None], policy: FlushPolicy) -> None:
        self._send = send
        self._policy = policy
        self._due: dict[str, _Due] = {}
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def accepted(self, *, tenant_id: str, size_bytes: int) -> None:
        """The tenant has new pending writes of this size; nobody waits for them."""
        trace_id = current_trace()
        with self._changed:
            now = time.monotonic()
            due = self._due.get(tenant_id)
            first = due is None
            if due is None:
                due = self._due[tenant_id] = _Due(at=now + self._policy.interval.total_seconds())
            due.size_bytes += size_bytes
            due.serve(trace_id)
            full = due.size_bytes >= self._policy.size_bytes
            if full:
                due.at = now
            # The thread has set itself to the time it knows: waking it for every write would cost each a switch.
            if first or full:
                self._wake()

    def awaited(self, *, tenant_id: str, token: int) -> None:
        """Somebody waits until `token` is visible."""
        trace_id = current_trace()
        with self._changed:
            now = time.monotonic()
            due = self._due.setdefault(tenant_id, _Due(at=now))
            due.at = now
            due.wanted = max(due.wanted, token)
            due.serve(trace_id)
            self._wake()

    def _wake(self) -> None:
        # After a fork the parent's thread is not alive here, and this process starts its own.
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._run, name="doorbell", daemon=True)
            self._thread.start()
        self._changed.notify()

    def _run(self) -> None:
        while True:
            with self._changed:
                tenant_id = self._next()
                due = self._due.pop(tenant_id)
            try:
                with working_for(due.traces):
                    self._send(tenant_id, due.wanted)
            except Exception as exc:  # noqa: BLE001 - whatever the broker does, the thread goes on
                metrics.doorbell_errors.inc()
                log.warning("doorbell_failed", tenant_id=tenant_id, error=type(exc).__name__)

    def _next(self) -> str:
        """Waits until a tenant is due and names it; the condition is held."""
        while True:
            if not self._due:
                self._changed.wait()
                continue
            tenant_id, due = min(self._due.items(), key=lambda item: item[1].at)
            remaining = due.at - time.monotonic()
            if remaining <= 0:
                return tenant_id
            self._changed.wait(remaining)
