"""Bounds of a column as values that JSON carries exactly.

They are taken from the rows and not from what DuckDB's COPY reports: over several row groups that forgets a NaN, and
a row group whose long strings have no bounds, and the answer is then narrower than the data.
"""

import math
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

Bound = str | int | float | bool | None

LONGEST_STRING = 256


def bounds(kind: str, values: pa.ChunkedArray) -> tuple[Bound, Bound]:
    """(min, max) of a column of the logical type `kind`; None where there is no trustworthy bound.

    Decimals, dates and timestamps are text. Strings are cut, so that the bound lies outside, where they are long and
    at a zero character, which PostgreSQL's JSON does not hold. A column that holds NaN has no bounds, nor have lists,
    binary, JSON, and UUIDs that are not spelled canonically.
    """
    read = _READERS.get("decimal" if kind.startswith("decimal") else kind)
    if read is None or not _comparable(kind, values):
        return None, None
    found = pc.min_max(values)
    return _read(found["min"], read, _cut_down), _read(found["max"], read, _cut_up)


def _comparable(kind: str, values: pa.ChunkedArray) -> bool:
    if kind in ("float32", "float64"):
        return not pc.any(pc.is_nan(values)).as_py()
    if kind == "uuid":
        # Only in this spelling text sorts as the UUIDs do.
        canonical = r"^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$"
        return pc.all(pc.match_substring_regex(values, canonical)).as_py() is not False
    return True


# Any: a scalar's Python value depends on its Arrow type, which pyarrow does not tell mypy.
def _read(scalar: Any, read: Callable[[Any], Bound], cut: Callable[[str], str | None]) -> Bound:
    try:
        value = scalar.as_py()
    except (ValueError, OverflowError):
        return None  # a moment beyond the years that Python knows
    bound = None if value is None else read(value)
    return cut(bound) if isinstance(bound, str) else bound


def _finite(value: float) -> Bound:
    return value if math.isfinite(value) else None


def _cut_down(text: str) -> str:
    """`text`, or the longest prefix of it that a bound may have: a prefix sorts before the whole."""
    return text.encode()[:LONGEST_STRING].decode(errors="ignore").partition("\0")[0]


def _cut_up(text: str) -> str | None:
    """`text` if it need not be cut; else a string that sorts after everything that begins as `text` does."""
    prefix = _cut_down(text)
    if prefix == text:
        return text
    if text[len(prefix)] == "\0":
        return prefix + "\1"
    while prefix:
        following = ord(prefix[-1]) + 1
        if following <= 0x10FFFF:
            # The surrogates, which no text holds, lie between the two planes of characters.
            return prefix[:-1] + chr(0xE000 if 0xD800 <= following <= 0xDFFF else following)
        prefix = prefix[:-1]
    return None


_READERS: dict[str, Callable[[Any], Bound]] = {
    "bool": bool,
    "int8": int,
    "int32": int,
    "int64": int,
    "float32": _finite,
    "float64": _finite,
    "decimal": lambda value: f"{value:f}",
    "string": str,
    "uuid": str,
    "date": lambda value: value.isoformat(),
    "timestamp": lambda value: value.isoformat(),
}
