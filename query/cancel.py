"""Calling a query off while it waits or runs, from whichever thread learns that nobody wants it any more."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Cancellation:
    """Asked for once, it holds: what the query waits for now is ended, and so is whatever it begins to wait for later.

    Who waits says how to be stopped. A stopped wait fails in its own way; the query itself then looks at `asked`.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._stops: list[Callable[[], None]] = []
        self.asked = False

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
