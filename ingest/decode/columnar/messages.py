"""The messages of an Arrow stream, looked over before any of them is decoded: how much memory each will ask for.

Buffers are compressed one by one, and each says in its first bytes what it comes to. Arrow believes that and asks for
the memory; here it is added up first. Only what that takes is read of the messages, which are FlatBuffers.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from duckmesh.kernel.errors import Invalid

DICTIONARY, RECORDS = 2, 3
_CONTINUATION = 0xFFFFFFFF
_LONGEST_METADATA = 16 * 2**20
_PREFIX = struct.Struct("<II")
_LENGTH = struct.Struct("<q")
_BUFFER = struct.Struct("<qq")


@dataclass(frozen=True, kw_only=True)
class Message:
    """What kind of message it is, and the bytes that are held to read it."""

    kind: int
    held_bytes: int


def messages(source: BinaryIO) -> Iterator[Message]:
    """The messages of a stream up to the mark of its end; `Invalid` if it ends without one, or something follows."""
    try:
        while (size := _metadata_size(source)) > 0:
            metadata = source.read(size)
            if len(metadata) < size:
                raise _cut_off()
            yield _message(metadata, source)
    except (struct.error, OverflowError) as error:
        raise Invalid("The body is not an Arrow stream, or it is damaged") from error
    if source.read(1):
        raise Invalid("The body goes on after the end of its Arrow stream")


def _metadata_size(source: BinaryIO) -> int:
    prefix = source.read(_PREFIX.size)
    if len(prefix) < _PREFIX.size:
        raise _cut_off()
    mark, size = _PREFIX.unpack(prefix)
    if mark != _CONTINUATION or size > _LONGEST_METADATA:
        raise Invalid("The body is not an Arrow stream, or it is damaged")
    return int(size)


def _cut_off() -> Invalid:
    return Invalid("The body is cut off: an Arrow stream ends with the mark of its end")


def _message(metadata: bytes, source: BinaryIO) -> Message:
    root = _Table(metadata, struct.unpack_from("<I", metadata)[0])
    kind, body_bytes = root.number(1, "<B"), root.number(3, "<q")
    start = source.tell()
    end = source.seek(0, 2)
    if not 0 <= body_bytes <= end - start:
        raise _cut_off()
    held = body_bytes
    records = root.table(2)
    if kind == DICTIONARY and records is not None:
        records = records.table(1)
    if kind in (DICTIONARY, RECORDS) and records is not None and records.table(3) is not None:
        held += _decompressed(records, source, start)
    source.seek(start + body_bytes)
    return Message(kind=kind, held_bytes=held)


def _decompressed(records: "_Table", source: BinaryIO, start: int) -> int:
    total = 0
    for offset, length in records.pairs(2):
        if length > 0:
            source.seek(start + max(0, offset))
            (plain,) = _LENGTH.unpack(source.read(_LENGTH.size))
            total += length if plain < 0 else plain
    return total


class _Table:
    """A table of a FlatBuffer; `struct.error` where it points outside."""

    def __init__(self, data: bytes, position: int) -> None:
        self._data = data
        self._position = position
        self._fields = position - self._unpack("<i", position)

    def number(self, field: int, format_: str) -> int:
        """The number in this field, 0 if there is none."""
        place = self._place(field)
        return 0 if place is None else self._unpack(format_, place)

    def table(self, field: int) -> "_Table | None":
        """The table in this field."""
        place = self._place(field)
        return None if place is None else _Table(self._data, place + self._unpack("<I", place))

    def pairs(self, field: int) -> Iterator[tuple[int, int]]:
        """The pairs of numbers in the vector of this field."""
        place = self._place(field)
        if place is not None:
            vector = place + self._unpack("<I", place)
            for item in range(self._unpack("<I", vector)):
                yield _BUFFER.unpack_from(self._data, vector + 4 + item * _BUFFER.size)

    def _place(self, field: int) -> int | None:
        slot = 4 + 2 * field
        if slot >= self._unpack("<H", self._fields):
            return None
        offset = self._unpack("<H", self._fields + slot)
        return self._position + offset if offset else None

    def _unpack(self, format_: str, position: int) -> int:
        if position < 0:  # which Python would count from the end
            raise struct.error("outside")
        return int(struct.unpack_from(format_, self._data, position)[0])
