"""The columns that `key_column` and `event_time_column` name: their values as keys, and as times of events.

A key is made of the value that the column stores, so that every format and every spelling of a value gives one key.
"""

from base64 import b64encode
from collections.abc import Callable, Sequence
from datetime import date
from decimal import Decimal
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from catalog.schema import Column, parse_type
from ingest.decode.number_text import float_text
from ingest.decode.plan import LONGEST_KEY
from ingest.decode.refusals import ValueRefused
from ingest.decode.times import FIRST_MICROSECOND, LAST_MICROSECOND, parse_timestamp, timestamp_text

_DAY = 86_400_000_000


def key_texts(array: pa.Array, column: Column) -> list[str | None]:
    """The keys of the column's values; null is no key. Whether their length is allowed is for `check_key` to say."""
    text = _TEXTS.get(parse_type(column.type).kind, str)
    values = _plain(array).to_pylist()
    if text is str and pa.types.is_string(array.type):
        keys: list[str | None] = values
        return keys
    return [None if value is None else text(value) for value in values]


def key_text(value: object, column: Column) -> str:
    """The key of one value as Arrow takes it: a timestamp is its microseconds since 1970."""
    return _TEXTS.get(parse_type(column.type).kind, str)(value)


def check_key(key: str) -> None:
    """Raise `ValueRefused` if the key is too long or empty."""
    if not 1 <= len(key) <= LONGEST_KEY:
        raise ValueRefused(f"as a key must be 1 to {LONGEST_KEY} characters long, not {len(key)}")


def all_keys_fit(keys: Sequence[str | None]) -> bool:
    """Whether `check_key` takes each of them."""
    lengths = [len(key) for key in keys if key is not None]
    return not lengths or (min(lengths) >= 1 and max(lengths) <= LONGEST_KEY)


def event_micros(value: object, column: Column) -> int:
    """The time of one event, from a value as Arrow takes it; `ValueRefused` if a text is no time."""
    if isinstance(value, str):
        return parse_timestamp(value)
    if isinstance(value, date):
        return (value - date(1970, 1, 1)).days * _DAY
    assert isinstance(value, int), column
    return value


def span_of(array: pa.Array, column: Column) -> tuple[int, int] | None:
    """The earliest and the latest event, None without any; `ValueRefused` if a text is no time."""
    if array.null_count == len(array):
        return None
    if pa.types.is_string(array.type):
        micros = [event_micros(text, column) for text in array.unique().to_pylist() if text is not None]
        return min(micros), max(micros)
    bounds = pc.min_max(_plain(array))
    low, high = (event_micros(bounds[end].as_py(), column) for end in ("min", "max"))
    assert FIRST_MICROSECOND <= low <= high <= LAST_MICROSECOND, column
    return low, high


def _plain(array: pa.Array) -> pa.Array:
    return array.cast(pa.int64()) if pa.types.is_timestamp(array.type) else array


def _json(value: Any) -> str:
    return msgspec.json.decode(value, type=str) if value.startswith('"') else str(value)


_TEXTS: dict[str, Callable[[Any], str]] = {  # `Any`: each takes what Arrow gives for its type
    "bool": lambda value: "true" if value else "false",
    "float32": float_text,
    "float64": float_text,
    "decimal": lambda value: format(Decimal(value), "f"),
    "binary": lambda value: b64encode(value).decode(),
    "date": lambda value: str(value.isoformat()),
    "timestamp": timestamp_text,
    "json": _json,
}
