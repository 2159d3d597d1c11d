"""Frames between a pool and its runners: a length, a kind, a body. The reading side trusts no length it is told."""

import json
import socket
import struct
import time
from typing import Any

_HEAD = struct.Struct("<cI")
MESSAGE, DATA = b"M", b"D"
MAX_ANSWER_MESSAGE = 4 * 2**20
MAX_REQUEST_MESSAGE = 256 * 2**20  # the lists of files of a wide query; written by our own pool
MAX_DATA = 2 * 2**20  # longer data go in several frames; the sum is bounded by the reader


class WireError(Exception):
    """The other side closed, or says things no honest peer says. Nothing more can be read from it."""


def message_frame(message: dict[str, Any]) -> bytes:
    """`message` as it travels."""
    body = json.dumps(message, separators=(",", ":")).encode("utf-8", "surrogatepass")
    return _HEAD.pack(MESSAGE, len(body)) + body


def data_frame(data: bytes) -> bytes:
    """`data`, at most `MAX_DATA`, as they travel."""
    return _HEAD.pack(DATA, len(data)) + data


def send_message(sock: socket.socket, message: dict[str, Any], *, ahead: bytes = b"") -> None:
    """The frames `ahead` and `message` have been written whole."""
    sock.sendall(ahead + message_frame(message))


def send_data(sock: socket.socket, data: bytes, *, ahead: bytes = b"") -> None:
    """The frames `ahead` and `data` have been written whole; blocks while the reader does not read."""
    if len(data) < CHEAP_TO_COPY:
        sock.sendall(ahead + data_frame(data))
        return
    sock.sendall(ahead)
    view = memoryview(data)
    for start in range(0, len(data), MAX_DATA):
        piece = view[start : start + MAX_DATA]
        sock.sendall(_HEAD.pack(DATA, len(piece)))
        sock.sendall(piece)


CHEAP_TO_COPY = 128 * 1024


def receive(
    sock: socket.socket, *, until: float | None, max_message: int, max_data: int = 0
) -> tuple[bytes, bytearray]:
    """The next frame's kind and body. `until` is absolute (`time.monotonic()`), so that a dripping peer gains nothing.

    Raises `WireError` at the end of the stream or for a frame that is too long, and `TimeoutError`.
    """
    kind, size = _HEAD.unpack(_exactly(sock, _HEAD.size, until))
    limit = {MESSAGE: max_message, DATA: max_data}.get(kind, -1)
    if size > limit:
        raise WireError(f"a frame of kind {kind!r} with {size} bytes is not acceptable")
    return kind, _exactly(sock, size, until)


def receive_message(sock: socket.socket, *, until: float | None, max_message: int) -> dict[str, Any]:
    """The next frame, which must be a message."""
    _, body = receive(sock, until=until, max_message=max_message)
    return parse_message(body)


def parse_message(body: bytes | bytearray) -> dict[str, Any]:
    """The object in `body`. Raises `WireError` if it is none."""
    try:
        message = json.loads(body)
    except (ValueError, RecursionError) as exc:
        raise WireError("a message is not JSON") from exc
    if not isinstance(message, dict):
        raise WireError("a message is not an object")
    return message


def _exactly(sock: socket.socket, size: int, until: float | None) -> bytearray:
    buffer = bytearray(size)
    view, got = memoryview(buffer), 0
    while got < size:
        if until is not None:
            left = until - time.monotonic()
            if left <= 0:
                raise TimeoutError
            sock.settimeout(left)
        count = sock.recv_into(view[got:])
        if not count:
            raise WireError("the other side has closed")
        got += count
    return buffer
