"""The hash of `bucket[N]`: Murmur3 (x86, 32 bits, seed 0) of a value's canonical bytes, as Apache Iceberg defines it.

Numbers in files: never to be changed. A value's bytes are, by its logical type: integers, booleans, dates (days) and
timestamps (microseconds) eight bytes little-endian, so that int32 and int64 agree; floats those of the float64, where
-0.0 is 0.0; decimals the unscaled integer, big-endian two's complement, as short as it can be; UUIDs their sixteen
bytes; text and JSON UTF-8. There is no numpy here: equally long values are hashed together, column by column.
"""

import math
import struct
from uuid import UUID

import pyarrow as pa
import pyarrow.compute as pc

_FEW = 16
_WORD = 0xFFFFFFFF
_C1, _C2 = 0xCC9E2D51, 0x1B873593


def buckets(values: pa.Array, kind: str, count: int) -> pa.Array:
    """The bucket, 0 to `count` - 1, of each value of the logical type `kind`; of null it is null. As int64."""
    hashes = _hash_words(*_words(_as_integers(values)), 8) if _is_integral(values.type) else _hash_bytes(values, kind)
    masked = pc.bit_wise_and(hashes.cast(pa.int64()), 0x7FFFFFFF)
    whole = pc.multiply(pc.divide(masked, count), count)
    return pc.if_else(values.is_null(), pa.scalar(None, pa.int64()), pc.subtract(masked, whole))


def murmur3(data: bytes) -> int:
    """The hash of these bytes, as an unsigned integer."""
    whole = len(data) // 4 * 4
    state = 0
    for (word,) in struct.iter_unpack("<I", data[:whole]):
        state ^= _scramble(word)
        state = (_rotate(state, 13) * 5 + 0xE6546B64) & _WORD
    state ^= _scramble(int.from_bytes(data[whole:], "little"))
    state ^= len(data)
    state = ((state ^ state >> 16) * 0x85EBCA6B) & _WORD
    state = ((state ^ state >> 13) * 0xC2B2AE35) & _WORD
    return state ^ state >> 16


def _scramble(word: int) -> int:
    return (_rotate((word * _C1) & _WORD, 15) * _C2) & _WORD


def _rotate(word: int, by: int) -> int:
    return (word << by | word >> (32 - by)) & _WORD


def _is_integral(type_: pa.DataType) -> bool:
    return bool(pa.types.is_integer(type_) or pa.types.is_boolean(type_) or pa.types.is_temporal(type_))


def _as_integers(values: pa.Array) -> pa.Array:
    if pa.types.is_date32(values.type):
        values = values.cast(pa.int32())
    return pc.fill_null(values.cast(pa.int64()), 0)


def _hash_bytes(values: pa.Array, kind: str) -> pa.Array:
    """Hashes of values that are not all of eight bytes: those of one length at a time."""
    encoded = _encoded(values, kind)
    lengths = pc.binary_length(encoded)
    hashes, places = [pa.nulls(0, pa.uint32())], [pa.nulls(0, pa.uint64())]
    for length in pc.unique(lengths).to_pylist():
        here = pc.indices_nonzero(pc.equal(lengths, length))
        alike = encoded.take(here)
        places.append(here)
        if len(alike) < _FEW:
            hashes.append(pa.array([murmur3(value) for value in alike.to_pylist()], pa.uint32()))
        else:
            padding = -length % 4
            padded = pc.binary_join_element_wise(alike, b"\0" * padding, b"") if padding else alike
            hashes.append(_hash_words(*_words(padded, (length + padding) // 4), length))
    return pa.concat_arrays(hashes).take(pc.sort_indices(pa.concat_arrays(places)))


def _encoded(values: pa.Array, kind: str) -> pa.Array:
    if pa.types.is_string(values.type) and kind != "uuid":
        return pc.fill_null(values, "").cast(pa.binary())
    if pa.types.is_binary(values.type):
        return pc.fill_null(values, b"")
    return pa.array([b"" if value is None else _bytes_of(value, kind) for value in values.to_pylist()], pa.binary())


def _bytes_of(value: object, kind: str) -> bytes:
    if kind == "uuid":
        return UUID(str(value)).bytes
    if isinstance(value, float):
        return struct.pack("<d", math.nan if math.isnan(value) else value + 0.0)
    unscaled = int(f"{value:f}".replace(".", ""))
    # -128 fits one byte, and ~n has the bits that a negative n needs beside its sign.
    return unscaled.to_bytes(max(unscaled, ~unscaled).bit_length() // 8 + 1, "big", signed=True)


def _words(values: pa.Array, width: int = 2) -> tuple[pa.Array, int]:
    """The bytes of equally long values as rows of `width` little-endian words."""
    buffer = values.buffers()[-1]
    if width == 0 or buffer is None:
        return pa.nulls(len(values), pa.uint32()), 0
    words = pa.Array.from_buffers(pa.uint32(), len(values) * width, [None, buffer], offset=values.offset * width)
    return pa.FixedSizeListArray.from_arrays(words, width), width


def _hash_words(rows: pa.Array, width: int, length: int) -> pa.Array:
    """As `murmur3`, of all rows at once; the last word of a length that is no multiple of four is padded with zeros."""
    state = pa.repeat(pa.scalar(0, pa.uint32()), len(rows))
    for index in range(width):
        word = _times(pc.list_element(rows, index), _C1)
        state = pc.bit_wise_xor(state, _times(_rotated(word, 15), _C2))
        if 4 * index + 4 <= length:
            state = pc.add(_times(_rotated(state, 13), 5), pa.scalar(0xE6546B64, pa.uint32()))
    state = pc.bit_wise_xor(state, pa.scalar(length, pa.uint32()))
    state = _times(_folded(state, 16), 0x85EBCA6B)
    state = _times(_folded(state, 13), 0xC2B2AE35)
    return _folded(state, 16)


def _times(words: pa.Array, factor: int) -> pa.Array:
    return pc.multiply(words, pa.scalar(factor, pa.uint32()))


def _rotated(words: pa.Array, by: int) -> pa.Array:
    left = pc.shift_left(words, pa.scalar(by, pa.uint32()))
    return pc.bit_wise_or(left, pc.shift_right(words, pa.scalar(32 - by, pa.uint32())))


def _folded(words: pa.Array, by: int) -> pa.Array:
    return pc.bit_wise_xor(words, pc.shift_right(words, pa.scalar(by, pa.uint32())))
