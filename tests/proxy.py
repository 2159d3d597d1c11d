"""A proxy between a store and its server, which breaks connections and counts requests."""

import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from tests.swift import Swift

_BODILESS = re.compile(rb"(?:GET|HEAD|DELETE) [^ ]+ HTTP/1.1\r\n")


@dataclass
class Proxy:
    """Passes bytes on until as many as are allowed have gone one way; then both ends see the connection break.

    A request that contains `unanswered` reaches the server, and its answer is lost. Those without a body are counted.
    """

    server: str
    upload_allowed: int | None = None
    download_allowed: int | None = None
    unanswered: bytes | None = None
    listener: socket.socket = field(default_factory=lambda: socket.create_server(("127.0.0.1", 0)))
    open: list[socket.socket] = field(default_factory=list)
    requests: int = 0

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.listener.getsockname()[1]}"

    def serve(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self.listener.accept()
                host, port = self.server.split(":")
                server = socket.create_connection((host, int(port)))
                self.open += [client, server]
                threading.Thread(target=self._pass, args=(client, server, "upload_allowed"), daemon=True).start()
                threading.Thread(target=self._pass, args=(server, client, "download_allowed"), daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket, allowance: str) -> None:
        with suppress(OSError):
            while data := source.recv(65_536):
                allowed: int | None = getattr(self, allowance)
                if allowed is not None:
                    if allowed < len(data):
                        self.vanish()
                        break
                    setattr(self, allowance, allowed - len(data))
                self.requests += allowance == "upload_allowed" and len(_BODILESS.findall(data))
                if self.unanswered and self.unanswered in data:
                    self.download_allowed = 0
                target.sendall(data)
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def cut(self) -> None:
        """Break every connection."""
        for end in self.open:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def vanish(self) -> None:
        """As if the server's machine were gone."""
        # Closing alone would not wake the thread that waits in accept().
        with suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.cut()


@contextmanager
def proxied(server: Swift) -> Iterator[Proxy]:
    """Connections to the server go through a proxy."""
    proxy = Proxy(server.host)
    thread = threading.Thread(target=proxy.serve, daemon=True)
    thread.start()
    yield proxy
    proxy.vanish()
    thread.join(5)
    for end in proxy.open:
        end.close()
