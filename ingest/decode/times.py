"""Dates and times as text: RFC 3339, microseconds, the years 1 to 9999 in UTC."""

import re
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.compute as pc
from msgspec import UNSET

from ingest.decode.refusals import Doubt, ValueRefused

_TIMESTAMP = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})[Tt ]([0-9]{2}:[0-9]{2}:[0-9]{2})(?:\.([0-9]+))?"
    r"(?:([Zz])|([+-])([0-9]{2}):([0-9]{2}))?"
)
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_SECONDS = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}[T ][0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]{1,6})?"
_WITH_OFFSET = _SECONDS + r"(?:Z|[+-][0-9]{2}:[0-9]{2})$"
_WITHOUT_OFFSET = _SECONDS + r"$"

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
FIRST_MICROSECOND = (datetime.min.replace(tzinfo=UTC) - EPOCH) // _MICROSECOND
LAST_MICROSECOND = (datetime.max.replace(tzinfo=UTC) - EPOCH) // _MICROSECOND
_FIRST_DAY = date.min.toordinal() - date(1970, 1, 1).toordinal()

_FEW = 40
_DAY = len("YYYY-MM-DD")
T = TypeVar("T")

_UTC_TYPE = pa.timestamp("us", "UTC")
_TYPE = pa.timestamp("us")


def parse_timestamp(text: str) -> int:
    """Microseconds since 1970 in UTC; a time without an offset is in UTC."""
    match = _TIMESTAMP.fullmatch(text)
    if not match:
        raise ValueRefused("is not an RFC 3339 time such as 2013-01-01T10:00:00Z")
    day, clock, fraction, _, sign, hours, minutes = match.groups()
    fraction = (fraction or "").rstrip("0")
    if len(fraction) > 6:
        raise ValueRefused("has more than six digits after the seconds and would lose precision")
    try:
        local = datetime.fromisoformat(f"{day}T{clock}+00:00")
    except ValueError:
        raise ValueRefused("is not a time of the calendar") from None
    offset = timedelta(hours=int(hours), minutes=int(minutes)) if sign else timedelta()
    if sign and (int(hours) > 23 or int(minutes) > 59):
        raise ValueRefused("has an offset that does not exist")
    micros = (local - EPOCH) // _MICROSECOND + int(fraction.ljust(6, "0"))
    micros -= (offset // _MICROSECOND) * (-1 if sign == "-" else 1)
    if not FIRST_MICROSECOND <= micros <= LAST_MICROSECOND:
        raise ValueRefused("lies outside the years 1 to 9999 in UTC")
    return micros


def parse_date(text: str) -> date:
    """The day that `YYYY-MM-DD` names."""
    if not _DATE.fullmatch(text):
        raise ValueRefused("is not a date such as 2013-01-31")
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise ValueRefused("is not a day of the calendar") from None


def timestamp_array(texts: Sequence[str | None]) -> pa.Array:
    """The timestamps, as `parse_timestamp` reads them; Doubt if one may be wrong."""
    if (known := _each_once(texts, parse_timestamp)) is not None:
        return pa.array([known[text] for text in texts], _TYPE)
    array = pa.array(texts, pa.string())
    if _all_match(array, _WITH_OFFSET):
        times = _cast(array, _UTC_TYPE).cast(_TYPE)
    elif _all_match(array, _WITHOUT_OFFSET):
        times = _cast(array, _TYPE)
    else:
        raise Doubt
    low, high = _bounds(times)
    if low < FIRST_MICROSECOND or high > LAST_MICROSECOND:
        raise Doubt
    return times


def date_array(texts: Sequence[str | None]) -> pa.Array:
    """The days, as `parse_date` reads them; Doubt if one may be wrong."""
    if (known := _each_once(texts, parse_date)) is not None:
        return pa.array([known[text] for text in texts], pa.date32())
    array = pa.array(texts, pa.string())
    if not _all_match(array, r"^[0-9]{4}-[0-9]{2}-[0-9]{2}$"):
        raise Doubt
    days = _cast(array, pa.date32())
    if pc.min(days.cast(pa.int32())).as_py() < _FIRST_DAY:
        raise Doubt
    return days


def event_span(texts: Sequence[str | None]) -> tuple[int, int] | None:
    """The earliest and the latest of the times, None if there are none; Doubt if one may be wrong."""
    if (known := _each_once(texts, parse_timestamp)) is not None:
        micros = [value for value in known.values() if value is not None]
        return (min(micros), max(micros)) if micros else None
    return _bounds(timestamp_array(texts))


def _each_once(texts: Sequence[Any], parse: Callable[[str], T]) -> dict[str | None, T | None] | None:
    """What the different texts mean, each parsed once, if they are few; Arrow's set-up costs as much as that."""
    different = set(texts)
    if len(different) > _FEW or UNSET in different:
        return None
    try:
        return {text: None if text is None else parse(text) for text in different}
    except ValueRefused:
        raise Doubt from None


def _bounds(times: pa.Array) -> tuple[int, int]:
    bounds = pc.min_max(times.cast(pa.int64()))
    return bounds["min"].as_py(), bounds["max"].as_py()


def moment(micros: int) -> datetime:
    """The moment in UTC."""
    return EPOCH + timedelta(microseconds=micros)


def timestamp_text(micros: int) -> str:
    """The one spelling of a moment: `2013-01-31T10:00:00Z`, with six digits after the second, or none."""
    return moment(micros).replace(tzinfo=None).isoformat() + "Z"


def timestamp_texts(times: pa.Array) -> pa.Array:
    """`timestamp_text` of each, in a hundredth of its time."""
    texts = pc.binary_replace_slice(times.cast(pa.string()), _DAY, _DAY + 1, "T")
    return pc.replace_substring(pc.binary_join_element_wise(texts, "Z", ""), ".000000Z", "Z")


def _all_match(texts: pa.Array, pattern: str) -> bool:
    return pc.all(pc.match_substring_regex(texts, pattern)).as_py() is not False


def _cast(texts: pa.Array, type_: pa.DataType) -> pa.Array:
    try:
        return texts.cast(type_)
    except pa.ArrowInvalid:
        raise Doubt from None
