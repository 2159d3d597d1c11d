"""JSON values in the columns of a growing table, whose types the values themselves have made wide enough.

What goes into a payload's hash depends on the value alone, not on the type that its column has by then: a column that
grows between a request and its retry must not make the retry another request.
"""

import re

import msgspec

from catalog.schema import LogicalType
from ingest.decode.number_text import FLOAT, INTEGER, NUMBER, WIDE, Kind, hashed_number, number_kind, number_text
from ingest.decode.numbers import Number, literal_text
from ingest.decode.refusals import ValueRefused
from ingest.decode.values import Converted, Converter, check_json, converter, number

# As DuckDB writes JSON, so that a string is the same text whether it became JSON here or in a query.
_ESCAPE = re.compile(r"\\(u[0-9a-f]{4}|.)")


def growing_converter(type_: LogicalType, holds: str) -> Converter:
    """The converter of a growing table's column of this type."""
    match type_.kind, holds:
        case "int64", "":
            return _integer
        case "int64", _:
            return _wide
        case (("float32" | "float64"), _):
            return _float
        case "string", "number":
            return _number_as_text
        case "json", _:
            return _json
        case _:
            return _hashed_by_value(converter(type_))


def json_text(value: str) -> str:
    """The string as JSON."""
    return _ESCAPE.sub(_upper, msgspec.json.encode(value).decode())


def _upper(match: re.Match[str]) -> str:
    escape = match[1]
    return f"\\u{escape[1:].upper()}" if len(escape) > 1 else match[0]


def _integer(value: object) -> Converted:
    literal = _of_kinds(value, INTEGER)
    return literal, literal


def _wide(value: object) -> Converted:
    literal = _of_kinds(value, INTEGER, WIDE)
    return literal, literal


def _float(value: object) -> Converted:
    literal = _of_kinds(value, INTEGER, FLOAT)
    return float(literal_text(literal)), hashed_number(literal)


def _number_as_text(value: object) -> Converted:
    literal = _of_kinds(value, INTEGER, WIDE, FLOAT, NUMBER)
    return number_text(literal), hashed_number(literal)


def _of_kinds(value: object, *kinds: Kind) -> Number:
    literal = number(value)
    if number_kind(literal) not in kinds:
        raise ValueRefused("would lose precision in its column")
    return literal


def _json(value: object) -> Converted:
    check_json(value)
    if isinstance(value, str):
        return json_text(value), value
    if isinstance(value, int | msgspec.Raw) and not isinstance(value, bool):
        return number_text(value), hashed_number(value)
    return msgspec.json.encode(value).decode(), value


def _hashed_by_value(convert: Converter) -> Converter:
    def converted(value: object) -> Converted:
        result, canonical = convert(value)
        if isinstance(value, int | msgspec.Raw) and not isinstance(value, bool):
            return result, hashed_number(value)
        return result, value if isinstance(value, str) else canonical

    return converted
