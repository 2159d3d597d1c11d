"""One JSON value to one column's value, exactly or not at all.

A converter takes a value that is not null and answers two things: what Arrow gets, and the canonical input that
the payload's hash is made of. The canonical input is the value's and not its spelling's, and does not depend on the
column's width (an `int32` that became an `int64` or a `decimal` hashes as before) or on the way the value was decoded.
"""

import binascii
import math
import re
import uuid
from collections.abc import Callable

import msgspec

from catalog.schema import LogicalType
from ingest.decode.number_text import hashed_decimal, hashed_float
from ingest.decode.numbers import (
    LONGEST_NUMBER,
    DecimalColumn,
    Number,
    literal_text,
    to_float32,
    to_float64,
    to_int,
)
from ingest.decode.refusals import ValueRefused, shown
from ingest.decode.times import parse_date, parse_timestamp, timestamp_text

MAX_DEPTH = 64
"""How deep lists and objects may nest in one JSON value."""

_WIDEST_INT = 1024  # bits, as far as a float64 reaches

Converted = tuple[object, object]
Converter = Callable[[object], Converted]

_UUID = re.compile(r"[0-9a-fA-F]{8}(-?)[0-9a-fA-F]{4}\1[0-9a-fA-F]{4}\1[0-9a-fA-F]{4}\1[0-9a-fA-F]{12}")
_encode = msgspec.json.encode


class Repeated(dict[str, object]):
    """A JSON object that gave a key more than once."""

    repeated: frozenset[str]


class NotANumber:
    """`NaN` or an infinity, which some writers put into JSON and JSON does not have."""

    def __init__(self, text: str) -> None:
        self.text = text


def converter(type_: LogicalType) -> Converter:
    """The converter of a column of this type."""
    if type_.item is not None:
        return _list_converter(converter(type_.item))
    if type_.kind == "decimal":
        return _decimal_converter(DecimalColumn(precision=type_.precision, scale=type_.scale))
    return _CONVERTERS[type_.kind]


def describe(value: object) -> str:
    """What kind of JSON value this is, in words."""
    match value:
        case None:
            return "null"
        case bool():
            return "true or false"
        case int() | msgspec.Raw():
            return "a number"
        case str():
            return "a string"
        case list():
            return "a list"
        case NotANumber():
            return value.text
        case _:
            return "an object"


def _wrong(value: object, wanted: str) -> ValueRefused:
    if isinstance(value, NotANumber):
        return ValueRefused(f"{value.text} is not a JSON number")
    return ValueRefused(f"needs {wanted}, not {describe(value)}")


def number(value: object) -> Number:
    """The value as the number it must be."""
    if isinstance(value, int | msgspec.Raw) and not isinstance(value, bool):
        return value
    raise _wrong(value, "a number")


def string(value: object) -> str:
    """The value as the string it must be, of characters that exist."""
    if not isinstance(value, str):
        raise _wrong(value, "a string")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueRefused("holds bytes that are not UTF-8 or a lone surrogate") from None
    return value


def _bool(value: object) -> Converted:
    if not isinstance(value, bool):
        raise _wrong(value, "true or false")
    return value, value


def _int32(value: object) -> Converted:
    whole = to_int(number(value), bits=32)
    return whole, whole


def _int64(value: object) -> Converted:
    whole = to_int(number(value), bits=64)
    return whole, whole


def _float32(value: object) -> Converted:
    literal = number(value)
    # Of what was written, and not of what a float32 keeps of it: the column may become a float64.
    return to_float32(literal), hashed_float(float(literal_text(literal)))


def _float64(value: object) -> Converted:
    kept = to_float64(number(value))
    return kept, hashed_float(kept)


def _decimal_converter(column: DecimalColumn) -> Converter:
    def convert(value: object) -> Converted:
        if isinstance(value, bool) or not isinstance(value, str | int | msgspec.Raw):
            raise _wrong(value, "a number or a string of digits")
        exact = column.exact(string(value) if isinstance(value, str) else literal_text(value))
        return exact, hashed_decimal(exact)

    return convert


def _string(value: object) -> Converted:
    text = string(value)
    return text, text


def _binary(value: object) -> Converted:
    text = string(value)
    try:
        return binascii.a2b_base64(text, strict_mode=True), text
    except ValueError:
        raise ValueRefused("is not base64") from None


def _date(value: object) -> Converted:
    text = string(value)
    return parse_date(text), text


def _timestamp(value: object) -> Converted:
    micros = parse_timestamp(string(value))
    return micros, timestamp_text(micros)


def _uuid(value: object) -> Converted:
    text = string(value)
    if not _UUID.fullmatch(text):
        raise ValueRefused("is not a UUID such as 123e4567-e89b-12d3-a456-426614174000")
    spelled = str(uuid.UUID(text))
    return spelled, spelled


def _json(value: object) -> Converted:
    check_json(value)
    return _encode(value).decode(), value


def _list_converter(item: Converter) -> Converter:
    def convert(value: object) -> Converted:
        if not isinstance(value, list):
            raise _wrong(value, "a list")
        values: list[object] = []
        canonical: list[object] = []
        for position, element in enumerate(value):
            try:
                one, same = (None, None) if element is None else item(element)
            except ValueRefused as refused:
                raise ValueRefused(f"element {position} {refused}") from None
            values.append(one)
            canonical.append(same)
        return values, canonical

    return convert


def check_json(value: object, depth: int = 0) -> int:
    """Refuse what JSON cannot carry through every reader; answers how many object keys the value holds."""
    if isinstance(value, str):
        string(value)
        return 0
    if isinstance(value, int):
        if value.bit_length() > _WIDEST_INT:
            raise ValueRefused("holds a number out of the range of JSON readers")
        return 0
    if isinstance(value, msgspec.Raw):
        text = literal_text(value)
        if len(text) > LONGEST_NUMBER or math.isinf(float(text)):
            raise ValueRefused("holds a number out of the range of JSON readers")
        return 0
    if isinstance(value, NotANumber):
        raise ValueRefused(f"{value.text} is not a JSON number")
    if isinstance(value, list | dict):
        if depth == MAX_DEPTH:
            raise ValueRefused(f"nests deeper than {MAX_DEPTH} levels")
        if isinstance(value, list):
            return sum(check_json(element, depth + 1) for element in value)
        if isinstance(value, Repeated):
            raise ValueRefused(f"repeats the key {shown(min(value.repeated))!r}")
        for key in value:
            string(key)
        return len(value) + sum(check_json(element, depth + 1) for element in value.values())
    return 0


_CONVERTERS: dict[str, Converter] = {
    "bool": _bool,
    "int32": _int32,
    "int64": _int64,
    "float32": _float32,
    "float64": _float64,
    "string": _string,
    "binary": _binary,
    "date": _date,
    "timestamp": _timestamp,
    "json": _json,
    "uuid": _uuid,
}
