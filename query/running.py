"""A statement that runs in a runner: read piece by piece, and stopped whenever nobody wants the rest."""

import threading
from collections.abc import Callable, Iterator
from typing import Any

from query.errors import QueryTimeout
from query.exchange import Exchange, failed
from query.request import RunAnswer


class Running:
    """Holds a place and a runner until `close`. A runner that blocks on its pipe waits for whoever reads here.

    One thread reads. `close` may come from any other, at the deadline: the reader then gets `QueryTimeout`.
    """

    def __init__(self, exchange: Exchange, *, queue_ms: float, release: Callable[[], None]) -> None:
        self._exchange, self._release = exchange, release
        self._lock = threading.Lock()
        self._open = True
        self.queue_ms = queue_ms
        self.column_types: tuple[str, ...] = ()
        self.row_count = 0
        self.truncated = False
        self.engine_ms = 0.0

    def pieces(self, patience: float) -> Iterator[bytearray | None]:
        """The bytes of the Arrow stream as they come; None whenever nothing came for `patience` seconds.

        `column_types` is known before the first bytes, the other attributes after the last.
        """
        while True:
            ready = self._exchange.ready(patience)  # without the lock: who stops this does not wait
            with self._lock:
                if not self._open:
                    raise QueryTimeout("The query was stopped at its deadline.")
                frame = self._exchange.frame() if ready else None
                if isinstance(frame, dict):
                    if self._understand(frame):
                        return
                    continue
            yield frame

    def collect(self) -> RunAnswer:
        """The whole answer, in memory."""
        arrow = b"".join(piece for piece in self.pieces(3600) if piece is not None)
        return RunAnswer(
            arrow=arrow,
            column_types=self.column_types,
            row_count=self.row_count,
            truncated=self.truncated,
            engine_ms=self.engine_ms,
            queue_ms=self.queue_ms,
        )

    def distrust(self) -> None:
        """Whatever the runner says, it is not used again."""
        self._exchange.distrust()

    def _understand(self, message: dict[str, Any]) -> bool:
        """True if the message was the last one."""
        try:
            if "row_count" not in message:
                self.column_types = tuple(str(kind) for kind in message["column_types"])
                return False
            self.row_count = int(message["row_count"])
            self.truncated = bool(message["truncated"])
            self.engine_ms = float(message["engine_ms"])
        except (KeyError, TypeError, ValueError):
            raise failed() from None  # its message is not one of ours
        self._exchange.last(message)
        return True

    def close(self) -> None:
        """The place is free. The runner lives on if its answer was read to the end, and is dead if not."""
        with self._lock:
            if self._open:
                self._open = False
                self._release()
