"""Arrow's dates, times and intervals as text. Fast for the years 1 to 9999, right for all others. Pure.

Years beyond them are written as ISO 8601 has it, with a sign: `+12013-01-01`, and 1 BC is `0000`. DuckDB's infinite
dates and timestamps are "Infinity" and "-Infinity".
"""

import pyarrow as pa
import pyarrow.compute as pc

_PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
_DAY = 86_400
_FIRST_DAY, _LAST_DAY = -719_162, 2_932_896  # 0001-01-01 and 9999-12-31
_INFINITE_DAY, _INFINITE_INSTANT = 2**31 - 1, 2**63 - 1

Texts = list[str | None]


def date_texts(array: pa.Array) -> Texts:
    """`YYYY-MM-DD` of each date32."""
    days = array.view(pa.int32())
    if _all_within(days, _FIRST_DAY, _LAST_DAY):
        texts: Texts = pc.cast(array, pa.string()).to_pylist()
        return texts
    return [None if day is None else _infinite(day, _INFINITE_DAY) or _date(day) for day in days.to_pylist()]


def timestamp_texts(array: pa.Array) -> Texts:
    """RFC 3339 with `Z` of each timestamp, which is UTC whether its type says so or not."""
    unit = _PER_SECOND[array.type.unit]
    ticks = array.view(pa.int64())
    if not _all_within(ticks, _FIRST_DAY * _DAY * unit, (_LAST_DAY + 1) * _DAY * unit - 1):
        return [None if t is None else _infinite(t, _INFINITE_INSTANT) or _instant(t, unit) for t in ticks.to_pylist()]
    # Arrow's text is as long as its unit is fine, so that values of the same precision are written together.
    texts: Texts = pc.cast(ticks.view(pa.timestamp(array.type.unit)), pa.string()).to_pylist()
    return [None if text is None else f"{text[:10]}T{_shortest(text[11:])}Z" for text in texts]


def time_texts(array: pa.Array) -> Texts:
    """`HH:MM:SS`, with a fraction if there is one, of each time of the day; DuckDB has a 24:00:00."""
    unit = _PER_SECOND[array.type.unit]
    ticks = pc.cast(array.view(pa.int32() if array.type.bit_width == 32 else pa.int64()), pa.int64()).to_pylist()
    return [None if tick is None else _time(tick, unit) for tick in ticks]


def interval_text(months: int, days: int, nanoseconds: int) -> str:
    """The ISO 8601 duration, each part with its own sign: `P1Y2M-3DT4H0.5S`."""
    years, months = _quotient(months, 12)
    total, fraction = _quotient(nanoseconds, 10**9)
    minutes, seconds = _quotient(total, 60)
    hours, minutes = _quotient(minutes, 60)
    sign = "-" if nanoseconds < 0 and seconds == 0 else ""
    decimals = f".{abs(fraction):09d}".rstrip("0").rstrip(".")
    date = "".join(f"{n}{unit}" for n, unit in ((years, "Y"), (months, "M"), (days, "D")) if n)
    time = "".join(f"{n}{unit}" for n, unit in ((hours, "H"), (minutes, "M")) if n)
    if seconds or fraction:
        time += f"{sign}{seconds}{decimals}S"
    return f"P{date}{'T' * bool(time)}{time}" if date or time else "PT0S"


def _quotient(value: int, by: int) -> tuple[int, int]:
    """The quotient and the rest, both with the sign of `value`."""
    whole, rest = divmod(abs(value), by)
    return (whole, rest) if value >= 0 else (-whole, -rest)


def _all_within(numbers: pa.Array, least: int, most: int) -> bool:
    bounds = pc.min_max(numbers)
    low, high = bounds["min"].as_py(), bounds["max"].as_py()
    return low is None or (low >= least and high <= most)


def _infinite(value: int, infinity: int) -> str | None:
    return {infinity: "Infinity", -infinity: "-Infinity"}.get(value)


def _instant(ticks: int, unit: int) -> str:
    seconds, fraction = divmod(ticks, unit)
    days, second = divmod(seconds, _DAY)
    return f"{_date(days)}T{_time(second * unit + fraction, unit)}Z"


def _time(ticks: int, unit: int) -> str:
    second, fraction = divmod(ticks, unit)
    whole = f"{second // 3600:02d}:{second // 60 % 60:02d}:{second % 60:02d}"
    return whole if unit == 1 else _shortest(f"{whole}.{fraction:0{len(str(unit)) - 1}d}")


def _shortest(time: str) -> str:
    """`HH:MM:SS.f…` with no fraction if it is zero, else with 6 digits of it, or with 9 if the last three count."""
    fraction = time[9:]
    if not fraction.strip("0"):
        return time[:8]
    return time[:15] if len(fraction) == 9 and fraction.endswith("000") else f"{time[:9]}{fraction:0<6}"


def _date(day: int) -> str:
    """The day counted from 1970-01-01 in the proleptic Gregorian calendar, whatever its year."""
    # Years that begin in March, in eras of 400 of them: leap days are then the last of a year.
    era, of_era = divmod(day + 719_468, 146_097)
    year = (of_era - of_era // 1460 + of_era // 36_524 - of_era // 146_096) // 365
    of_year = of_era - (365 * year + year // 4 - year // 100)
    month = (5 * of_year + 2) // 153
    of_month = of_year - (153 * month + 2) // 5 + 1
    civil_month = month + 3 if month < 10 else month - 9
    civil_year = year + era * 400 + (civil_month <= 2)
    sign = "" if 0 <= civil_year <= 9999 else f"{'+' if civil_year > 0 else '-'}"
    return f"{sign}{abs(civil_year):04d}-{civil_month:02d}-{of_month:02d}"
