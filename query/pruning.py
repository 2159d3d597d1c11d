"""Which files of a table a statement needs: those in which some row may satisfy its conditions. Pure.

Sound, and no more: a file is left out only if no row of it can matter. Bounds lie outside of the values, constants
become intervals that hold whatever DuckDB may make of them (it compares in floats where one side is one), NULL passes
no condition, and what is not understood is read.
"""

import math
import re
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import MAXYEAR, UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, NamedTuple

from catalog.partitions import field_name
from catalog.readset import ReadFile, ReadTable
from catalog.scanning import has_bounds_of
from catalog.schema import Column
from query.bucketing import buckets_of
from query.constants import Value
from query.predicates import Condition, TableUse
from query.request import Params

MAX_EVALUATIONS = 400_000
"""How often a file may be held against a condition in one plan; conditions beyond that are not looked at."""

# The statement runs a little later than it is planned, and clocks are set back at times.
_BEFORE_NOW, _AFTER_NOW = timedelta(minutes=1), timedelta(days=1)
_DATE = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_MOMENT = re.compile(r"(\d{4}-\d\d-\d\d)(?:[T ](\d\d:\d\d(?::\d\d(?:\.\d{1,6})?)?)(?:Z|\+00(?::00)?)?)?", re.ASCII)
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", re.ASCII)
_EXACT_BELOW = 2**63
_ROUNDING, _TINY = 1e-6, 1e-37  # of a float32, and then some


class Span(NamedTuple):
    """Where a constant lies, as a value that is compared with bounds of the column."""

    low: Any  # of the column's own kind: numbers, or texts
    high: Any


Test = Callable[[Mapping[str, Any] | None, int], bool]
Buckets = tuple[str, frozenset[int]]  # the field of a partition, and those of its values that are wanted


def needed_files(
    table: ReadTable,
    *,
    uses: Sequence[TableUse],
    params: Params | None,
    columns: Mapping[str, frozenset[str]],
    now: datetime | None,
) -> tuple[ReadFile, ...]:
    """The files of `table` in which a row may matter to one of its `uses`; `columns` names those of all tables."""
    tests = [_tests(table, use, params=params, columns=columns, now=now) for use in uses]
    if not table.files or not tests or not all(tests) or len(tests) * len(table.files) > MAX_EVALUATIONS:
        return table.files
    most = MAX_EVALUATIONS // (len(tests) * len(table.files))
    compiled: dict[int, list[_OfUse]] = {}
    kept = []
    for file in table.files:
        version = file.schema_version
        if version not in compiled:
            compiled[version] = [_of_use(table, version, of_use[:most]) for of_use in tests]
        if any(_may_matter(file, of_use) for of_use in compiled[version]):
            kept.append(file)
    return tuple(kept)


class _OfUse(NamedTuple):
    """What a file is held against for one use of its table."""

    tests: list[tuple[int, Test]]
    buckets: list[Buckets]


def _may_matter(file: ReadFile, of_use: _OfUse) -> bool:
    stats, partition = file.stats, file.partition_values
    return all(test(stats[place], file.row_count) for place, test in of_use.tests) and all(
        name not in partition or partition[name] in wanted for name, wanted in of_use.buckets
    )


_Wanted = tuple[Column, Condition, tuple[Span, ...]]


def _of_use(table: ReadTable, version: int, wanted: Sequence[_Wanted]) -> _OfUse:
    return _OfUse(
        tests=[_compiled(table, version, one) for one in wanted],
        buckets=[found for one in wanted for found in _buckets(table, version, one)],
    )


def _buckets(table: ReadTable, version: int, wanted: _Wanted) -> Iterator[Buckets]:
    """The buckets in which a value can be what the condition asks for, by each division of its column."""
    column, condition, spans = wanted
    if condition.operator not in ("=", "in") or any(span.low != span.high for span in spans):
        return
    schema = table.schema if version == table.schema.version else table.other_schemas.get(version)
    stored = next((held for held in schema.columns if held.field_id == column.field_id), None) if schema else None
    if stored is None or stored.type != column.type:
        return
    for field_id, count in table.buckets:
        if field_id == column.field_id:
            found = buckets_of((span.low for span in spans), kind=column.type, count=count)
            if found is not None:
                yield field_name(column=stored.name, transform=f"bucket[{count}]"), found


def _tests(
    table: ReadTable,
    use: TableUse,
    *,
    params: Params | None,
    columns: Mapping[str, frozenset[str]],
    now: datetime | None,
) -> list[_Wanted]:
    """The conditions of the use that files can be held against."""
    key = {name.lower() for name in table.primary_key_cols}
    # A file without the last operation of a key would let an earlier one of another file show again; but whether a
    # condition on the key itself is met, all operations of a key agree.
    plain = not key or all(file.folded for file in table.files)
    found = []
    for condition in use.conditions:
        column = table.schema.column(condition.column)
        if column is None or column.field_id not in table.stat_fields or not (plain or condition.column in key):
            continue
        if any(name not in columns or condition.column in columns[name] for name in condition.beside):
            continue
        spans = _spans(column, condition, params, now)
        if spans is not None:
            found.append((column, condition, spans))
    return found


def _compiled(table: ReadTable, version: int, wanted: _Wanted) -> tuple[int, Test]:
    """The place of the column's statistics in those of a file, and the test of files of this version."""
    column, condition, spans = wanted
    schema = table.schema if version == table.schema.version else table.other_schemas.get(version)
    place = table.stat_fields.index(column.field_id)
    if schema is None:
        return place, _unknown
    stored = next((held for held in schema.columns if held.field_id == column.field_id), None)
    if stored is None:
        return place, _unknown if condition.operator == "null" else _never  # shown as NULL in every row
    if condition.operator == "null":
        return place, _some_null if stored.type == column.type else _unknown
    if condition.operator == "not null" or not has_bounds_of(stored=stored, shown=column):
        return place, _some_value
    return place, _bounded(condition.operator, spans, Decimal if stored.type.startswith("decimal") else None)


def _unknown(_stats: Mapping[str, Any] | None, _rows: int) -> bool:
    return True


def _never(_stats: Mapping[str, Any] | None, _rows: int) -> bool:
    return False


def _some_null(stats: Mapping[str, Any] | None, _rows: int) -> bool:
    return stats is None or stats["null_count"] != 0


def _some_value(stats: Mapping[str, Any] | None, rows: int) -> bool:
    return stats is None or stats["null_count"] < rows


def _bounded(operator: str, spans: Sequence[Span], read: Callable[[str], Decimal] | None) -> Test:
    within = _WITHIN[operator](spans)

    def test(stats: Mapping[str, Any] | None, rows: int) -> bool:
        if stats is None:
            return True
        if stats["null_count"] >= rows:
            return False
        low, high = stats["min"], stats["max"]
        if read is not None:
            low, high = low if low is None else read(low), high if high is None else read(high)
        return within(low, high)

    return test


Within = Callable[[Any, Any], bool]  # bounds of the column's own kind


def _among(spans: Sequence[Span]) -> Within:
    lows, highs = sorted(span.low for span in spans), sorted(span.high for span in spans)

    def within(low: Any, high: Any) -> bool:
        place = 0 if low is None else bisect_left(highs, low)
        return place < len(highs) and (high is None or lows[place] <= high)

    return within


_WITHIN: dict[str, Callable[[Sequence[Span]], Within]] = {
    "=": _among,
    "in": _among,
    "<": lambda spans: lambda low, _: low is None or low < spans[0].high,
    "<=": lambda spans: lambda low, _: low is None or low <= spans[0].high,
    ">": lambda spans: lambda _, high: high is None or high > spans[0].low,
    ">=": lambda spans: lambda _, high: high is None or high >= spans[0].low,
    "between": lambda spans: (
        lambda low, high: (high is None or high >= spans[0].low) and (low is None or low <= spans[1].high)
    ),
    "prefix": lambda spans: (
        lambda low, high: (
            (high is None or high >= spans[0].low)
            and (low is None or low <= spans[0].low or low.startswith(spans[0].low))
        )
    ),
}


def _spans(
    column: Column, condition: Condition, params: Params | None, now: datetime | None
) -> tuple[Span, ...] | None:
    """Where the constants lie; None if one is none that DuckDB compares as the column's type orders its values."""
    read = _SPANS.get(column.type) or (_number if column.type.startswith("decimal") else None)
    if condition.operator in ("null", "not null"):
        return ()
    if read is None or column.holds or (condition.operator == "prefix" and column.type != "string"):
        return None
    values = [_given(value, params) for value in condition.values]
    known = tuple(value for value in values if value is not None)
    if len(known) < len(values) or not known:
        return None
    # All of a list are compared in one type.
    rounded = column.type.startswith("float") or any(value.kind == "float" for value in known)
    spans = [read(value, column.type, rounded, now) for value in known]
    found = tuple(span for span in spans if span is not None)
    return found if len(found) == len(spans) else None


def _given(value: Value, params: Params | None) -> Value | None:
    """The value itself, or what the request gives for the parameter."""
    if value.kind != "param":
        return value
    if isinstance(params, dict):
        given = params.get(value.of)
    else:
        place = int(value.of) - 1 if value.of.isascii() and value.of.isdigit() and len(value.of) < 6 else -1
        given = params[place] if params is not None and 0 <= place < len(params) else None
    kinds = {bool: "bool", int: "int", float: "float", str: "text"}
    kind = kinds.get(type(given))
    return None if kind is None else Value(kind=kind, of=given, cast=value.cast)


def _number(value: Value, type_: str, rounded: bool, _now: datetime | None) -> Span | None:
    if value.cast or value.kind not in ("int", "decimal", "float"):
        return None
    if rounded or (value.kind == "int" and abs(value.of) >= _EXACT_BELOW):
        near = float(Decimal(f"{value.of[0]}e-{value.of[1]}")) if value.kind == "decimal" else _float(value.of)
        slack = abs(near) * _ROUNDING + _TINY
        return Span(near - slack, near + slack) if math.isfinite(near + slack) else None
    if value.kind == "int":
        return Span(value.of, value.of)
    unscaled, scale = value.of
    kept = min(scale, int(type_.partition(",")[2][:-1] or 0))
    # DuckDB may round the constant to as many digits as the column has.
    floor, rest = divmod(unscaled, 10 ** (scale - kept))
    return Span(Decimal(f"{floor}e-{kept}"), Decimal(f"{floor + bool(rest)}e-{kept}"))


def _float(number: float) -> float:
    try:
        return float(number)
    except OverflowError:
        return math.inf


def _text(value: Value, _type: str, _rounded: bool, _now: datetime | None) -> Span | None:
    return Span(value.of, value.of) if value.kind == "text" and not value.cast else None


def _truth(value: Value, _type: str, _rounded: bool, _now: datetime | None) -> Span | None:
    return Span(value.of, value.of) if value.kind == "bool" and not value.cast else None


def _uuid(value: Value, _type: str, _rounded: bool, _now: datetime | None) -> Span | None:
    if value.kind != "text" or value.cast not in ("", "uuid") or not _UUID.fullmatch(value.of.lower()):
        return None
    return Span(value.of.lower(), value.of.lower())


def _moment(value: Value, type_: str, _rounded: bool, now: datetime | None) -> Span | None:
    bounds = _moments(value, now)
    if bounds is None:
        return None
    low, high = bounds
    if type_ == "timestamp":
        return Span(low.isoformat(), high.isoformat())
    # A date is compared as its midnight, or the constant as its day.
    if high == _midnight(high):
        return Span(low.date().isoformat(), high.date().isoformat())
    return None if high.year == MAXYEAR else Span(low.date().isoformat(), _day_after(high))


def _moments(value: Value, now: datetime | None) -> tuple[datetime, datetime] | None:
    """The earliest and latest moment that the constant may be, in UTC."""
    if value.kind in ("now", "today"):
        if now is None:
            return None
        here = now.astimezone(UTC).replace(tzinfo=None)
        low, high = here - _BEFORE_NOW, here + _AFTER_NOW
        if value.kind == "today":
            low, high = _midnight(low), _midnight(high)
        try:
            return low + timedelta(seconds=value.of), high + timedelta(seconds=value.of)
        except OverflowError:
            return None
    if value.kind != "text" or value.cast not in ("", "date", "timestamp"):
        return None
    match = _MOMENT.fullmatch(value.of)
    if match is None or (value.cast == "date" and not _DATE.fullmatch(value.of)):
        return None
    try:
        moment = datetime.fromisoformat(match[1] if match[2] is None else f"{match[1]}T{match[2]}")
    except ValueError:
        return None
    return moment, moment


def _day_after(moment: datetime) -> str:
    return (moment.date() + timedelta(days=1)).isoformat()


def _midnight(moment: datetime) -> datetime:
    return moment.replace(hour=0, minute=0, second=0, microsecond=0)


_SPANS: dict[str, Callable[[Value, str, bool, datetime | None], Span | None]] = {
    "bool": _truth,
    "int32": _number,
    "int64": _number,
    "float32": _number,
    "float64": _number,
    "string": _text,
    "date": _moment,
    "timestamp": _moment,
    "uuid": _uuid,
}
