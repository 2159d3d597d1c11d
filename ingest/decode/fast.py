"""The fast way: the whole body in one typed pass, then column by column, with no step per value in Python.

It accepts a body only if it is certain that the exact way would accept it too and answer the same; in every other
case, and for every error, it raises `Doubt` and the exact way decides.
"""

import re
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
from msgspec import UNSET

from ingest.decode.batch import OP_DELETE, OP_UPSERT
from ingest.decode.number_text import all_exact_in_float64, keeps_digits
from ingest.decode.numbers import FLOAT32_EXACT, FLOAT64_EXACT
from ingest.decode.plan import PlannedColumn, TablePlan
from ingest.decode.refusals import Doubt, ValueRefused
from ingest.decode.rows import Rows
from ingest.decode.spelling import spelled
from ingest.decode.times import date_array, event_span, timestamp_array
from ingest.decode.values import check_json

_WHITE_SPACE = b" \t\r\n"
_STRINGS = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"(:?)', re.DOTALL)
_TINY = re.compile(rb"[:,\[\s]-?[0-9.]+[eE]-[0-9]{3}")
# 16 digits or more, some of which may be zeros in front: quickly found where digits and points are all zeros, also
# within strings, and then told apart.
_DIGITS_AS_ZEROS = bytes(ord("0") if chr(byte) in "0123456789." else ord(" ") for byte in range(256))
_LONG = re.compile(rb"0000000000000000[0]*")
_EXPONENT_MARKS = frozenset(b"eE")
_EXPONENT = re.compile(rb"[eE][+-]?[0-9]+")
_LONG_NUMBER = re.compile(
    rb"(?<=[:,\[\s])-?(?=[0-9.]{16})(?:[0-9]+\.[0-9]+(?:[eE][+-]?[0-9]+)?|[0-9]+[eE][+-]?[0-9]+)(?=[\s,\]}])"
)
_SMALLEST_RECORD = len('{"payload":{}}')
_FEW = 40
_MIDDLING = 2.0**-100
_NUMBERS = frozenset({int, float})
_UUID = r"^[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}$"


def decode_fast(body: bytes, plan: TablePlan, *, max_records: int, hash_all: bool) -> Rows:
    """The rows of a body that is certainly valid; Doubt otherwise. `hash_all`: payloads without keys count too."""
    if not plan.columns or _may_hold_more_than(body, max_records):
        raise Doubt
    try:
        document = plan.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise Doubt from None
    if not 0 < len(document.records) <= max_records:
        raise Doubt
    payloads, keys, ops, event_times = zip(*map(msgspec.structs.astuple, document.records), strict=True)
    hashed = hash_all or any(key is not None and key is not UNSET for key in keys)
    deletes = [op == "delete" for op in ops] if plan.keyed and ops.count(UNSET) != len(ops) else []
    columns = Columns(plan, payloads, deletes=deletes if any(deletes) else None)
    arrays = columns.build(_by_column(payloads), clean=hashed)
    members = 1 + _present(document.wait_for_visibility, document.visibility_timeout_ms) + len(payloads)
    members += _present(*keys) + _present(*ops) + _present(*event_times)
    _prove_no_repeated_key(body, parsed=members + columns.keys_parsed)
    columns.prove_digits(body)
    times = _without_unset(event_times)
    return Rows(
        arrays=[arrays[column.name] for column in plan.columns],
        ops=[OP_DELETE if deleted else OP_UPSERT for deleted in deletes] or [OP_UPSERT] * len(payloads),
        keys=_without_unset(keys),
        event_times=times,
        event_span=event_span(times) if times.count(None) != len(times) else None,
        payloads=list(map(plan.encode, payloads)) if hashed else [],
        wait_for_visibility=document.wait_for_visibility is True,
        visibility_timeout_ms=None if document.visibility_timeout_ms is UNSET else document.visibility_timeout_ms,
    )


def decode_payloads(text: bytes, plan: TablePlan, *, count: int, op: int, hash_all: bool) -> Rows:
    """The rows of a JSON list of `count` payloads that is certainly valid; Doubt otherwise."""
    if not plan.columns:
        raise Doubt
    try:
        payloads = plan.decode_payloads(text)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise Doubt from None
    if len(payloads) != count:
        raise Doubt
    columns = Columns(plan, payloads, deletes=[True] * count if op == OP_DELETE else None)
    arrays = columns.build(_by_column(payloads), clean=hash_all)
    _prove_no_repeated_key(text, parsed=columns.keys_parsed)
    columns.prove_digits(text)
    return Rows(
        arrays=[arrays[column.name] for column in plan.columns],
        ops=[op] * count,
        payloads=list(map(plan.encode, payloads)) if hash_all else [],
    )


def _by_column(payloads: Sequence[Any]) -> Iterable[Sequence[Any]]:
    return zip(*map(msgspec.structs.astuple, payloads), strict=True)


class Columns:
    """The columns of the payloads on their way to Arrow, and what was seen on that way."""

    def __init__(self, plan: TablePlan, payloads: Sequence[Any], *, deletes: list[bool] | None) -> None:
        self._plan = plan
        self._payloads = payloads
        self._deletes = deletes
        self.keys_parsed = len(payloads) * len(plan.columns)
        self.zero_seen = False
        self._growing_floats: list[pa.Array] = []

    def build(self, values_by_column: Iterable[Sequence[Any]], *, clean: bool) -> dict[str, pa.Array]:
        """The arrays by name, of the payloads' values in the order of `sorted_columns`.

        `clean`: payloads become canonical, and nulls are taken out of them. Nothing else asks for payloads.
        """
        return {
            column.name: self._array(column, values, clean=clean)
            for column, values in zip(self._plan.sorted_columns, values_by_column, strict=True)
        }

    def prove_digits(self, text: bytes) -> None:
        """Doubt unless each number of the text is the one that was parsed."""
        if self.zero_seen and may_hold_tiny_numbers(text):
            raise Doubt
        if self._growing_floats and may_hold_long_numbers(text, self._growing_floats):
            raise Doubt

    def _array(self, column: PlannedColumn, values: Sequence[Any], *, clean: bool) -> pa.Array:
        unset = 0
        try:
            if column.by_value and (unset := values.count(UNSET)):
                values = _without_unset(values)
            array = self._convert(column, values, clean=clean)
        except (pa.ArrowException, OverflowError):
            # Arrow refuses UNSET, so looking for it costs nothing until a field is left out.
            if unset or not (unset := values.count(UNSET)):
                raise Doubt from None
            values = _without_unset(values)
            try:
                array = self._convert(column, values, clean=clean)
            except (pa.ArrowException, OverflowError):
                raise Doubt from None
        self.keys_parsed -= unset
        if array.null_count and not column.nullable:
            self._allow_nulls_in_deletes_only(column, values)
        if clean and array.null_count > unset:
            for payload, value in zip(self._payloads, values, strict=True):
                if value is None:
                    setattr(payload, column.attribute, UNSET)
        return array

    def _allow_nulls_in_deletes_only(self, column: PlannedColumn, values: Sequence[Any]) -> None:
        if self._deletes is None or column.in_key:
            raise Doubt
        if any(value is None and not deleted for value, deleted in zip(values, self._deletes, strict=True)):
            raise Doubt

    def _convert(self, column: PlannedColumn, values: Sequence[Any], *, clean: bool) -> pa.Array:
        if column.by_value:
            return self._one_by_one(column, values, clean=clean)
        array = self._typed(column, values)
        if self._plan.grows:
            self._prove_wide_enough(column, array)
        if clean:
            self._spell_alike(column, values, array)
        return array

    def _prove_wide_enough(self, column: PlannedColumn, array: pa.Array) -> None:
        """Doubt if a value of a growing table may need a wider column than it has."""
        match column.type.kind:
            case "int64" if not column.holds and not all_exact_in_float64(array):
                raise Doubt
            case "float32" if array.null_count < len(array):
                raise Doubt
            case "float64":
                self._growing_floats.append(array)

    def _spell_alike(self, column: PlannedColumn, values: Sequence[Any], array: pa.Array) -> None:
        """Payloads spell each value as the converters' canonical input does."""
        canonical = spelled(column, values, array, grows=self._plan.grows)
        if canonical is values:
            return
        for payload, value, one in zip(self._payloads, values, canonical, strict=True):
            if one is not value:
                setattr(payload, column.attribute, one)

    def _typed(self, column: PlannedColumn, values: Sequence[Any]) -> pa.Array:
        match column.leaf:
            case "float32" | "float64":
                return self._floats(column, values)
            case "date":
                return date_array(values)
            case "timestamp":
                return timestamp_array(values)
            case "uuid":
                return _uuids(values)
            case _:
                return pa.array(values, column.arrow)

    def _floats(self, column: PlannedColumn, values: Sequence[Any]) -> pa.Array:
        wide_type = _widened(column.arrow)
        array = pa.array(values, wide_type)
        if _all_of_middling_size(values):
            return array.cast(column.arrow, safe=False)
        wide = _leaves(array)
        bounds = pc.min_max(wide)
        low, high = bounds["min"].as_py(), bounds["max"].as_py()
        if low is None:
            return array.cast(column.arrow)
        if max(-low, high) >= FLOAT64_EXACT:
            raise Doubt
        zero = pc.equal(wide, 0.0)
        self.zero_seen = self.zero_seen or pc.any(zero).as_py()
        if column.leaf == "float64":
            return array
        narrow = wide.cast(pa.float32(), safe=False)
        if not pc.equal(narrow, pa.scalar(0.0, pa.float32())).equals(zero):
            raise Doubt
        if max(-low, high) >= FLOAT32_EXACT:
            kept = pc.or_(pc.less(pc.abs(wide), float(FLOAT32_EXACT)), pc.equal(narrow.cast(pa.float64()), wide))
            if not pc.all(kept).as_py():
                raise Doubt
        return array.cast(column.arrow, safe=False)

    def _one_by_one(self, column: PlannedColumn, values: Sequence[Any], *, clean: bool) -> pa.Array:
        converted: list[object] = []
        for position, value in enumerate(values):
            if value is None:
                converted.append(None)
                continue
            try:
                result, canonical = column.convert(value)
                if column.leaf == "json":
                    self.keys_parsed += check_json(value)
            except ValueRefused:
                raise Doubt from None
            converted.append(result)
            if clean and canonical is not value:
                setattr(self._payloads[position], column.attribute, canonical)
        return pa.array(converted, column.arrow)


def _may_hold_more_than(body: bytes, max_records: int) -> bool:
    """Whether parsing the body at once could fill the memory with more records than are allowed."""
    return len(body) > max_records * _SMALLEST_RECORD and body.count(b'"payload"') > max_records


def _prove_no_repeated_key(body: bytes, *, parsed: int) -> None:
    """Doubt unless the body holds exactly as many object keys as were parsed: repeated keys are parsed once.

    Without white space every key ends in `":`, so counting that finds all keys. A string may hold an escaped quote
    before a colon and be counted too; only then the strings are told apart from what lies between them.
    """
    compact = body.translate(None, _WHITE_SPACE)
    if compact.count(b'":') != parsed and _STRINGS.findall(compact).count(b":") != parsed:
        raise Doubt


def may_hold_tiny_numbers(body: bytes) -> bool:
    """Whether a zero among the floats may have been written as a number too near to zero for a float."""
    if b"0" * 200 in body:
        return True
    return (b"e-" in body or b"E-" in body) and _TINY.search(body) is not None


def may_hold_long_numbers(body: bytes, floats: Iterable[pa.Array]) -> bool:
    """Whether one of the floats may have been written with more digits than a float64 keeps."""
    # A number is not the last of a JSON document.
    found = [match.span() for match in _LONG.finditer(body.translate(_DIGITS_AS_ZEROS)) if match.end() < len(body)]
    if not found:
        return False
    shortest = {text for array in floats for text in msgspec.json.encode(pc.abs(array).to_pylist())[1:-1].split(b",")}
    texts = {body[a:b] if body[b] not in _EXPONENT_MARKS else _with_exponent(body, a, b) for a, b in found}
    if texts <= shortest or all(text.isdigit() for text in texts - shortest):
        return False
    return not all(keeps_digits(text.decode()) for text in _LONG_NUMBER.findall(body))


def _with_exponent(body: bytes, start: int, end: int) -> bytes:
    exponent = _EXPONENT.match(body, end)
    return body[start : exponent.end() if exponent else end]


def _present(*values: object) -> int:
    return len(values) - values.count(UNSET)


def _without_unset(values: Sequence[Any]) -> tuple[Any, ...]:
    return tuple([None if value is UNSET else value for value in values])


def _uuids(texts: Sequence[str | None]) -> pa.Array:
    array = pa.array(texts, pa.string())
    if pc.all(pc.match_substring_regex(array, _UUID)).as_py() is False:
        raise Doubt
    return pc.ascii_lower(array)


def _all_of_middling_size(values: Sequence[Any]) -> bool:
    """Whether all are numbers of which either float type keeps what JSON says of them; quick for a few values."""
    return len(values) <= _FEW and all(
        value is None or (type(value) in _NUMBERS and _MIDDLING <= abs(value) < FLOAT32_EXACT) for value in values
    )


def _widened(type_: pa.DataType) -> pa.DataType:
    return pa.list_(_widened(type_.value_type)) if pa.types.is_list(type_) else pa.float64()


def _leaves(array: pa.Array) -> pa.Array:
    while pa.types.is_list(array.type):
        array = array.flatten()
    return array
