"""JSON texts of columns as they are stored, many values at once.

The texts of a row, put together, are its canonical payload, which tells whether a later request says the same: a
value has one text, however wide the column's type is.
"""

from base64 import b64encode
from collections.abc import Sequence
from decimal import Decimal

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from catalog.schema import LogicalType
from ingest.decode.columnar.lists import list_parts, rebuilt
from ingest.decode.number_text import hashed_float
from ingest.decode.numbers import literal_text
from ingest.decode.times import timestamp_texts

_ESCAPED = r'["\\\x00-\x1f\x7f]'
_NUMBERS = frozenset({"bool", "int32", "int64"})
_ODD_FLOAT = r"e|^-0$|^-?0\.00000"  # which Arrow does not spell as `hashed_float` does
_DAY = len("YYYY-MM-DD")
_encode = msgspec.json.encode


def json_texts(array: pa.Array, type_: LogicalType) -> pa.Array:
    """The JSON text of each value of a column of this type; null where there is none."""
    if type_.item is not None:
        parts = list_parts(array)
        texts = pc.fill_null(json_texts(parts.values, type_.item), "null")
        return enclosed("[", pc.binary_join(rebuilt(parts, texts), ","), "]")
    match type_.kind:
        case "json":
            return array
        case "float32" | "float64":
            return array.cast(pa.float64()).cast(pa.string())
        case "decimal":
            return _decimals(array)
        case "binary":
            return pa.array(
                [None if value is None else f'"{b64encode(value).decode()}"' for value in array.to_pylist()]
            )
        case "timestamp":
            # What strftime says too, in a thirtieth of its time.
            return enclosed('"', pc.binary_replace_slice(array.cast(pa.string()), _DAY, _DAY + 1, "T"), 'Z"')
        case kind if kind in _NUMBERS:
            return array.cast(pa.string())
        case _:
            return quoted(array.cast(pa.string()))


def payload_texts(columns: Sequence[tuple[str, LogicalType, pa.Array]]) -> list[bytes]:
    """The canonical payloads of the rows of these columns, whose names are in order; nulls are left out."""
    members = [
        pc.fill_null(enclosed(f",{_encode(name).decode()}:", _contents(array, type_), ""), "")
        for name, type_, array in columns
    ]
    rows = pc.binary_join_element_wise(*members, "")
    return [b"{%b}" % row[1:] for row in rows.cast(pa.binary()).to_pylist()]


def _contents(array: pa.Array, type_: LogicalType) -> pa.Array:
    """The JSON texts as the other formats' payloads have them too: of a value, and not of how it was written."""
    if type_.item is not None:
        parts = list_parts(array)
        return enclosed(
            "[", pc.binary_join(rebuilt(parts, pc.fill_null(_contents(parts.values, type_.item), "null")), ","), "]"
        )
    match type_.kind:
        case "float32" | "float64":
            return _floats(array.cast(pa.float64()))
        case "timestamp":
            return enclosed('"', timestamp_texts(array), '"')
        case _:
            return json_texts(array, type_)


def _floats(array: pa.Array) -> pa.Array:
    texts = array.cast(pa.string())
    if pc.any(pc.match_substring_regex(texts, _ODD_FLOAT)).as_py():
        hashed = [None if value is None else hashed_float(value) for value in array.to_pylist()]
        texts = pa.array([None if one is None else literal_text(one) for one in hashed], pa.string())
    return texts


def quoted(texts: pa.Array) -> pa.Array:
    """The strings as JSON writes them."""
    if pc.any(pc.match_substring_regex(texts, _ESCAPED)).as_py():
        return pa.array([None if text is None else _encode(text).decode() for text in texts.to_pylist()], pa.string())
    return enclosed('"', texts, '"')


def enclosed(before: str, texts: pa.Array, after: str) -> pa.Array:
    """The texts with these around each of them."""
    return pc.binary_join_element_wise(pa.scalar(before), texts, pa.scalar(after), "")


def _decimals(array: pa.Array) -> pa.Array:
    texts = array.cast(pa.string())
    if pc.any(pc.match_substring(texts, "E")).as_py():
        texts = pa.array([None if text is None else f"{Decimal(text):f}" for text in texts.to_pylist()], pa.string())
    shorter = pc.replace_substring_regex(texts, r"(\.[0-9]*?)0+$", r"\1")
    return pc.replace_substring_regex(shorter, r"\.$", "")
