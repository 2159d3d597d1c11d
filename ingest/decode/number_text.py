"""Numbers of a growing table: what a literal asks of its column, and its one spelling as text, whatever the way.

An integer literal that fits an int64 is that integer. Any other literal is the float64 it spells, if the float64 says
as much: its shortest text is the same number, or its text with 17 digits, which some writers write (0.1 as
0.10000000000000001), or it is the same whole number below 2^63. What is left has more digits than a float64 keeps, and
can only be text. `storage.conversion` spells stored numbers the same way, in SQL.
"""

import math
import re
from decimal import Decimal

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from ingest.decode.numbers import (
    FLOAT64_EXACT,
    LONGEST_NUMBER,
    Number,
    digits_and_exponent,
    literal_text,
    parse_decimal,
)
from ingest.decode.refusals import ValueRefused

Kind = tuple[str, str]
"""A column's type, and what it holds beyond that."""

INTEGER: Kind = ("int64", "")
WIDE: Kind = ("int64", "wide")
FLOAT: Kind = ("float64", "")
NUMBER: Kind = ("string", "number")

_INT64 = 2**63
_LARGEST_FLOAT = 2**63 - 1024
_MOST_POSITIONS = 40
_FLOAT_DIGITS = 17
_INTEGER = re.compile(r"-?[0-9]+")


def number_kind(number: Number) -> Kind:
    """The narrowest kind of column that keeps the number."""
    if isinstance(number, int) and -_INT64 <= number < _INT64:
        if -FLOAT64_EXACT <= number <= FLOAT64_EXACT or int(float(number)) == number:
            return INTEGER
        return WIDE
    return NUMBER if _float(number) is None else FLOAT


def number_text(number: Number) -> str:
    """The number's one spelling, which is a JSON number too."""
    if isinstance(number, int) and -_INT64 <= number < _INT64:
        return str(number)
    value = _float(number)
    return decimal_text(_exact(number)) if value is None else float_text(value)


def float_text(value: float) -> str:
    """The spelling of a float64: digits if it is a whole number that fits an int64, else the shortest."""
    return str(int(value)) if value.is_integer() and -_INT64 <= value < _INT64 else repr(value)


def decimal_text(exact: Decimal) -> str:
    """The spelling of a number that no float64 keeps: all its digits, with an exponent in place of many zeros."""
    digits, exponent = digits_and_exponent(exact)
    sign = "-" if exact.is_signed() and digits != "0" else ""
    first = len(digits) + exponent  # how many digits stand before the point
    if exponent >= 0 and first <= _MOST_POSITIONS:
        return sign + digits + "0" * exponent
    if exponent < 0 < first <= _MOST_POSITIONS:
        return f"{sign}{digits[:first]}.{digits[first:]}"
    if -4 < first <= 0:
        return f"{sign}0.{'0' * -first}{digits}"
    rest = f".{digits[1:]}" if len(digits) > 1 else ""
    return f"{sign}{digits[0]}{rest}e{first - 1:+03d}"


def hashed_number(number: Number) -> Number:
    """What of the number goes into a payload's hash: the same, whatever type its column has by then."""
    if isinstance(number, int) and -_INT64 <= number < _INT64:
        return number
    value = _float(number)
    if value is None:
        return msgspec.Raw(decimal_text(_exact(number)).encode())
    return hashed_float(value)


def hashed_float(value: float) -> Number:
    """What of a float64 goes into a payload's hash."""
    if value.is_integer() and -_INT64 <= value < _INT64:
        return int(value)
    return msgspec.Raw(msgspec.json.encode(value))


def hashed_decimal(value: Decimal) -> msgspec.Raw:
    """What of a decimal goes into a payload's hash: its digits, without zeros at the end."""
    text = f"{value:f}" if value else "0"
    return msgspec.Raw((text.rstrip("0").rstrip(".") if "." in text else text).encode())


def keeps_digits(text: str) -> bool:
    """Whether the text of a number with a point or an exponent says no more than the float64 that it spells."""
    return _spelled(text, float(text))


def all_exact_in_float64(integers: pa.Array) -> bool:
    """Whether a float64 is equal to each integer of an int64 array."""
    bounds = pc.min_max(integers)
    low, high = bounds["min"].as_py(), bounds["max"].as_py()
    if low is None or max(-low, high) <= FLOAT64_EXACT:
        return True
    if high >= _LARGEST_FLOAT:  # which cannot be cast back
        return all(value is None or number_kind(value) == INTEGER for value in integers.to_pylist())
    return bool(
        pc.all(pc.equal(integers.cast(pa.float64(), safe=False).cast(pa.int64(), safe=False), integers)).as_py()
    )


def _exact(number: Number) -> Decimal:
    return Decimal(number) if isinstance(number, int) else parse_decimal(literal_text(number))


def _float(number: Number) -> float | None:
    """The float64 that keeps the number, if there is one."""
    try:
        text = literal_text(number)
    except ValueError:  # more digits than Python writes
        raise ValueRefused("is out of range for float64") from None
    if len(text) > LONGEST_NUMBER:
        raise ValueRefused(f"is a number of more than {LONGEST_NUMBER} characters")
    value = float(text)
    if math.isinf(value):
        raise ValueRefused("is out of range for float64")
    return value if _spelled(text, value) else None


def _spelled(text: str, value: float) -> bool:
    """Whether the text, of a number that does not fit an int64, says no more than the float64 that is nearest to it."""
    shortest = repr(value)
    if shortest == text:
        return True
    exact = parse_decimal(text)
    if Decimal(shortest) == exact:
        return True
    if value.is_integer() and -_INT64 <= value < _INT64 and Decimal(value) == exact:
        return True
    digits = len(digits_and_exponent(exact)[0])
    return not _INTEGER.fullmatch(text) and digits <= _FLOAT_DIGITS and Decimal(f"{value:.{digits - 1}e}") == exact
