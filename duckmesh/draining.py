"""The last seconds of a process of the API: what waits for long has its answer before the grace is over.

The server stops listening, and lets requests and streams go on until it is killed. A request that waits for visibility
may wait for minutes, so it would be cut off; it is answered instead. The server puts its own handlers of signals over
any that was there before, so this listens where Python tells of every signal, whoever handles it.
"""

import signal
import socket
import threading
from collections.abc import Callable
from datetime import timedelta

_ORDERS = frozenset({signal.SIGTERM, signal.SIGINT})
_held: list[socket.socket] = []


def watch(*, patience: timedelta, act: Callable[[], None]) -> None:
    """`act` is called, in a thread of its own, `patience` after the first order to stop. From the main thread only."""
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    _held[:] = [reader, writer]
    signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    threading.Thread(target=_listen, args=(reader, patience, act), name="draining", daemon=True).start()


def _listen(reader: socket.socket, patience: timedelta, act: Callable[[], None]) -> None:
    while received := reader.recv(64):
        if _ORDERS.intersection(received):
            threading.Event().wait(patience.total_seconds())
            act()
            return
