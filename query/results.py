"""Arrow to JSON rows, with every digit.

What JSON has no form for becomes text: a decimal as DuckDB prints it; timestamps RFC 3339 in UTC with `Z`, with as many
digits of the second as the value has (none, 6 or 9); dates `YYYY-MM-DD`; times; intervals as ISO 8601 durations; UUIDs;
BLOBs as base64; NaN and the infinities as "NaN", "Infinity", "-Infinity". Integers of any width are numbers. Lists are
arrays, structs objects (without field names: arrays), maps objects whose member names are the keys' text.

A JSON value is the string of its own text. Embedded as a value, SQL's NULL and JSON's null would be one, and what
DuckDB accepts beyond JSON (NaN, a trailing comma) would break the whole answer.
"""

import re
from base64 import b64encode
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from query.duckdb_types import element_type, member_types
from query.instants import date_texts, interval_text, time_texts, timestamp_texts

# `Any` in this file: a value that `msgspec` writes as JSON.
_WIDE_INTEGERS = frozenset({"HUGEINT", "UHUGEINT", "BIGNUM"})
_INTEGER = re.compile(r"-?(0|[1-9][0-9]*)")
_encode = msgspec.json.Encoder().encode


def json_rows(batch: pa.RecordBatch, *, column_types: Sequence[str]) -> bytes:
    """The rows of a batch that has some, each a JSON array, joined by commas."""
    columns = [values(column, kind) for column, kind in zip(batch.columns, column_types, strict=True)]
    return _encode(list(zip(*columns, strict=True)))[1:-1]


def values(array: pa.Array, kind: str = "") -> list[Any]:
    """The array's values as JSON has them. `kind` is DuckDB's name of their type; it says what Arrow cannot."""
    type_ = array.type
    if pa.types.is_dictionary(type_):
        return values(array.dictionary_decode(), kind)
    if isinstance(type_, pa.BaseExtensionType):
        return values(array.storage, kind)
    if pa.types.is_nested(type_):
        return _nested(array, kind)
    for applies, convert in _SCALARS:
        if applies(type_):
            return convert(array, kind)
    plain: list[Any] = array.to_pylist()
    return plain


def _each(array: pa.Array, convert: Callable[[Any], Any]) -> list[Any]:
    return [None if value is None else convert(value) for value in array.to_pylist()]


def _texts(array: pa.Array, kind: str) -> list[Any]:
    texts: list[Any] = array.to_pylist()
    if kind not in _WIDE_INTEGERS:
        return texts
    # As it is, not through int(): a BIGNUM may have more digits than Python likes to read.
    return [msgspec.Raw(text.encode()) if text and _INTEGER.fullmatch(text) else text for text in texts]


def _decimals(array: pa.Array, kind: str) -> list[Any]:
    texts: list[str | None] = pc.cast(array, pa.string()).to_pylist()
    if kind == "HUGEINT":
        return [None if text is None else int(text) for text in texts]
    # Arrow writes small ones as 1E-9; DuckDB, and whoever compares text, never does.
    return [format(Decimal(text), "f") if text is not None and "E" in text else text for text in texts]


def _floats(array: pa.Array, _: str) -> list[Any]:
    if array.type == pa.float64():
        numbers: list[Any] = array.to_pylist()
    else:  # the shortest text that is the same FLOAT: 0.1, not 0.10000000149011612
        numbers = _each(pc.cast(array, pa.string()), float)
    finite = pc.all(pc.is_finite(array)).as_py()
    return numbers if finite in (True, None) else [_not_a_number(number) for number in numbers]


def _not_a_number(value: float | None) -> float | str | None:
    if value is None or value - value == 0:
        return value
    return "NaN" if value != value else "Infinity" if value > 0 else "-Infinity"


def _blobs(array: pa.Array, _: str) -> list[Any]:
    return _each(array, lambda value: b64encode(value).decode())


_SCALARS: tuple[tuple[Callable[[pa.DataType], bool], Callable[[pa.Array, str], list[Any]]], ...] = (
    (lambda t: pa.types.is_string(t) or pa.types.is_large_string(t) or pa.types.is_string_view(t), _texts),
    (pa.types.is_floating, _floats),
    (pa.types.is_decimal, _decimals),
    (pa.types.is_timestamp, lambda array, _: timestamp_texts(array)),
    (pa.types.is_date32, lambda array, _: date_texts(array)),
    (pa.types.is_time, lambda array, _: time_texts(array)),
    (lambda t: t == pa.month_day_nano_interval(), lambda array, _: _each(array, lambda v: interval_text(*v))),
    (lambda t: pa.types.is_binary(t) or pa.types.is_large_binary(t) or pa.types.is_binary_view(t), _blobs),
)


def _nested(array: pa.Array, kind: str) -> list[Any]:
    type_ = array.type
    # The names of inner types matter only where a HUGEINT hides among them.
    inner = kind if "HUGEINT" in kind else ""
    if pa.types.is_struct(type_):
        return _structs(array, inner)
    if pa.types.is_union(type_):
        return _unions(array, inner)
    if pa.types.is_map(type_):
        return _maps(array, inner)
    if pa.types.is_fixed_size_list(type_):
        size, first = type_.list_size, array.offset * type_.list_size
        items = values(array.values.slice(first, len(array) * size), element_type(inner))
        valid = array.is_valid().to_pylist()
        return [items[i * size : (i + 1) * size] if valid[i] else None for i in range(len(array))]
    return _runs(array, lambda items: values(items, element_type(inner)))


def _runs(array: pa.Array, convert: Callable[[pa.Array], list[Any]]) -> list[Any]:
    """Each list of the array, its items converted all at once."""
    offsets = array.offsets.to_pylist()
    first = offsets[0]
    items = convert(array.values.slice(first, offsets[-1] - first))
    valid = array.is_valid().to_pylist()
    return [items[offsets[i] - first : offsets[i + 1] - first] if valid[i] else None for i in range(len(array))]


def _maps(array: pa.Array, kind: str) -> list[Any]:
    key_kind, item_kind = member_types(kind, count=2, named=False)

    def pairs(entries: pa.Array) -> list[Any]:
        keys, items = entries.flatten()
        return list(zip(map(_member_name, values(keys, key_kind)), values(items, item_kind), strict=True))

    return [None if entries is None else dict(entries) for entries in _runs(array, pairs)]


def _member_name(key: Any) -> str:
    return key if isinstance(key, str) else _encode(key).decode()


def _structs(array: pa.Array, kind: str) -> list[Any]:
    names = [field.name for field in array.type]
    named = all(names)
    kinds = member_types(kind, count=len(names), named=named)
    columns = [values(field, inner) for field, inner in zip(array.flatten(), kinds, strict=True)]
    valid = array.is_valid().to_pylist()
    rows = zip(*columns, strict=True)
    if named:
        return [dict(zip(names, row, strict=True)) if ok else None for row, ok in zip(rows, valid, strict=True)]
    return [list(row) if ok else None for row, ok in zip(rows, valid, strict=True)]


def _unions(array: pa.Array, kind: str) -> list[Any]:
    """Each value as its own member's type has it; which member that is, JSON does not say."""
    count = array.type.num_fields
    kinds = member_types(kind, count=count, named=True)
    members = [values(array.field(i), inner) for i, inner in zip(range(count), kinds, strict=True)]
    position = {code: i for i, code in enumerate(array.type.type_codes)}
    return [members[position[code]][row] for row, code in enumerate(array.type_codes.to_pylist())]
