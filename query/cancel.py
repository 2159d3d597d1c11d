"""Calling a query off while it waits or runs, from whichever thread learns that nobody wants it any more."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

FIRST_LOOK, LOOK_INTERVAL = 0.05, 0.4  # seconds; a look at a client costs a millisecond where many are connected


class Cancellation:
    """Asked for once, it holds: what the query waits for now is ended, and so is whatever it begins to wait for later.

    Who waits says how to be stopped. A stopped wait fails in its own way; the query itself then looks at `asked`.
    Whoever waits with `wait` also asks `gone` now and then whether its client has hung up, which calls the query off
    too; `deserted` says so.
    """

    def __init__(self, *, gone: Callable[[], bool] = lambda: False) -> None:
        self._gone = gone
        self._look_at: float | None = None
        self._lock = threading.Lock()
        self._stops: list[Callable[[], None]] = []
        self.asked = self.deserted = False

    def ask(self) -> None:
        """The query is being stopped. Returns at once; more than once is as good as once."""
        with self._lock:
            self.asked = True
            for stop in self._stops:
                stop()

    def add(self, stop: Callable[[], None]) -> None:
        """`stop` is called, in any thread, when the query is called off, until it is taken away.

        It must return at once, and not wait for a thread that may be taking it away.
        """
        with self._lock:
            self._stops.append(stop)
            if self.asked:
                stop()

    def remove(self, stop: Callable[[], None]) -> None:
        """`stop` is not being called and will not be."""
        with self._lock:
            self._stops.remove(stop)

    @contextmanager
    def stopping(self, stop: Callable[[], None]) -> Iterator[None]:
        """`stop` is called when the query is called off within this block."""
        self.add(stop)
        try:
            yield
        finally:
            self.remove(stop)

    def wait(self, ready: threading.Event, *, until: float) -> bool:
        """Whether `ready` is set: at the latest `until`, by `time.monotonic()`, or when the client has hung up.

        `ready` should be among what stops the query. One thread at a time waits.
        """
        if self._look_at is None:
            self._look_at = time.monotonic() + FIRST_LOOK
        while not ready.wait(max(0.0, min(self._look_at, until) - time.monotonic())):
            now = time.monotonic()
            if now >= self._look_at:
                self._look_at = now + LOOK_INTERVAL
                if self._gone():
                    self.deserted = True
                    self.ask()
                    break
            if now >= until:
                break
        return ready.is_set()
