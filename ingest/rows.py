"""Envelopes as rows of their table: the kept ones in token order, in the table's present schema, a bit at a time.

An envelope is read frame by frame. What is held is one slice of rows and the frame that fills it, however large the
claim or one envelope of it is.
"""

import io
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa

from catalog.schema import arrow_schema
from catalog.tables import TableInfo
from duckmesh.kernel.errors import Corrupt
from ingest.bus import Envelope
from ingest.decode.envelope import read_envelope
from storage.columns import FIELD_ID_KEY, TOKEN_COLUMN, TOKEN_FIELD_ID, TYPE_KEY
from storage.errors import ObjectNotFound
from storage.parquet import conform
from storage.store import ObjectStore

_TOKEN = pa.field(TOKEN_COLUMN, pa.int64(), metadata={FIELD_ID_KEY: b"%d" % TOKEN_FIELD_ID, TYPE_KEY: b"int64"})
_FEW_ROWS = 2_048


@dataclass(frozen=True, kw_only=True)
class Slice:
    """Rows that are in memory together; whether they are certainly the `last` there are."""

    rows: pa.Table
    last: bool


@dataclass(frozen=True, kw_only=True)
class Payloads:
    """Where the payloads of envelopes come from: their rows, or the store by way of `directory`."""

    store: ObjectStore
    directory: Path

    @contextmanager
    def opened(self, envelope: Envelope) -> Iterator[BinaryIO]:
        """The envelope's bytes. Raises `Corrupt` if the store has none under their name."""
        if envelope.staged_path is None:
            yield io.BytesIO(envelope.payload)
            return
        path = self.directory / f"envelope-{envelope.event_id}"
        try:
            self.store.fetch(envelope.staged_path, path)
        except ObjectNotFound as exc:
            raise Corrupt("The object that holds an envelope's rows is gone", key=envelope.staged_path) from exc
        try:
            with path.open("rb") as file:
                yield file
        finally:
            path.unlink(missing_ok=True)


def read_slices(
    table: TableInfo, envelopes: Sequence[Envelope], *, payloads: Payloads, slice_bytes: int
) -> Iterator[Slice]:
    """The kept rows of the envelopes with their tokens, each slice of at most about `slice_bytes` of Arrow's memory."""
    schema = arrow_schema(table.schema, keyed=bool(table.primary_key_cols)).append(_TOKEN)
    batches = (batch for envelope in envelopes for batch in _kept(envelope, payloads))
    alike = (conform(rows, schema) for rows in _alike(batches, slice_bytes))
    return cut(alike, slice_bytes)


def cut(tables: Iterable[pa.Table], slice_bytes: int) -> Iterator[Slice]:
    """The rows of tables of one schema, in their order, in slices of at most about `slice_bytes`."""
    held: list[pa.Table] = []
    size = 0
    for table in tables:
        held.append(table)
        size += table.nbytes
        if size >= slice_bytes:
            rows, held = _joined(held), []
            step = -(-rows.num_rows // -(-size // slice_bytes))
            for start in range(0, rows.num_rows, step):
                yield Slice(rows=rows.slice(start, step), last=False)
            size = 0
            del rows
    if held:
        yield Slice(rows=_joined(held), last=True)


def _joined(tables: Sequence[pa.Table]) -> pa.Table:
    rows = pa.concat_tables(tables)
    # What follows takes its time for each chunk.
    return rows.combine_chunks() if rows.column(0).num_chunks > 1 + rows.num_rows // _FEW_ROWS else rows


def _alike(batches: Iterable[pa.RecordBatch], slice_bytes: int) -> Iterator[pa.Table]:
    """Batches that follow each other and have the same columns, together: conforming them costs the same as one."""
    held: list[pa.RecordBatch] = []
    size = 0
    for batch in batches:
        if held and (size >= slice_bytes or not held[0].schema.equals(batch.schema, check_metadata=True)):
            yield pa.Table.from_batches(held)
            held, size = [], 0
        held.append(batch)
        size += batch.nbytes
    if held:
        yield pa.Table.from_batches(held)


def _kept(envelope: Envelope, payloads: Payloads) -> Iterator[pa.RecordBatch]:
    """The rows of the envelope that are no duplicates, each with its token: the first one, and its rank among them."""
    excluded = sorted(envelope.excluded)
    place, token = 0, envelope.first_token
    with payloads.opened(envelope) as file:
        for frame in read_envelope(file):
            batch = _without(frame, excluded, place)
            place += frame.num_rows
            if batch.num_rows:
                following = token + batch.num_rows
                yield batch.append_column(_TOKEN, pa.arange(token, following))
                token = following
    if place != envelope.record_count + len(excluded) or token != envelope.last_token + 1:
        raise Corrupt(f"An envelope holds {place} rows and should hold {envelope.record_count + len(excluded)}")


def _without(frame: pa.RecordBatch, excluded: Sequence[int], first: int) -> pa.RecordBatch:
    """The rows of a frame whose ordinals, counted from `first`, are not excluded."""
    here = excluded[bisect_left(excluded, first) : bisect_left(excluded, first + frame.num_rows)]
    if not here:
        return frame
    kept = [True] * frame.num_rows
    for ordinal in here:
        kept[ordinal - first] = False
    return frame.filter(pa.array(kept))
