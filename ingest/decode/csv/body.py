"""CSV: a header line that names columns, then a payload a record. Every text becomes what JSON would have said."""

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, BinaryIO

import pyarrow as pa
from pyarrow import csv

from catalog.schema import TableShape, name_problem
from duckmesh.kernel.errors import Invalid
from ingest.decode.batch import OP_DELETE, DecodedBatch, DecodeLimits
from ingest.decode.csv.growth import GrowingCells, growing_rows
from ingest.decode.csv.text import Block, Record, blocks, is_well_quoted, records
from ingest.decode.csv.values import FLOATS, cell_value, column_values, number_list
from ingest.decode.exact import RowReader
from ingest.decode.fast import Columns, may_hold_tiny_numbers
from ingest.decode.growth import why_no_column
from ingest.decode.options import BodyOptions
from ingest.decode.plan import PlannedColumn, TablePlan
from ingest.decode.refusals import Doubt, Refusals
from ingest.decode.rows import Rows
from ingest.decode.spool import Spool
from ingest.decode.streamed import Target, decode_streamed, with_options

MEDIA_TYPE = "text/csv"
Header = Sequence[PlannedColumn]


def decode_csv(
    body: Spool, *, shape: TableShape, options: BodyOptions, limits: DecodeLimits, request_key: str | None
) -> DecodedBatch:
    """The records as one request; InvalidRecord names those that are refused, by their index and line."""
    return decode_streamed(
        body,
        media_type=MEDIA_TYPE,
        shape=shape,
        options=options,
        limits=limits,
        request_key=request_key,
        read=_read,
    )


def _read(source: BinaryIO, target: Target, refusals: Refusals) -> Iterator[Rows]:
    reader: CsvReader | None = None
    for block in blocks(source, longest=target.max_line_bytes):
        records_only = block
        if reader is None:
            first = next(records(block), None)
            if first is None:
                continue
            reader = CsvReader(_header(first, target, refusals), target, refusals)
            records_only = _behind(block, first)
        yield from reader.rows(records_only)
        if reader.ended:
            return


class CsvReader:
    """Turns block after block of records into rows, for the columns that the header names.

    `names` are the columns' as the table spells them, where it has them already.
    """

    def __init__(self, names: Sequence[str], target: Target, refusals: Refusals) -> None:
        self._names = names
        self._target = target
        self._refusals = refusals
        self._index = 0
        self.ended = refusals.count > 0
        fixed = not (self.ended or target.shape.grows)
        self._header = [target.plan.by_folded_name[name.lower()] for name in names] if fixed else []

    def rows(self, block: Block) -> Iterator[Rows]:
        """The rows of the block, a bounded number at a time; none any more once the refusals name a problem."""
        if self.ended:
            return
        done = 0
        if not self._refusals.count:
            try:
                table = self._table(block)
                while done < table.num_rows:
                    rows = self._fast(table.slice(done, self._target.most_rows))
                    yield rows
                    done += len(rows.ops)
                self._index += done
                return
            except Doubt:
                self._index += done
        yield from self._exact(islice(records(block), done, None))

    def _table(self, block: Block) -> pa.Table:
        """The fields of the records as texts; Doubt unless it is certain that these are the fields."""
        data = block.data
        if len(data) > self._target.max_line_bytes or b"\0" in data or not is_well_quoted(data):
            raise Doubt
        if not data.endswith(b"\n"):  # or Arrow takes an empty last field for a quoted one behind a quoted one
            data += b"\n"
        try:
            return csv.read_csv(
                pa.BufferReader(data),
                read_options=csv.ReadOptions(use_threads=False, column_names=self._names, block_size=len(data) + 1),
                parse_options=csv.ParseOptions(newlines_in_values=True),
                convert_options=csv.ConvertOptions(
                    column_types=pa.schema([(name, pa.string()) for name in self._names]),
                    null_values=[""],
                    strings_can_be_null=True,
                    quoted_strings_can_be_null=False,
                ),
            )
        except pa.ArrowException:
            raise Doubt from None

    def _fast(self, table: pa.Table) -> Rows:
        plan, op, count = self._target.plan, self._target.bound.op, table.num_rows
        if self._target.shape.grows:
            return growing_rows({name: table.column(name).to_pylist() for name in self._names}, count, self._target)
        if not plan.columns:
            raise Doubt
        values: dict[str, Sequence[Any]] = {}  # `Any`: of the types of the columns
        numbers: list[str] = []
        for column in self._header:
            texts = table.column(column.name).to_pylist()
            values[column.name] = column_values(texts, column)
            if column.leaf in FLOATS:
                numbers.append(number_list(texts))
        nulls = [None] * count
        by_column = [values.get(column.name, nulls) for column in plan.sorted_columns]
        payloads = [_payload(plan, row) for row in zip(*by_column, strict=True)] if self._target.hash_all else []
        columns = Columns(plan, payloads, deletes=[True] * count if op == OP_DELETE else None)
        arrays = columns.build(by_column, clean=self._target.hash_all)
        if columns.zero_seen and any(may_hold_tiny_numbers(text.encode()) for text in numbers):
            raise Doubt
        rows = Rows(
            arrays=[arrays[column.name] for column in plan.columns],
            ops=[op] * count,
            payloads=list(map(plan.encode, payloads)),
        )
        return with_options(rows, self._target)

    def _exact(self, remaining: Iterator[Record]) -> Iterator[Rows]:
        cells, count = self._cells(), 0
        for record in remaining:
            if (reason := self._problem(record)) is None:
                cells.add(self._index, record.fields, record.line)
            else:
                self._refusals.add(index=self._index, line=record.line, column=None, reason=reason)
            self._index += 1
            count += 1
            self.ended = self._refusals.full or record.problem is not None
            if self.ended:
                return
            if count == self._target.most_rows:
                if (rows := cells.rows()) is not None:
                    yield rows
                cells, count = self._cells(), 0
        if count and (rows := cells.rows()) is not None:
            yield rows
        self.ended = self._refusals.full

    def _cells(self) -> "_Cells | GrowingCells":
        if self._target.shape.grows:
            return GrowingCells(self._names, self._target, self._refusals)
        return _Cells(self._header, self._target, self._refusals)

    def _problem(self, record: Record) -> str | None:
        longest = self._target.max_line_bytes
        if record.problem is not None:
            return record.problem
        if record.size_bytes > longest:
            return f"the record is longer than {longest} bytes"
        if len(record.fields) != len(self._names):
            return f"the record has {len(record.fields)} fields, and the header {len(self._names)}"
        return None


class _Cells:
    """Takes the fields of records one by one, for columns that are what they are."""

    def __init__(self, header: Header, target: Target, refusals: Refusals) -> None:
        self._header = header
        self._bound = target.bound
        self._refusals = refusals
        self._reader = RowReader(target.plan, refusals)

    def add(self, index: int, fields: Sequence[str | None], line: int) -> None:
        """Take the record, or name all that is wrong with it."""
        cells = zip(self._header, fields, strict=True)
        payload = {column.name: cell_value(text, column) for column, text in cells}
        self._reader.add_payload(index, payload, line=line, bound=self._bound)

    def rows(self) -> Rows | None:
        """All that was taken; None if the refusals name a problem."""
        return None if self._refusals.count else self._reader.rows()


def _payload(plan: TablePlan, row: Sequence[object]) -> object:
    return plan.payload(**{c.attribute: value for c, value in zip(plan.sorted_columns, row, strict=True)})


def _header(first: Record, target: Target, refusals: Refusals) -> list[str]:
    """The names of the header's columns, unless the refusals say what is wrong with them."""
    if first.problem is not None:
        raise Invalid(f"The header line {first.problem}")
    names: dict[str, str] = {}
    for given in first.fields:
        name = given or ""
        column = target.plan.by_folded_name.get(name.lower())
        reason = None
        if name.lower() in names:
            spelled = names[name.lower()]
            reason = f"the header gives the column {spelled} a second time (names compare without case)"
        elif column is None and not target.shape.grows:
            reason = "unknown field in the header"
        elif column is None and name_problem(name) is not None:
            reason = why_no_column(name)
        if reason is not None:
            refusals.add(index=0, line=first.line, column=name, reason=reason)
        names[name.lower()] = name if column is None else column.name
    return list(names.values())


def _behind(block: Block, record: Record) -> Block:
    head = block.data.decode("utf-8", "surrogateescape")[: record.end].encode("utf-8", "surrogateescape")
    return Block(data=block.data[len(head) :], line=block.line + head.count(b"\n"))
