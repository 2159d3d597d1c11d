"""CSV for a growing table: what a text without a type is taken for, and what it is in its column.

A text that is a JSON number is that number, `true` and `false` are truths, anything else is a string, and nothing is
null. A string column takes every text as it is, so that digits among words do not make it json. Keys and hashes are
made of what the texts are taken for, whatever their columns have become.
"""

from collections.abc import Callable, Mapping, Sequence

import msgspec
import pyarrow as pa

from catalog.schema import Column
from ingest.decode.growing_values import json_text
from ingest.decode.growth import Growth, fits, why_no_column
from ingest.decode.keys import check_key, event_micros
from ingest.decode.lattice import STRING, kind_of
from ingest.decode.number_text import hashed_number, number_kind, number_text
from ingest.decode.numbers import is_number
from ingest.decode.plan import PlannedColumn
from ingest.decode.refusals import Doubt, Refusals, ValueRefused
from ingest.decode.rows import Rows
from ingest.decode.streamed import Target
from ingest.decode.values import converter, string

Texts = Mapping[str, Sequence[str | None]]
"""The texts of each column of the header, by its name."""

_TRUTHS = {"true": True, "false": False}
_LONGEST_INT = 400


def meant(text: str) -> object:
    """The JSON value that the text is taken for."""
    if text in _TRUTHS:
        return _TRUTHS[text]
    if is_number(text):
        whole = text.removeprefix("-").isdecimal() and len(text) <= _LONGEST_INT
        number = int(text) if whole else msgspec.Raw(text)
        try:
            number_kind(number)
        except ValueRefused:
            return text
        return number
    return text


def growing_rows(texts: Texts, count: int, target: Target) -> Rows:
    """The rows of the texts, for whose columns the table has grown; Doubt if any of them is refused."""
    problems = _Problems(Refusals(), indexes=range(count), lines=range(count))
    rows = _rows(texts, count, target, problems)
    if rows is None:
        raise Doubt
    return rows


class GrowingCells:
    """Takes the fields of records one by one, for a table that grows with them."""

    def __init__(self, names: Sequence[str], target: Target, refusals: Refusals) -> None:
        self._texts: dict[str, list[str | None]] = {name: [] for name in names}
        self._target = target
        self._refusals = refusals
        self._indexes: list[int] = []
        self._lines: list[int] = []

    def add(self, index: int, fields: Sequence[str | None], line: int) -> None:
        """Take the record."""
        for column, text in zip(self._texts.values(), fields, strict=True):
            column.append(text)
        self._indexes.append(index)
        self._lines.append(line)

    def rows(self) -> Rows | None:
        """All that was taken; None if the refusals name a problem, in these or in earlier ones."""
        problems = _Problems(self._refusals, indexes=self._indexes, lines=self._lines)
        rows = _rows(self._texts, len(self._indexes), self._target, problems)
        return None if self._refusals.count else rows


class _Problems:
    """Where the problems of some records go."""

    def __init__(self, refusals: Refusals, *, indexes: Sequence[int], lines: Sequence[int]) -> None:
        self._refusals = refusals
        self._indexes = indexes
        self._lines = lines
        self.count = 0

    def add(self, row: int, column: str | None, reason: str) -> None:
        """Name a problem of one record."""
        self.count += 1
        self._refusals.add(index=self._indexes[row], line=self._lines[row], column=column, reason=reason)

    def where(self, texts: Sequence[str | None], wrong: Mapping[str, object], column: str, reason: str) -> None:
        """Name a problem of each record whose text is one of those."""
        for row, text in enumerate(texts):
            if text in wrong:
                self.add(row, column, reason)


def _rows(texts: Texts, count: int, target: Target, problems: _Problems) -> Rows | None:
    distinct = {name: {text: meant(text) for text in set(column) if text is not None} for name, column in texts.items()}
    target.grow_by(lambda growth: _see(growth, distinct))
    plan = target.plan
    arrays = {column.name: pa.nulls(count, column.arrow) for column in plan.columns}
    for name, column in texts.items():
        planned = plan.by_folded_name.get(name.lower())
        if planned is not None:
            arrays[planned.name] = _array(column, distinct[name], planned, problems)
        elif distinct[name]:
            problems.where(column, distinct[name], name, why_no_column(name))
    if count and not arrays and not problems.count:
        problems.add(0, None, "the table has no columns yet, and no field of the request is one")
    keys = _keys(texts, distinct, target, problems)
    span = _event_span(arrays, target, problems)
    if problems.count:
        return None
    return Rows(
        arrays=[arrays[column.name] for column in plan.columns],
        ops=[target.bound.op] * count,
        payloads=_payloads(texts, distinct, target, count) if target.hash_all else [],
        keys=keys,
        event_span=span,
    )


def _see(growth: Growth, distinct: Mapping[str, Mapping[str, object]]) -> None:
    for name, values in distinct.items():
        column = growth.column(name)
        kinds = {kind_of(value) for text, value in values.items() if column is None or not _takes(column, text, value)}
        if column is None and STRING in kinds:
            kinds = {STRING}
        for kind in kinds:
            growth.see_kind(name, kind)


def _takes(column: Column, text: str, value: object) -> bool:
    if column.type == "string" and not column.holds:
        return True
    return fits(column, value) or fits(column, text)


def _array(
    texts: Sequence[str | None], values: Mapping[str, object], column: PlannedColumn, problems: _Problems
) -> pa.Array:
    convert = _in_column(column)
    stored: dict[str, object] = {}
    for text, value in values.items():
        try:
            if "\0" in text:
                raise ValueRefused("holds a NUL, which no CSV has")
            stored[text] = convert(string(text), value)
        except ValueRefused as refused:
            problems.where(texts, {text: value}, column.name, str(refused))
    if problems.count:
        return None
    return pa.array([None if text is None else stored[text] for text in texts], column.arrow)


def _in_column(column: PlannedColumn) -> Callable[[str, object], object]:
    """What a text, and the value it is taken for, are in the column."""
    match column.type.kind, column.holds:
        case "string", "":
            return lambda text, _: text
        case "json", _:
            return lambda _, value: _as_json(value)
        case (("bool" | "int64" | "float64" | "float32" | "string"), _):
            return lambda _, value: column.convert(value)[0]
        case _:
            convert = converter(column.type)
            return lambda text, value: convert(value if fits(_plain(column), value) else text)[0]


def _plain(column: PlannedColumn) -> Column:
    return Column(field_id=0, name=column.name, type=str(column.type))


def _as_json(value: object) -> str:
    if isinstance(value, str):
        return json_text(value)
    return "true" if value is True else "false" if value is False else number_text(_number(value))


def _number(value: object) -> int | msgspec.Raw:
    assert isinstance(value, int | msgspec.Raw)
    return value


def _hashed(value: object) -> object:
    return value if isinstance(value, str | bool) else hashed_number(_number(value))


def _payloads(texts: Texts, distinct: Mapping[str, Mapping[str, object]], target: Target, count: int) -> list[bytes]:
    """The canonical payloads: the fields in the order of their columns' names."""
    payloads: list[dict[str, object]] = [{} for _ in range(count)]
    spelled = {name: target.plan.by_folded_name.get(name.lower()) for name in texts}
    named = sorted((column.name, name) for name, column in spelled.items() if column is not None)
    for column_name, name in named:
        hashed = {text: _hashed(value) for text, value in distinct[name].items()}
        for payload, text in zip(payloads, texts[name], strict=True):
            if text is not None:
                payload[column_name] = hashed[text]
    return [target.plan.encode(payload) for payload in payloads]


def _keys(
    texts: Texts, distinct: Mapping[str, Mapping[str, object]], target: Target, problems: _Problems
) -> list[str | None]:
    bound = target.bound.key
    name = next((n for n in texts if bound is not None and n.lower() == bound.name.lower()), None)
    if name is None:
        return []
    keys: dict[str, str] = {}
    for text, value in distinct[name].items():
        keys[text] = value if isinstance(value, str) else _as_json(value)
        try:
            check_key(keys[text])
        except ValueRefused as refused:
            problems.where(texts[name], {text: value}, name, str(refused))
    return [None if text is None else keys[text] for text in texts[name]]


def _event_span(arrays: Mapping[str, pa.Array], target: Target, problems: _Problems) -> tuple[int, int] | None:
    column = target.bound.event_time
    if column is None or problems.count:
        return None
    array = arrays[column.name]
    values = (array.cast(pa.int64()) if pa.types.is_timestamp(array.type) else array).to_pylist()
    micros: list[int] = []
    for row, value in enumerate(values):
        try:
            if value is not None:
                micros.append(event_micros(value, column))
        except ValueRefused as refused:
            problems.add(row, column.name, str(refused))
    return (min(micros), max(micros)) if micros else None
