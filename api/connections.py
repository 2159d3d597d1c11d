"""The connection that a request came on, as far as it can be told from outside the HTTP server.

The server (granian) tells a WSGI application neither its client's port nor that the client has hung up, and ends a body
whose iterator raised as if it were whole. What it does is visible all the same: its sockets are files of this process.
A request's own socket is one that was there when we first looked, from the request's address, and had an answer to
come; and that has since sent what the answer sent, no more. Each look can only rule out others.

Where the system does not show this (not Linux, another server), nobody is ever found gone and nothing is cut.
"""

import fcntl
import os
import secrets
import socket
import stat
import struct
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

SERVER = "Granian"
FILES = Path("/proc/self/fd")
ROUNDS = 3
SECONDS_TO_SEND = 0.3
_TCP_INFO = struct.Struct("<B43xI4xI64xQ")  # state, and of times ago: of sending, of receiving; bytes acknowledged
_OUTQ = 0x5411
_ESTABLISHED = 1


@dataclass(frozen=True, kw_only=True)
class _Seen:
    file: int
    sent: int  # bytes that were handed to the kernel
    settled: bool  # the client has them all; else more of an earlier answer may yet be handed over
    owes: bool  # the last thing that happened is that something was received


Key = tuple[int, tuple[str, int]]  # inode and the other end: neither alone is unique for ever


class Connection:
    """One request's. Make it while the request has not been answered."""

    def __init__(self, environ: Mapping[str, object]) -> None:
        self._address = str(environ.get("REMOTE_ADDR", "")).removeprefix("::ffff:")
        port = str(environ.get("SERVER_PORT", ""))
        knows = environ.get("SERVER_SOFTWARE") == SERVER and FILES.is_dir() and hasattr(socket, "TCP_INFO")
        self._port = int(port) if knows and port.isdecimal() else 0
        self._mine: dict[Key, _Seen] | None = None

    def gone(self) -> bool:
        """For certain nobody waits for the answer any more. To be asked only before any of it was sent."""
        seen = self._look()
        if seen is None:
            return False
        if self._mine is None:
            self._mine = {key: now for key, now in seen.items() if now.owes}
        else:
            self._mine = {
                key: first
                for key, first in self._mine.items()
                if key in seen and (seen[key].sent == first.sent or not first.settled)
            }
        return not self._mine

    def begun(self) -> None:
        """The answer's first bytes are about to be sent."""
        self.gone()

    def over(self) -> None:
        """The connection is cut, if it is known for certain which it is."""
        seen = self._look() or {}
        if len(found := self._sending(seen)) == 1:
            _shut(seen[found[0]].file)

    def cut(self, tail: bytes) -> Iterator[bytes]:
        """What is left to send of an answer that has broken off; then its connection is cut.

        If several connections could be it, each of some pieces of random length is sent until one connection alone
        has sent just that.
        """
        seen = self._look() or {}
        found = self._sending(seen)
        yield tail
        for _ in range(ROUNDS):
            if len(found) <= 1:
                break
            time.sleep(SECONDS_TO_SEND)  # what was on its way has been sent, if the client takes anything at all
            before = self._look() or {}
            filler = b"!" * (1_000 + secrets.randbelow(30_000))
            yield filler
            framed = len(f"{len(filler):x}") + len(filler) + 4
            time.sleep(SECONDS_TO_SEND)
            after = self._look() or {}
            grown = {key for key in before.keys() & after.keys() if after[key].sent - before[key].sent == framed}
            found = [key for key in found if key in grown]
        seen = self._look() or {}
        if len(found) == 1 and found[0] in seen:
            time.sleep(SECONDS_TO_SEND / 3)  # the tail tells a reader why
            _shut(seen[found[0]].file)

    def _sending(self, seen: Mapping[Key, _Seen]) -> list[Key]:
        return [key for key, first in (self._mine or {}).items() if key in seen and seen[key].sent > first.sent]

    def _look(self) -> dict[Key, _Seen] | None:
        """This process's open connections from the request's address; None if they cannot be told."""
        if not self._port:
            return None
        found: dict[Key, _Seen] = {}
        listens = False
        for name in FILES.iterdir():
            with suppress(OSError, ValueError, struct.error):
                file = int(name.name)
                status = os.fstat(file)
                if not stat.S_ISSOCK(status.st_mode):
                    continue
                sock = socket.socket(fileno=file)
                try:
                    if sock.family not in (socket.AF_INET, socket.AF_INET6) or sock.getsockname()[1] != self._port:
                        continue
                    if sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                        listens = True
                        continue
                    peer = sock.getpeername()
                    if peer[0].removeprefix("::ffff:") == self._address:
                        found |= _seen(sock, file, (status.st_ino, (peer[0], peer[1])))
                finally:
                    sock.detach()
        return found if listens else None


def _seen(sock: socket.socket, file: int, key: Key) -> dict[Key, _Seen]:
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO.size)
    state, sent_ago, received_ago, acknowledged = _TCP_INFO.unpack(info)
    if state != _ESTABLISHED:
        return {}
    (queued,) = struct.unpack("i", fcntl.ioctl(file, _OUTQ, b"\0\0\0\0"))
    sent = acknowledged + queued
    return {key: _Seen(file=file, sent=sent, settled=queued == 0, owes=received_ago <= sent_ago)}


def _shut(file: int) -> None:
    with suppress(OSError):
        sock = socket.socket(fileno=os.dup(file))
        try:
            sock.shutdown(socket.SHUT_RDWR)
        finally:
            sock.close()
