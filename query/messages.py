"""The bytes that come from a runner, cut into the messages of an Arrow stream, none of them believed.

Arrow allocates what a message says it needs, and decompresses buffers to the size they name. A message is therefore
looked at before Arrow sees it: how long it is, how many rows it claims, and that nothing in it is compressed.
"""

import struct
from dataclasses import dataclass

MAX_MESSAGE = 256 * 2**20
MAX_METADATA = 4 * 2**20
MAX_ROWS = 32_768
_CONTINUATION = 0xFFFFFFFF
_SCHEMA, _DICTIONARY, _BATCH = 1, 2, 3


class MessageError(Exception):
    """The bytes are not what a runner of ours writes."""


@dataclass(frozen=True, kw_only=True)
class Message:
    """One message whole, with its prefix: `is_batch` if it holds rows, `is_end` if it is the stream's end mark."""

    data: bytes
    is_batch: bool
    is_end: bool


class Messages:
    """Takes bytes as they come, gives out messages."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def add(self, piece: bytes | bytearray) -> None:
        """These bytes have come."""
        self._buffer += piece

    def next(self) -> Message | None:
        """The next message if it is there whole."""
        if len(self._buffer) < 8:
            return None
        continuation, size = struct.unpack_from("<Ii", self._buffer)
        if continuation != _CONTINUATION or not 0 <= size <= MAX_METADATA:
            raise MessageError("a message does not begin as one")
        if len(self._buffer) < 8 + size:
            return None
        kind, body = _look(memoryview(self._buffer)[8 : 8 + size].tobytes()) if size else (0, 0)
        whole = 8 + size + body
        if len(self._buffer) < whole:
            return None
        data = bytes(memoryview(self._buffer)[:whole])
        del self._buffer[:whole]
        return Message(data=data, is_batch=kind == _BATCH, is_end=not size)


def _look(metadata: bytes) -> tuple[int, int]:
    """The kind of message that `metadata` describes, and the length of its body."""
    try:
        message = _Table(metadata, struct.unpack_from("<I", metadata)[0])
        kind, body = message.number(1, "<B"), message.number(3, "<q")
        if kind not in (_SCHEMA, _DICTIONARY, _BATCH) or not 0 <= body <= MAX_MESSAGE:
            raise MessageError("a message is of a kind or a length that no runner writes")
        if kind != _SCHEMA:
            content = message.table(2)
            records = content.table(1) if kind == _DICTIONARY else content
            if not 0 <= records.number(0, "<q") <= MAX_ROWS and kind == _BATCH:
                raise MessageError("a batch has more rows than a runner puts in one")
            if records.has(3):
                raise MessageError("a message is compressed")
    except struct.error:
        raise MessageError("a message cannot be read") from None
    return kind, body


class _Table:
    """A table of a flatbuffer: its fields by their numbers."""

    def __init__(self, data: bytes, start: int) -> None:
        self._data, self._start = data, start
        self._fields = start - int(struct.unpack_from("<i", data, start)[0])
        if self._fields < 0:
            raise MessageError("a message points outside of itself")
        self._size = int(struct.unpack_from("<H", data, self._fields)[0])

    def has(self, field: int) -> bool:
        return self._place(field) is not None

    def number(self, field: int, form: str) -> int:
        place = self._place(field)
        return 0 if place is None else int(struct.unpack_from(form, self._data, place)[0])

    def table(self, field: int) -> "_Table":
        place = self._place(field)
        if place is None:
            raise MessageError("a message lacks a part")
        return _Table(self._data, place + int(struct.unpack_from("<I", self._data, place)[0]))

    def _place(self, field: int) -> int | None:
        entry = 4 + 2 * field
        if entry + 2 > self._size:
            return None
        offset = int(struct.unpack_from("<H", self._data, self._fields + entry)[0])
        return self._start + offset if offset else None
