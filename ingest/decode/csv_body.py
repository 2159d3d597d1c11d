"""CSV: a header line that names columns, then a payload a record. Every text becomes what JSON would have said."""

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, BinaryIO

import pyarrow as pa
from pyarrow import csv

from catalog.schema import TableShape
from duckmesh.kernel.errors import Invalid
from ingest.decode.batch import OP_DELETE, DecodedBatch, DecodeLimits
from ingest.decode.csv_text import Block, Record, blocks, is_well_quoted, records
from ingest.decode.csv_values import FLOATS, cell_value, column_values, number_list
from ingest.decode.exact import RowReader
from ingest.decode.fast import Columns, may_hold_tiny_numbers
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
            reader = CsvReader(_header(first, target.plan, refusals), target, refusals)
            records_only = _behind(block, first)
        yield from reader.rows(records_only)
        if reader.ended:
            return


class CsvReader:
    """Turns block after block of records into rows, for the columns that the header names."""

    def __init__(self, header: Header, target: Target, refusals: Refusals) -> None:
        self._header = header
        self._target = target
        self._refusals = refusals
        self._index = 0
        self.ended = refusals.count > 0

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
                read_options=csv.ReadOptions(
                    use_threads=False, column_names=[c.name for c in self._header], block_size=len(data) + 1
                ),
                parse_options=csv.ParseOptions(newlines_in_values=True),
                convert_options=csv.ConvertOptions(
                    column_types=pa.schema([(column.name, pa.string()) for column in self._header]),
                    null_values=[""],
                    strings_can_be_null=True,
                    quoted_strings_can_be_null=False,
                ),
            )
        except pa.ArrowException:
            raise Doubt from None

    def _fast(self, table: pa.Table) -> Rows:
        plan, op, count = self._target.plan, self._target.bound.op, table.num_rows
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
        reader = RowReader(self._target.plan, self._refusals)
        count = 0
        for record in remaining:
            self._add(reader, record)
            self._index += 1
            count += 1
            self.ended = self._refusals.full or record.problem is not None
            if self.ended:
                return
            if count == self._target.most_rows and not self._refusals.count:
                yield reader.rows()
                reader, count = RowReader(self._target.plan, self._refusals), 0
        if count and not self._refusals.count:
            yield reader.rows()

    def _add(self, reader: RowReader, record: Record) -> None:
        longest = self._target.max_line_bytes
        reason = None
        if record.problem is not None:
            reason = record.problem
        elif record.size_bytes > longest:
            reason = f"the record is longer than {longest} bytes"
        elif len(record.fields) != len(self._header):
            reason = f"the record has {len(record.fields)} fields, and the header {len(self._header)}"
        if reason is not None:
            self._refusals.add(index=self._index, line=record.line, column=None, reason=reason)
            return
        cells = zip(self._header, record.fields, strict=True)
        payload = {column.name: cell_value(text, column) for column, text in cells}
        reader.add_payload(self._index, payload, line=record.line, bound=self._target.bound)


def _payload(plan: TablePlan, row: Sequence[object]) -> object:
    return plan.payload(**{c.attribute: value for c, value in zip(plan.sorted_columns, row, strict=True)})


def _header(first: Record, plan: TablePlan, refusals: Refusals) -> Header:
    """The columns that the header names, unless the refusals say what is wrong with it."""
    if first.problem is not None:
        raise Invalid(f"The header line {first.problem}")
    columns: list[PlannedColumn] = []
    for name in first.fields:
        column = plan.by_folded_name.get((name or "").lower())
        if column is None:
            refusals.add(index=0, line=first.line, column=name or "", reason="unknown field in the header")
        elif column in columns:
            reason = f"the header gives the column {column.name} a second time (names compare without case)"
            refusals.add(index=0, line=first.line, column=name, reason=reason)
        else:
            columns.append(column)
    return columns


def _behind(block: Block, record: Record) -> Block:
    head = block.data.decode("utf-8", "surrogateescape")[: record.end].encode("utf-8", "surrogateescape")
    return Block(data=block.data[len(head) :], line=block.line + head.count(b"\n"))
