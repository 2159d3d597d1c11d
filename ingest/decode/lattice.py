"""The types of a growing table's column: they only ever widen, and end alike whatever order the values came in.

    int32 ──┬── int64 ──┬── int64 (wide) ──┬── string (number) ──┐
            └───────────┴─── float64 ──────┘                     ├── json
    float32 ────────────────────┘            bool, string, … ────┘

A column's type is the join of the kinds of all its values: the narrowest that keeps each of them. Bool, string and
every type that only a typed body or an owner gives (timestamp, decimal, list<T>, …) have nothing but json above them.
"""

import msgspec

from ingest.decode.number_text import FLOAT, INTEGER, NUMBER, WIDE, Kind, number_kind
from ingest.decode.refusals import ValueRefused
from ingest.decode.values import NotANumber

BOOL: Kind = ("bool", "")
STRING: Kind = ("string", "")
JSON: Kind = ("json", "")
INT32: Kind = ("int32", "")
FLOAT32: Kind = ("float32", "")

# For each numeric kind, all kinds that keep whatever it keeps, the narrower before the wider.
_ABOVE: dict[Kind, tuple[Kind, ...]] = {
    INT32: (INT32, INTEGER, WIDE, FLOAT, NUMBER),
    INTEGER: (INTEGER, WIDE, FLOAT, NUMBER),
    WIDE: (WIDE, NUMBER),
    FLOAT32: (FLOAT32, FLOAT, NUMBER),
    FLOAT: (FLOAT, NUMBER),
    NUMBER: (NUMBER,),
}


def join(one: Kind, other: Kind) -> Kind:
    """The narrowest kind that keeps the values of both."""
    if one == other:
        return one
    common = [kind for kind in _ABOVE.get(one, ()) if kind in _ABOVE.get(other, ())]
    return common[0] if common else JSON


def kind_of(value: object) -> Kind:
    """The kind of a JSON value that is not null. ValueRefused for what is none, or a number no reader takes."""
    match value:
        case bool():
            return BOOL
        case int() | msgspec.Raw():
            return number_kind(value)
        case str():
            return STRING
        case NotANumber():
            raise ValueRefused(f"{value.text} is not a JSON number")
        case _:
            return JSON


def fits_int32(value: object) -> bool:
    """Whether the value is an integer literal that an int32 keeps."""
    return isinstance(value, int) and not isinstance(value, bool) and -(2**31) <= value < 2**31
