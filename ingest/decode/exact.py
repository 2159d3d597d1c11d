"""The exact way: record by record, value by value, so that every problem is named. Slower; used when in doubt."""

from collections.abc import Callable
from typing import TypeVar

import pyarrow as pa

from catalog.schema import Column
from duckmesh.kernel.errors import Invalid
from ingest.decode.batch import OP_DELETE, OP_UPSERT
from ingest.decode.growth import why_unknown
from ingest.decode.keys import check_key, event_micros, key_text
from ingest.decode.options import OPS, BoundOptions
from ingest.decode.plan import LONGEST_KEY, PlannedColumn, TablePlan
from ingest.decode.reading import Document, TooDeep
from ingest.decode.refusals import MAX_NAMED, Refusals, ValueRefused
from ingest.decode.rows import Rows
from ingest.decode.times import parse_timestamp
from ingest.decode.values import MAX_DEPTH, Converted, Repeated, describe, string
from ingest.errors import PayloadTooLarge

_MEMBERS = frozenset({"payload", "idempotency_key", "op", "event_time"})


def decode_exact(body: bytes, plan: TablePlan, *, max_records: int) -> Rows:
    """The rows of a valid body; InvalidRecord names what is wrong with its records, Invalid with the body itself."""
    document = Document(body)
    reader = RowReader(plan, Refusals())
    count = deep = 0
    for count, record in enumerate(document.records(), start=1):
        if count > max_records:
            raise PayloadTooLarge(f"A request has at most {max_records} records", limit=max_records)
        reader.add(count - 1, record)
        deep += isinstance(record, TooDeep)
        if deep == MAX_NAMED:  # stepping over them is the costliest way to be refused
            break
    wait = document.options.get("wait_for_visibility", False)
    if not isinstance(wait, bool):
        raise Invalid(f"wait_for_visibility must be true or false, not {describe(wait)}")
    timeout = document.options.get("visibility_timeout_ms")
    if "visibility_timeout_ms" in document.options and (not isinstance(timeout, int) or isinstance(timeout, bool)):
        raise Invalid("visibility_timeout_ms must be a whole number of milliseconds")
    if not count:
        raise Invalid("records is empty: send at least one")
    return reader.rows(wait_for_visibility=wait, visibility_timeout_ms=timeout if isinstance(timeout, int) else None)


class RowReader:
    """Takes records one at a time; keeps their values until the first problem, then only problems."""

    def __init__(self, plan: TablePlan, refusals: Refusals) -> None:
        self._plan = plan
        self._refusals = refusals
        self._values: dict[str, list[object]] = {column.name: [] for column in plan.columns}
        self._ops: list[int] = []
        self._keys: list[str | None] = []
        self._event_times: list[str | None] = []
        self._event_micros: list[int] = []
        self._payloads: list[bytes] = []

    def rows(self, *, wait_for_visibility: bool = False, visibility_timeout_ms: int | None = None) -> Rows:
        """All that was taken; InvalidRecord if anything was refused."""
        if self._refusals.count:
            raise self._refusals.error()
        micros = self._event_micros
        return Rows(
            arrays=[pa.array(self._values[column.name], column.arrow) for column in self._plan.columns],
            ops=self._ops,
            keys=self._keys,
            event_times=self._event_times,
            event_span=(min(micros), max(micros)) if micros else None,
            payloads=self._payloads,
            wait_for_visibility=wait_for_visibility,
            visibility_timeout_ms=visibility_timeout_ms,
        )

    def add(self, index: int, record: object) -> None:
        """Take the record, or name all that is wrong with it."""
        problems = Problems(self._refusals, index)
        if isinstance(record, TooDeep):
            problems.add(record.column, f"nests deeper than {MAX_DEPTH} levels")
            return
        if not isinstance(record, dict):
            problems.add(None, f"a record must be an object, not {describe(record)}")
            return
        if isinstance(record, Repeated):
            for name in sorted(record.repeated):
                problems.add(None, f"repeats the JSON key {name!r}")
        for name in sorted(record.keys() - _MEMBERS):
            problems.add(None, f"has the unknown member {name!r}")
        op = self._op(record, problems)
        key = _key(record, problems)
        event_time, micros = _event_time(record, problems)
        payload = self._payload(record, op, problems)
        if not self._refusals.count:
            self._keep(payload, op=op, key=key, event_time=event_time, micros=micros)

    def add_payload(self, index: int, payload: object, *, line: int, bound: BoundOptions) -> None:
        """Take a payload without a record around it, or name all that is wrong with it."""
        problems = Problems(self._refusals, index, line)
        if isinstance(payload, TooDeep):
            problems.add(payload.column, f"nests deeper than {MAX_DEPTH} levels")
            return
        if not isinstance(payload, dict):
            problems.add(None, f"a payload must be an object, not {describe(payload)}")
            return
        values = self._values_of(payload, bound.op, problems)
        key = _named(bound.key, values, _checked_key, problems)
        micros = _named(bound.event_time, values, event_micros, problems)
        if not self._refusals.count:
            self._keep(values, op=bound.op, key=key, event_time=None, micros=micros)

    def _keep(
        self, payload: dict[str, Converted], *, op: int, key: str | None, event_time: str | None, micros: int | None
    ) -> None:
        for column in self._plan.columns:
            self._values[column.name].append(payload[column.name][0] if column.name in payload else None)
        self._ops.append(op)
        self._keys.append(key)
        self._event_times.append(event_time)
        if micros is not None:
            self._event_micros.append(micros)
        canonical = {c.name: payload[c.name][1] for c in self._plan.sorted_columns if c.name in payload}
        self._payloads.append(self._plan.encode(canonical))

    def _op(self, record: dict[str, object], problems: "Problems") -> int:
        op = record.get("op", "insert")
        if not isinstance(op, str) or op not in OPS:
            problems.add(None, "op must be insert, upsert or delete")
            return OP_UPSERT
        if op != "insert" and not self._plan.keyed:
            problems.add(None, f"{op} needs a table with primary_key_cols, which this one does not have")
        return OPS[op]

    def _payload(self, record: dict[str, object], op: int, problems: "Problems") -> dict[str, Converted]:
        """The values by the names of their columns; nulls are left out."""
        payload = record.get("payload")
        if not isinstance(payload, dict):
            missing = "payload" not in record
            problems.add(None, "needs a payload" if missing else f"payload must be an object, not {describe(payload)}")
            return {}
        return self._values_of(payload, op, problems)

    def _values_of(self, payload: dict[str, object], op: int, problems: "Problems") -> dict[str, Converted]:
        before = self._refusals.count
        if isinstance(payload, Repeated):
            for name in sorted(payload.repeated):
                problems.add(name, "is a repeated JSON key")
        given: set[str] = set()
        converted: dict[str, Converted] = {}
        for name, value in payload.items():
            column = self._plan.by_folded_name.get(name.lower())
            if column is None:
                self._refuse_unknown(name, value, problems)
            elif column.name in given:
                problems.add(name, f"gives the column {column.name} a second time (names compare without case)")
            else:
                given.add(column.name)
                self._convert(column, value, op, problems, converted)
        for column in self._plan.columns:
            if column.name not in given and self._demanded(column, op):
                problems.add(column.name, "is missing and may not be null")
        if not self._plan.columns and self._refusals.count == before:
            problems.add(None, "the table has no columns yet, and no field of the request is one")
        return converted

    def _refuse_unknown(self, name: str, value: object, problems: "Problems") -> None:
        if not self._plan.grows:
            problems.add(name, "unknown field")
        elif (reason := why_unknown(name, value)) is not None:
            problems.add(name, reason)

    def _convert(
        self,
        column: PlannedColumn,
        value: object,
        op: int,
        problems: "Problems",
        converted: dict[str, Converted],
    ) -> None:
        if value is None:
            if self._demanded(column, op):
                problems.add(column.name, "may not be null")
            return
        try:
            if isinstance(value, ValueRefused):  # its text already was
                raise value
            converted[column.name] = column.convert(value)
        except ValueRefused as refused:
            problems.add(column.name, str(refused))

    def _demanded(self, column: PlannedColumn, op: int) -> bool:
        return column.in_key or not (column.nullable or op == OP_DELETE)


class Problems:
    """Where the problems of one record go."""

    def __init__(self, refusals: Refusals, index: int, line: int | None = None) -> None:
        self._refusals = refusals
        self._index = index
        self._line = line

    def add(self, column: str | None, reason: str) -> None:
        """Name a problem of a column, or of the record itself if `column` is None."""
        self._refusals.add(index=self._index, column=column, reason=reason, line=self._line)


T = TypeVar("T")


def _named(
    column: Column | None, values: dict[str, Converted], meaning: Callable[[object, Column], T], problems: Problems
) -> T | None:
    """What the value of a column that an option names means; None if no option does or there is no value."""
    if column is None or column.name not in values:
        return None
    try:
        return meaning(values[column.name][0], column)
    except ValueRefused as refused:
        problems.add(column.name, str(refused))
        return None


def _checked_key(value: object, column: Column) -> str:
    key = key_text(value, column)
    check_key(key)
    return key


def _key(record: dict[str, object], problems: Problems) -> str | None:
    value = record.get("idempotency_key")
    if value is None:
        return None
    try:
        key = string(value)
    except ValueRefused as refused:
        problems.add(None, f"idempotency_key {refused}")
        return None
    if not 1 <= len(key) <= LONGEST_KEY:
        problems.add(None, f"idempotency_key must be 1 to {LONGEST_KEY} characters long, not {len(key)}")
    return key


def _event_time(record: dict[str, object], problems: Problems) -> tuple[str | None, int | None]:
    value = record.get("event_time")
    if value is None:
        return None, None
    try:
        text = string(value)
        return text, parse_timestamp(text)
    except ValueRefused as refused:
        problems.add(None, f"event_time {refused}")
        return None, None
