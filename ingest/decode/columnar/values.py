"""Arrow values of any type to the values of a column, exactly or not at all, many at once.

What already is as the column stores it stays where it is in memory and is only checked. Text becomes dates, UUIDs and
so on as the text in a JSON body does, and decimals that do not simply fit go through the same converters.
"""

from collections.abc import Callable
from decimal import Decimal

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from catalog.schema import LogicalType, arrow_type
from ingest.decode.columnar.problems import Problems
from ingest.decode.columnar.types import UUID_BYTES, is_binary, is_text
from ingest.decode.numbers import FLOAT32_EXACT, FLOAT64_EXACT
from ingest.decode.refusals import Doubt, ValueRefused, shown
from ingest.decode.times import FIRST_MICROSECOND, LAST_MICROSECOND, date_array, timestamp_array
from ingest.decode.values import Converter, converter

_UNITS = {"s": (1_000_000, 1), "ms": (1_000, 1), "us": (1, 1), "ns": (1, 1_000)}  # microseconds: times, divided by
_DAY = 86_400_000_000
_UUID_GROUPS = ((0, 8), (8, 12), (12, 16), (16, 20), (20, 32))
_WIDEST_INT = 20  # digits of an unsigned integer of 64 bits

_Convert = Callable[[pa.Array, LogicalType, Problems], pa.Array]


def simple_values(array: pa.Array, type_: LogicalType, problems: Problems) -> pa.Array:
    """The values as a column of this type, which is no list and no json, stores them.

    If there are problems, they are told and the answer is void. The array is valid, without dictionary and extension.
    Raises `ValueRefused` if no value of the array's type can be the column's.
    """
    return _CONVERT[type_.kind](array, type_, problems)


def wrong(array: pa.Array, wanted: str) -> ValueRefused:
    """The refusal of all that the array holds."""
    return ValueRefused(f"needs {wanted}, not {shown(str(array.type))}")


def _bool(array: pa.Array, _: LogicalType, __: Problems) -> pa.Array:
    if not pa.types.is_boolean(array.type):
        raise wrong(array, "true or false")
    return array


def _int(array: pa.Array, type_: LogicalType, problems: Problems) -> pa.Array:
    target = arrow_type(type_.kind)
    if array.type == target:
        return array
    bits = target.bit_width
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    if pa.types.is_integer(array.type):
        bounds = pc.min_max(array)
        if bounds["min"].is_valid and (bounds["min"].as_py() < low or bounds["max"].as_py() > high):
            unsigned = pa.types.is_unsigned_integer(array.type)
            outside = pc.greater(array, pa.scalar(high, array.type))
            problems.where(
                outside if unsigned else pc.or_(outside, pc.less(array, pa.scalar(low, array.type))),
                f"is out of range for {type_}",
            )
            return array
        return array.cast(target)
    if pa.types.is_floating(array.type):
        wide = array.cast(pa.float64())
        _finite(wide, problems)
        number = pc.is_finite(wide)
        fraction = pc.and_(number, pc.not_equal(pc.trunc(wide), wide))
        problems.where(fraction, f"is not a whole number and would lose precision in {type_}")
        outside = pc.or_(pc.less(wide, float(low)), pc.greater_equal(wide, float(high + 1)))
        problems.where(pc.and_(number, pc.and_not(outside, fraction)), f"is out of range for {type_}")
        return wide.cast(target, safe=False)
    return _of_numbers(array, type_, problems, ("decimal",))


def _float(array: pa.Array, type_: LogicalType, problems: Problems) -> pa.Array:
    target = arrow_type(type_.kind)
    if pa.types.is_floating(array.type):
        all_finite = _finite(array, problems)
        result = array if array.type == target else array.cast(target, safe=False)
        if array.type.bit_width > target.bit_width:
            lost = pc.not_equal(result.cast(array.type), array)
            problems.where(
                lost if all_finite else pc.and_(lost, pc.is_finite(array)),
                f"would lose precision: {type_} cannot hold all its digits",
            )
        return result
    if pa.types.is_integer(array.type):
        result = array.cast(target, safe=False)
        exact = FLOAT32_EXACT if type_.kind == "float32" else FLOAT64_EXACT
        bounds = pc.min_max(array)
        if bounds["min"].is_valid and (bounds["min"].as_py() < -exact or bounds["max"].as_py() > exact):
            wide = result.cast(pa.float64())
            beyond = 2.0 ** (array.type.bit_width - (0 if pa.types.is_unsigned_integer(array.type) else 1))
            same = pc.and_(pc.less(wide, beyond), pc.equal(wide.cast(array.type, safe=False), array))
            problems.where(pc.invert(same), f"would lose precision: {type_} cannot hold all its digits")
        return result
    return _of_numbers(array, type_, problems, ("decimal",))


def _decimal(array: pa.Array, type_: LogicalType, problems: Problems) -> pa.Array:
    if is_text(array.type):
        return of_texts(array, type_, problems, converter(type_))
    if pa.types.is_integer(array.type):
        array = array.cast(pa.decimal128(_WIDEST_INT, 0))
    if pa.types.is_floating(array.type) and not _finite(array, problems):
        return array
    return _of_numbers(array, type_, problems, ("decimal", "float", "double", "halffloat"))


def _of_numbers(array: pa.Array, type_: LogicalType, problems: Problems, kinds: tuple[str, ...]) -> pa.Array:
    """Numbers that Arrow may not convert as they must be: value by value where it refuses to."""
    if not str(array.type).startswith(kinds):
        raise wrong(array, "a number")
    target = arrow_type(str(type_))
    if pa.types.is_decimal(array.type) and type_.kind not in ("float32", "float64"):
        if array.type == target:
            return array
        try:
            return array.cast(target)
        except pa.ArrowInvalid:
            pass
    convert, values = converter(type_), []
    for row, number in enumerate(array.to_pylist()):
        try:
            text = None if number is None else f"{Decimal(number):f}".encode()
            values.append(None if text is None else convert(msgspec.Raw(text))[0])
        except ValueRefused as refused:
            values.append(None)
            problems.add(row, str(refused))
    return pa.array(values, target)


def _string(array: pa.Array, _: LogicalType, __: Problems) -> pa.Array:
    if not is_text(array.type):
        raise wrong(array, "a string")
    return array if pa.types.is_string(array.type) else array.cast(pa.string())


def _binary(array: pa.Array, _: LogicalType, __: Problems) -> pa.Array:
    if not is_binary(array.type):
        raise wrong(array, "bytes")
    return array if array.type == pa.binary() else array.cast(pa.binary())


def _date(array: pa.Array, type_: LogicalType, problems: Problems) -> pa.Array:
    if is_text(array.type):
        return of_texts(array, type_, problems, converter(type_), whole=date_array)
    if pa.types.is_date64(array.type):
        days = pc.divide(array.cast(pa.int64()), _DAY // 1_000)  # which a valid array holds whole
    elif pa.types.is_date32(array.type):
        days = array.cast(pa.int32())
    else:
        raise wrong(array, "a date")
    first, last = FIRST_MICROSECOND // _DAY, LAST_MICROSECOND // _DAY
    if _outside(days, first, last, problems, "lies outside the years 1 to 9999"):
        return array
    return array if pa.types.is_date32(array.type) else days.cast(pa.int32()).cast(pa.date32())


def _timestamp(array: pa.Array, type_: LogicalType, problems: Problems) -> pa.Array:
    if is_text(array.type):
        return of_texts(array, type_, problems, converter(type_), whole=timestamp_array)
    if not pa.types.is_timestamp(array.type):
        raise wrong(array, "a timestamp")
    times, divided = _UNITS[array.type.unit]
    units = array.cast(pa.int64())
    first, last = FIRST_MICROSECOND // times, LAST_MICROSECOND // times
    if divided == 1 and _outside(units, first, last, problems, "lies outside the years 1 to 9999 in UTC"):
        return array
    if divided > 1:
        whole = pc.divide(units, divided)
        problems.where(
            pc.not_equal(pc.multiply(whole, divided), units),
            "has more than six digits after the seconds and would lose precision",
        )
        units = whole
    if array.type == pa.timestamp("us"):
        return array
    return (units if times == 1 else pc.multiply(units, times)).cast(pa.timestamp("us"))


def _outside(numbers: pa.Array, low: int, high: int, problems: Problems, reason: str) -> bool:
    bounds = pc.min_max(numbers)
    if bounds["min"].is_valid and not low <= bounds["min"].as_py() <= bounds["max"].as_py() <= high:
        outside = pc.or_(
            pc.less(numbers, pa.scalar(low, numbers.type)),
            pc.greater(numbers, pa.scalar(high, numbers.type)),
        )
        problems.where(outside, reason)
        return True
    return False


def _uuid(array: pa.Array, type_: LogicalType, problems: Problems) -> pa.Array:
    if is_text(array.type):
        return of_texts(array, type_, problems, converter(type_))
    if not pa.types.is_fixed_size_binary(array.type) or array.type.byte_width != UUID_BYTES:
        raise wrong(array, "a UUID")
    return _uuid_texts(array)


def of_texts(
    array: pa.Array,
    type_: LogicalType,
    problems: Problems,
    convert: Converter,
    whole: Callable[[list[str | None]], pa.Array] | None = None,
) -> pa.Array:
    """What `convert` makes of the texts, each read once. `whole` reads many at once if none of them is in doubt."""
    encoded = array.dictionary_encode()
    texts = encoded.dictionary.to_pylist()
    if whole is not None:
        try:
            return whole(texts).take(encoded.indices)
        except Doubt:
            pass
    values: list[object] = []
    refused: dict[int, str] = {}
    for position, text in enumerate(texts):
        try:
            values.append(convert(text)[0])
        except ValueRefused as error:
            values.append(None)
            refused[position] = str(error)
    if refused:
        for row, index in enumerate(encoded.indices.to_pylist()):
            if index in refused:
                problems.add(row, refused[index])
    return pa.array(values, arrow_type(str(type_))).take(encoded.indices)


def _finite(array: pa.Array, problems: Problems) -> bool:
    if pc.all(pc.is_finite(array)).as_py() is not False:
        return True
    problems.where(pc.is_nan(array), "is NaN, which no column holds")
    problems.where(pc.is_inf(array), "is infinite, which no column holds")
    return False


def _uuid_texts(array: pa.Array) -> pa.Array:
    """16 bytes each, as UUIDs are written."""
    data = array.buffers()[1][array.offset * UUID_BYTES : (array.offset + len(array)) * UUID_BYTES].to_pybytes()
    digits = pa.Array.from_buffers(
        pa.binary(2 * UUID_BYTES), len(array), [None, pa.py_buffer(data.hex().encode())]
    ).cast(pa.string())
    groups = [pc.utf8_slice_codeunits(digits, start, stop) for start, stop in _UUID_GROUPS]
    return pc.if_else(array.is_valid(), pc.binary_join_element_wise(*groups, "-"), pa.scalar(None, pa.string()))


_CONVERT: dict[str, _Convert] = {
    "bool": _bool,
    "int32": _int,
    "int64": _int,
    "float32": _float,
    "float64": _float,
    "decimal": _decimal,
    "string": _string,
    "binary": _binary,
    "date": _date,
    "timestamp": _timestamp,
    "uuid": _uuid,
}
