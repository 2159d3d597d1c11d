"""A balancer of TCP connections for tests: each goes to the next instance that takes it."""

import itertools
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from duckmesh.devstack.programs import LOOPBACK

Address = tuple[str, int]


@contextmanager
def balanced(instances: Sequence[Address]) -> Iterator[int]:
    """The port of the balancer, which is there during the block."""
    order = itertools.cycle(range(len(instances)))
    with socket.create_server((LOOPBACK, 0)) as listener:
        threading.Thread(target=_accept, args=(listener, instances, order), daemon=True).start()
        port: int = listener.getsockname()[1]
        try:
            yield port
        finally:
            listener.shutdown(socket.SHUT_RDWR)


def _accept(listener: socket.socket, instances: Sequence[Address], order: Iterator[int]) -> None:
    while True:
        try:
            client, _ = listener.accept()
        except OSError:
            return
        first = next(order)
        server = _connected([*instances[first:], *instances[:first]])
        if server is None:
            client.close()
            continue
        threading.Thread(target=_join, args=(client, server), daemon=True).start()


def _join(client: socket.socket, server: socket.socket) -> None:
    """Both hear each other until neither has more to say."""
    with client, server:
        back = threading.Thread(target=_pump, args=(server, client), daemon=True)
        back.start()
        _pump(client, server)
        back.join()


def _connected(instances: Sequence[Address]) -> socket.socket | None:
    for instance in instances:
        with suppress(OSError):
            return socket.create_connection(instance, timeout=5)
    return None


def _pump(source: socket.socket, target: socket.socket) -> None:
    """What one says the other hears, to its end."""
    source.settimeout(None)
    with suppress(OSError):
        while data := source.recv(65_536):
            target.sendall(data)
    with suppress(OSError):
        target.shutdown(socket.SHUT_WR)
    with suppress(OSError):
        source.shutdown(socket.SHUT_RD)
