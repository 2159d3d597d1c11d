"""Compressed bodies: what they hold, whatever the cuts, or a refusal that says they are damaged."""

import gzip
import io
import zlib
from collections.abc import Callable

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.encodings import CHUNK, ENCODINGS
from duckmesh.kernel.errors import Invalid


def zstd(data: bytes) -> bytes:
    packed: bytes = pa.Codec("zstd").compress(data, asbytes=True)
    return packed


PACK: dict[str, Callable[[bytes], bytes]] = {"identity": bytes, "gzip": gzip.compress, "zstd": zstd}
DATA = b"".join(b"%d," % n for n in range(50_000))


class Dribble(io.BytesIO):
    """Gives as many bytes at a time as it was told."""

    def __init__(self, data: bytes, sizes: list[int]) -> None:
        super().__init__(data)
        self._sizes = sizes

    def read(self, size: int | None = -1, /) -> bytes:
        self._sizes.append(self._sizes.pop(0))
        return super().read(min(self._sizes[0], size or 0))


def unpacked(encoding: str, packed: bytes) -> bytes:
    return b"".join(ENCODINGS[encoding](io.BytesIO(packed)))


@given(
    st.sampled_from([*PACK]), st.lists(st.binary(max_size=200), min_size=1, max_size=3), st.lists(st.integers(1, 70))
)
def test_members_that_follow_each_other_are_read_whatever_the_cuts(
    encoding: str, parts: list[bytes], sizes: list[int]
) -> None:
    packed = b"".join(map(PACK[encoding], parts))
    assert b"".join(ENCODINGS[encoding](Dribble(packed, [*sizes, 5]))) == b"".join(parts)


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
def test_any_truncated_body_is_refused(encoding: str) -> None:
    packed = PACK[encoding](DATA)
    for end in (0, 1, 5, len(packed) // 2, len(packed) - 9, len(packed) - 1):
        with pytest.raises(Invalid, match="too early"):
            unpacked(encoding, packed[:end])
    with pytest.raises(Invalid, match="too early"):
        unpacked(encoding, packed + packed[:-1])


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
def test_a_damaged_body_is_refused(encoding: str) -> None:
    packed = PACK[encoding](DATA)
    for damaged in (b"\0" + packed[1:], packed[:100] + packed[150:], b"{}", packed + b"more", b"\0"):
        with pytest.raises(Invalid):
            unpacked(encoding, damaged)


def test_zeros_behind_a_gzip_are_no_member() -> None:
    assert unpacked("gzip", gzip.compress(b"a") + b"\0" * 100_000 + gzip.compress(b"b") + b"\0") == b"ab"


def test_raw_deflate_is_no_gzip() -> None:
    with pytest.raises(Invalid):
        unpacked("gzip", zlib.compress(DATA))


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
def test_a_bomb_gives_a_little_at_a_time(encoding: str) -> None:
    bomb = PACK[encoding](bytes(2**27))
    source = io.BytesIO(bomb)
    chunks = ENCODINGS[encoding](source)
    assert all(len(next(chunks)) <= CHUNK for _ in range(10))
    if encoding == "gzip":
        assert source.tell() <= 2 * CHUNK
