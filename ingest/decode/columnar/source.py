"""Arrow streams and Parquet files as batches, one at a time, each valid in itself before anybody computes with it."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import chain
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from duckmesh.kernel.errors import Invalid
from ingest.decode.columnar.messages import DICTIONARY, messages
from ingest.decode.columnar.pages import RowGroup, row_groups
from ingest.decode.columnar.size import Budget
from ingest.decode.columnar.types import plain_type, storage_type
from ingest.decode.refusals import Refusals, shown
from ingest.decode.spool import Spool
from ingest.errors import InvalidRecord, PayloadTooLarge

MOST_HELD = 192 * 2**20
"""Bytes of one batch, or of one column of a row group in which values may be shared, held to read it."""

MOST_ROWS = 122_880
_BATCH_BYTES = 32 * 2**20
_LEVELS = 8  # bytes that Parquet's reader holds beside each value
_STREAM, _FILE = "an Arrow stream", "a Parquet file"


@dataclass(frozen=True, kw_only=True)
class Source:
    """The columns of a body, and its batches, which can be taken once."""

    schema: pa.Schema
    batches: Iterator[pa.RecordBatch]


def open_arrow(body: Spool, budget: Budget) -> Source:
    """The body as an Arrow stream; `Invalid` if it is none, `PayloadTooLarge` if a batch of it is too large."""
    with body.open() as source:
        dictionaries = 0
        for message in messages(source):
            budget.spend(message.held_bytes)
            dictionaries += message.held_bytes if message.kind == DICTIONARY else 0
            _demand_room(message.held_bytes + dictionaries, "record batches")
    with _named(_STREAM):
        reader = pa.ipc.open_stream(_opened(body), options=pa.ipc.IpcReadOptions(use_threads=False))
        _demand_names(reader.schema)
    return Source(schema=reader.schema, batches=_valid(reader, _STREAM))


def open_parquet(body: Spool, budget: Budget) -> Source:
    """The body as a Parquet file; `Invalid` if it is none, `PayloadTooLarge` if reading it would take too much."""
    with body.open() as source:
        parts = [_plan_reading(group, budget) for group in row_groups(source)]
    shared = sorted(set().union(*(part.shared for part in parts)))
    with _named(_FILE):
        file = pq.ParquetFile(_opened(body), read_dictionary=shared, pre_buffer=False)
        schema = file.schema_arrow
        _demand_names(schema)
    # One row group after the other: a batch of two has two dictionaries, which the reader refuses within lists.
    batches = chain.from_iterable(
        file.iter_batches(part.rows, row_groups=[group], use_threads=False) for group, part in enumerate(parts)
    )
    return Source(schema=schema, batches=_valid(batches, _FILE))


# `Any`: pyarrow is not typed.
def _opened(body: Spool) -> Any:
    return pa.BufferReader(body.getvalue()) if body.path is None else pa.OSFile(str(body.path))


@dataclass(frozen=True, kw_only=True)
class _Reading:
    """How many rows of a row group to read at once, and which of its columns as the dictionaries they are stored as."""

    rows: int
    shared: frozenset[str]


def _plan_reading(group: RowGroup, budget: Budget) -> _Reading:
    shared: set[str] = set()
    most_rows, row_bytes = MOST_ROWS, 1.0
    for chunk in group.chunks:
        held = chunk.plain_bytes + chunk.values * (_LEVELS + chunk.leaf.width)
        budget.spend(held)
        _demand_room(chunk.largest_page, "pages")
        if chunk.leaf.is_repeated:  # one row may have all of the values
            _demand_room(held, "row groups")
        row_bytes += held / max(1, group.rows)
        if chunk.has_prefixes:
            most_rows = min(most_rows, MOST_HELD // max(1, chunk.largest_page) or 1)
        elif chunk.has_dictionary and chunk.leaf.is_text:
            shared.add(chunk.leaf.path)
    return _Reading(rows=min(most_rows, int(_BATCH_BYTES / row_bytes) or 1), shared=frozenset(shared))


def _demand_names(schema: pa.Schema) -> None:
    """Raise `UnicodeDecodeError` if a name in the schema is none."""
    fields = list(schema)
    while fields:
        field = fields.pop()
        assert field.name is not None
        type_ = storage_type(plain_type(field.type))
        fields += [type_.field(position) for position in range(type_.num_fields)]


def _valid(batches: Any, what: str) -> Iterator[pa.RecordBatch]:
    iterator = iter(batches)
    first_row = 0
    while True:
        with _named(what):
            if (batch := next(iterator, None)) is None:
                return
            batch.validate()
        for field, column in zip(batch.schema, batch.columns, strict=True):
            try:
                column.validate(full=True)
            except pa.ArrowException:
                raise _broken(field.name, column, first_row) from None
        yield batch
        first_row += batch.num_rows


def _broken(name: str, column: pa.Array, first_row: int) -> InvalidRecord:
    """The error that names values which are not what their type says; the row too, where that can be found."""
    refusals = Refusals()
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        values = column.view(pa.binary() if pa.types.is_string(column.type) else pa.large_binary())
        with suppress(pa.ArrowException):
            values.validate(full=True)
            for row, value in enumerate(values):
                if refusals.full:
                    break
                try:
                    str(value.as_buffer() or b"", "utf-8")
                except UnicodeDecodeError:
                    refusals.add(index=first_row + row, column=name, reason="holds bytes that are not UTF-8")
    if not refusals.count:
        reason = f"holds bytes that are no {shown(str(column.type))}, in this row or a later one"
        refusals.add(index=first_row, column=name, reason=reason)
    return refusals.error()


def _demand_room(size: int, what: str) -> None:
    if size > MOST_HELD:
        raise PayloadTooLarge(
            f"The body has {what} of more than {MOST_HELD} bytes; write smaller ones", limit=MOST_HELD
        )


@contextmanager
def _named(what: str) -> Iterator[None]:
    """Whatever goes wrong while bytes of others are read is theirs, unless the machine is at fault."""
    try:
        yield
    except OSError as error:
        if error.errno is not None:
            raise
        raise _damaged(what) from error
    except (pa.ArrowException, ValueError, OverflowError, LookupError, EOFError, MemoryError) as error:
        raise _damaged(what) from error


def _damaged(what: str) -> Invalid:
    return Invalid(f"The body is not {what}, or it is damaged or cut off")
