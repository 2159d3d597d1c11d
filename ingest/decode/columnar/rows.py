"""Columns of a body to those of a table: matched by name, converted, every problem named by row and column."""

from dataclasses import dataclass

import pyarrow as pa

from ingest.decode import hashing
from ingest.decode.batch import OP_DELETE
from ingest.decode.columnar.frames import DecodedRows
from ingest.decode.columnar.nested import converted
from ingest.decode.columnar.problems import Problems
from ingest.decode.columnar.texts import payload_texts
from ingest.decode.columnar.types import check_readable
from ingest.decode.keys import all_keys_fit, check_key, event_micros, key_texts, span_of
from ingest.decode.options import BoundOptions
from ingest.decode.plan import PlannedColumn, TablePlan
from ingest.decode.refusals import Refusals, ValueRefused


@dataclass(frozen=True, kw_only=True)
class Matched:
    """A column of the table, and its place in the body; None if the body does not have it."""

    column: PlannedColumn
    position: int | None


def match_columns(schema: pa.Schema, plan: TablePlan, bound: BoundOptions, refusals: Refusals) -> list[Matched]:
    """The table's columns in their order; what is wrong with the body's columns as such is refused of its first row."""
    positions: dict[str, int] = {}
    for position, field in enumerate(schema):
        column = plan.by_folded_name.get(field.name.lower())
        if column is None:
            if not (plan.grows and pa.types.is_null(field.type)):
                refusals.add(index=0, column=field.name, reason="unknown field")
        elif column.name in positions:
            reason = f"gives the column {column.name} a second time (names compare without case)"
            refusals.add(index=0, column=field.name, reason=reason)
        else:
            positions[column.name] = position
            try:
                check_readable(field.type)
            except ValueRefused as refused:
                refusals.add(index=0, column=column.name, reason=str(refused))
    for column in plan.columns:
        if column.name not in positions and _demanded(column, bound.op):
            refusals.add(index=0, column=column.name, reason="is missing and may not be null")
    return [Matched(column=column, position=positions.get(column.name)) for column in plan.columns]


def _demanded(column: PlannedColumn, op: int) -> bool:
    return column.in_key or not (column.nullable or op == OP_DELETE)


class RowReader:
    """Converts batch after batch of one body; keeps nothing but how many rows there were."""

    def __init__(self, plan: TablePlan, bound: BoundOptions, columns: list[Matched], refusals: Refusals) -> None:
        self._plan = plan
        self._bound = bound
        self._columns = columns
        self._refusals = refusals
        self._found: list[tuple[int, str, str]] = []
        self.count = 0

    def read(self, batch: pa.RecordBatch) -> DecodedRows | None:
        """The rows of a valid batch; None if the refusals name a problem, in these or in earlier ones."""
        self._found = []
        more = 0
        arrays: dict[str, pa.Array] = {}
        for matched in self._columns:
            problems = Problems()
            arrays[matched.column.name] = self._array(batch, matched, problems)
            self._found += [(row, matched.column.name, reason) for row, reason in problems.named]
            more += problems.count - len(problems.named)
        rows = None if self._found or self._refusals.count else self._rows(arrays, batch.num_rows)
        for row, name, reason in sorted(self._found, key=lambda problem: problem[0]):
            self._refusals.add(index=self.count + row, column=name, reason=reason)
        self._refusals.count += more
        self.count += batch.num_rows
        return None if self._refusals.count else rows

    def _array(self, batch: pa.RecordBatch, matched: Matched, problems: Problems) -> pa.Array:
        column = matched.column
        if matched.position is None:
            return pa.nulls(batch.num_rows, column.arrow)
        try:
            array = converted(batch.column(matched.position), column.type, problems)
        except ValueRefused as refused:
            problems.add(0, str(refused))
            return None
        if not problems.count and array.null_count and _demanded(column, self._bound.op):
            problems.where(array.is_null(), "may not be null")
        return array

    def _rows(self, arrays: dict[str, pa.Array], count: int) -> DecodedRows:
        keys: list[str | None] = []
        contents = b""
        if key := self._bound.key:
            keys = key_texts(arrays[key.name], key)
            if not all_keys_fit(keys):
                self._name_keys(keys, key.name)
            contents = self._contents(arrays, keys)
        columns = [arrays[column.name] for column in self._plan.columns]
        if self._plan.keyed:
            columns.append(pa.repeat(pa.scalar(self._bound.op, pa.int8()), count))
        return DecodedRows(
            batch=pa.RecordBatch.from_arrays(columns, schema=self._plan.arrow),
            keys=keys,
            contents=contents,
            event_span=self._span(arrays),
        )

    def _contents(self, arrays: dict[str, pa.Array], keys: list[str | None]) -> bytes:
        payloads = payload_texts([(c.name, c.type, arrays[c.name]) for c in self._plan.sorted_columns])
        if None in keys:
            payloads = [payload for payload, key in zip(payloads, keys, strict=True) if key is not None]
        return hashing.payload_hashes(payloads, [self._bound.op] * len(payloads))

    def _name_keys(self, keys: list[str | None], column: str) -> None:
        for row, key in enumerate(keys):
            try:
                check_key("-" if key is None else key)
            except ValueRefused as refused:
                self._found.append((row, column, str(refused)))

    def _span(self, arrays: dict[str, pa.Array]) -> tuple[int, int] | None:
        column = self._bound.event_time
        if column is None:
            return None
        try:
            return span_of(arrays[column.name], column)
        except ValueRefused:
            pass
        for row, value in enumerate(arrays[column.name].to_pylist()):
            try:
                if value is not None:
                    event_micros(value, column)
            except ValueRefused as refused:
                self._found.append((row, column.name, str(refused)))
        return None
