"""Numbers as they were written: which of them a column can hold without losing a digit.

An integer literal arrives as `int`, every other number as `msgspec.Raw` holding its text, so that nothing is
rounded before the column's type is known.
"""

import math
import re
import struct
from decimal import Context, Decimal, Inexact, InvalidOperation

import msgspec

from ingest.decode.refusals import ValueRefused

Number = int | msgspec.Raw

# From here on not every whole number has a float of its own, so the digits that were written must be compared.
FLOAT64_EXACT = 2**53
FLOAT32_EXACT = 2**24

LONGEST_NUMBER = 1_000
"""Characters; longer ones only cost time and memory, as no column could hold their digits."""

_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]{1,9})?")
_MOST_FLOAT_DIGITS = 800


def literal_text(number: Number) -> str:
    """The number as it was written."""
    return str(number) if isinstance(number, int) else bytes(number).decode()


def is_number(text: str) -> bool:
    """Whether the text is a number in JSON."""
    return _NUMBER.fullmatch(text) is not None


def parse_decimal(text: str) -> Decimal:
    """The exact value of a number's text."""
    if len(text) > LONGEST_NUMBER:
        raise ValueRefused(f"is a number of more than {LONGEST_NUMBER} characters")
    if not _NUMBER.fullmatch(text):
        raise ValueRefused("is not a number")
    return Decimal(text)


def digits_and_exponent(value: Decimal) -> tuple[str, int]:
    """The significant digits and the power of ten they are multiplied with."""
    _, digits, exponent = value.as_tuple()
    assert isinstance(exponent, int)
    text = "".join(map(str, digits))
    short = text.rstrip("0")
    return (short, exponent + len(text) - len(short)) if short else ("0", 0)


def to_int(number: Number, *, bits: int) -> int:
    """The whole number, if it is one and has room in `bits`."""
    value = number if isinstance(number, int) else _whole(parse_decimal(literal_text(number)), bits=bits)
    if not -(2 ** (bits - 1)) <= value < 2 ** (bits - 1):
        raise ValueRefused(f"is out of range for int{bits}")
    return value


def _whole(value: Decimal, *, bits: int) -> int:
    digits, exponent = digits_and_exponent(value)
    if exponent < 0:
        raise ValueRefused(f"is not a whole number and would lose precision in int{bits}")
    if len(digits) + exponent > 20:  # before int(), which would write out every digit of 1e999999999
        raise ValueRefused(f"is out of range for int{bits}")
    return int(value)


def to_float64(number: Number) -> float:
    """The nearest float64; a number of 2^53 or more must keep every digit that was written."""
    value = _to_float(number, type_="float64")
    if abs(value) >= FLOAT64_EXACT:
        _keep_digits(number, value, type_="float64")
    return value


def to_float32(number: Number) -> float:
    """The nearest float32; a number of 2^24 or more must keep every digit that was written."""
    wide = _to_float(number, type_="float32")
    try:
        (value,) = struct.unpack("<f", struct.pack("<f", wide))
    except OverflowError:
        raise ValueRefused("is out of range for float32") from None
    assert isinstance(value, float)
    if value == 0 and wide != 0:
        raise ValueRefused("is too near to zero for float32 and would lose precision")
    if abs(value) >= FLOAT32_EXACT:
        _keep_digits(number, value, type_="float32")
    return value


def _to_float(number: Number, *, type_: str) -> float:
    try:
        value = float(number) if isinstance(number, int) else float(literal_text(number))
    except OverflowError:
        value = math.inf
    if math.isinf(value):
        raise ValueRefused(f"is out of range for {type_}")
    if value == 0 and not isinstance(number, int) and parse_decimal(literal_text(number)) != 0:
        raise ValueRefused(f"is too near to zero for {type_} and would lose precision")
    return value


def _keep_digits(number: Number, value: float, *, type_: str) -> None:
    exact = Decimal(number) if isinstance(number, int) else parse_decimal(literal_text(number))
    digits = len(digits_and_exponent(exact)[0])
    if digits > _MOST_FLOAT_DIGITS or Decimal(f"{value:.{digits - 1}e}") != exact:
        raise ValueRefused(f"would lose precision: {type_} cannot hold all its digits")


class DecimalColumn:
    """Turns numbers into decimals of one precision and scale, digit for digit or not at all."""

    def __init__(self, *, precision: int, scale: int) -> None:
        self._type = f"decimal({precision},{scale})"
        self._context = Context(prec=precision, traps=[Inexact, InvalidOperation])
        self._unit = Decimal((0, (1,), -scale))
        self._scale = scale

    def exact(self, text: str) -> Decimal:
        """The decimal that `text` spells."""
        value = parse_decimal(text)
        try:
            return value.quantize(self._unit, context=self._context)
        except Inexact:
            raise ValueRefused(
                f"has more than {self._scale} digits after the point and would lose precision in {self._type}"
            ) from None
        except InvalidOperation:
            raise ValueRefused(f"is out of range for {self._type}") from None
