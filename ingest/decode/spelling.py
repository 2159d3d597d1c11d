"""Columns of payloads as the converters' canonical input spells them, so that a value hashes alike however it came.

Most producers spell values that way already, which is found out at once for a whole column.
"""

import re
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from ingest.decode.plan import PlannedColumn
from ingest.decode.times import timestamp_text, timestamp_texts

_FLOATS = frozenset({"float32", "float64"})
_FEW = 40  # for which Arrow's set-up costs more than looking at each
_PLAIN_TIMES = re.compile(r"(?:[^\n]{10}T[^\n]{8}(?:\.[0-9]{6}(?<!000000))?Z\n)*")


# `Any`: values as msgspec decodes them for the column's type.
def spelled(column: PlannedColumn, values: Sequence[Any], array: pa.Array, *, grows: bool) -> Sequence[Any]:
    """The values in their canonical spelling: the very same sequence if they are. `array` is what they mean.

    A growing table's strings count as they are, for their column may become `json`.
    """
    if column.leaf in _FLOATS:
        return [_whole_as_integer(value) for value in values] if _holds_whole(values, array) else values
    if column.leaf == "timestamp" and not grows:
        return values if _are_plain(values) else _times(array)
    if column.leaf == "uuid" and not grows:
        return values if array.equals(pa.array(values, pa.string())) else array.to_pylist()
    return values


def _holds_whole(values: Sequence[Any], array: pa.Array) -> bool:
    if len(values) <= _FEW and not pa.types.is_list(array.type):
        return any(type(value) is float and value.is_integer() for value in values)
    while pa.types.is_list(array.type):
        array = array.flatten()
    return bool(pc.any(pc.equal(pc.trunc(array), array)).as_py())


def _whole_as_integer(value: Any) -> Any:
    if type(value) is list:
        return [_whole_as_integer(one) for one in value]
    return int(value) if type(value) is float and value.is_integer() else value


def _are_plain(texts: Sequence[str | None]) -> bool:
    given = [text for text in texts if text is not None]
    return _PLAIN_TIMES.fullmatch("\n".join([*given, ""])) is not None


def _times(array: pa.Array) -> list[str | None]:
    if len(array) > _FEW:
        texts: list[str | None] = timestamp_texts(array).to_pylist()
        return texts
    return [None if micros is None else timestamp_text(micros) for micros in array.cast(pa.int64()).to_pylist()]
