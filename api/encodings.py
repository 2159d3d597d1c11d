"""Content encodings: bodies decompressed on the way in, a little at a time, so that none grows beyond its bound."""

import zlib
from collections.abc import Iterator
from typing import Protocol

import pyarrow as pa

from duckmesh.kernel.errors import Invalid

CHUNK = 2**16
_GZIP = 16 + zlib.MAX_WBITS


class Source(Protocol):
    """What a body is read from."""

    def read(self, size: int, /) -> bytes:
        """At most `size` bytes, none at the end."""


def plain(source: Source) -> Iterator[bytes]:
    """The bytes as they come."""
    while chunk := source.read(CHUNK):
        yield chunk


def gunzipped(source: Source) -> Iterator[bytes]:
    """What the members of a gzip body hold, one after the other; Invalid if they are damaged or end too early."""
    member, begun, packed = zlib.decompressobj(_GZIP), False, b""
    while packed or (packed := source.read(CHUNK)):
        if member.eof:
            packed = packed.lstrip(b"\0")  # which some writers put behind the last member
            if not packed:
                continue
            member = zlib.decompressobj(_GZIP)
        begun = True
        try:
            chunk = member.decompress(packed, CHUNK)
        except zlib.error:
            raise Invalid("The body is not the gzip that its Content-Encoding says it is, or is damaged.") from None
        packed = member.unused_data if member.eof else member.unconsumed_tail
        if chunk:
            yield chunk
    if not begun or not member.eof:
        raise Invalid("The body's gzip ends too early.")


def unzstd(source: Source) -> Iterator[bytes]:
    """What the frames of a zstd body hold, one after the other; Invalid if they are damaged or end too early."""
    counted = _Counted(source)
    with pa.CompressedInputStream(pa.PythonFile(counted, mode="r"), "zstd") as stream:
        while True:
            try:
                chunk: bytes = stream.read(CHUNK)
            except OSError:
                raise Invalid(
                    "The body is not the zstd that its Content-Encoding says it is, or ends too early."
                ) from None
            if not chunk:
                break
            yield chunk
    if not counted.any:
        raise Invalid("The body's zstd ends too early.")


class _Counted:
    """A source in the shape of a file, which is what Arrow reads from."""

    closed = False

    def __init__(self, source: Source) -> None:
        self._source = source
        self.any = False

    def read(self, size: int) -> bytes:
        data = self._source.read(size)
        self.any = self.any or bool(data)
        return data

    def close(self) -> None:
        """Whoever gave the source closes it."""


ENCODINGS = {"identity": plain, "gzip": gunzipped, "zstd": unzstd}
