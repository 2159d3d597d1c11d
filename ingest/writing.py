"""The rows of a claim in data files, durable in the store, which no snapshot names yet.

A table's rows become one file, or one for each partition, unless there is more of them than a slice: what is larger
lies in the scratch directory, by partition, before it is written slice by slice.
"""

import tempfile
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import pyarrow as pa

from catalog.partitions import Part, PartitionField, group_rows, partition_fields, spelled, split
from catalog.publish import NewFile
from catalog.tables import TableInfo
from duckmesh.kernel.clock import now
from duckmesh.kernel.errors import JSON, Corrupt
from ingest.bus import Claim, Envelope
from ingest.rows import Payloads, Slice, cut, read_slices
from storage.columns import TOKEN_COLUMN, TOKEN_FIELD_ID
from storage.keys import data_file_key
from storage.parquet import CONTENT_HASH_ALGORITHM, WrittenFile, write_parquet
from storage.store import ObjectStore

_PUTS_AT_ONCE = 4


@dataclass(frozen=True, kw_only=True)
class WritePolicy:
    """Where files are written before they are put, how many rows are in memory at once, and how many files a table may
    get of one claim because of its partitions."""

    scratch: Path
    slice_bytes: int
    max_partitions: int


def write_files(
    claim: Claim, *, tables: Mapping[int, TableInfo], store: ObjectStore, policy: WritePolicy
) -> list[NewFile]:
    """The files of the claim's rows; a table that is not among `tables` is gone, and its rows with it."""
    by_table: dict[int, list[Envelope]] = defaultdict(list)
    for envelope in claim.envelopes:
        by_table[envelope.table_id].append(envelope)
    policy.scratch.mkdir(parents=True, exist_ok=True)
    files: list[NewFile] = []
    with (
        tempfile.TemporaryDirectory(dir=policy.scratch, prefix="claim-") as directory,
        _putting(store) as puts,
    ):
        for table_id, envelopes in by_table.items():
            if table_id in tables:
                place = _Place(claim=claim, table=tables[table_id], directory=Path(directory), first_seq=len(files))
                files += _write_table(place, envelopes, store=store, puts=puts, policy=policy)
    return files


@dataclass(frozen=True, kw_only=True)
class _Place:
    """What the files of one table in one claim have in common."""

    claim: Claim
    table: TableInfo
    directory: Path
    first_seq: int


def _write_table(
    place: _Place, envelopes: Sequence[Envelope], *, store: ObjectStore, puts: "_Puts", policy: WritePolicy
) -> list[NewFile]:
    table = place.table
    payloads = Payloads(store=store, directory=place.directory)
    slices = read_slices(table, envelopes, payloads=payloads, slice_bytes=policy.slice_bytes)
    fields = partition_fields(table.partition_spec, schema=table.schema)
    parts = (
        _divided(slices, fields, directory=place.directory, policy=policy)
        if fields
        else (Part(values={}, rows=slice_.rows) for slice_ in slices)
    )
    files = [
        _write_file(place, part, seq=seq, envelopes=envelopes, puts=puts)
        for seq, part in enumerate(parts, start=place.first_seq)
    ]
    if sum(file.row_count for file in files) != sum(envelope.record_count for envelope in envelopes):
        raise Corrupt("The files of a claim do not hold as many rows as it has records")
    return files


def _write_file(place: _Place, part: Part, *, seq: int, envelopes: Sequence[Envelope], puts: "_Puts") -> NewFile:
    table = place.table
    path = place.directory / f"{seq}.parquet"
    # Rows that are equal in these columns stay in the order of their tokens.
    order = (*table.sort_cols, TOKEN_COLUMN) if table.sort_cols else ()
    written = write_parquet(part.rows, path, sort_by=order)
    key = data_file_key(
        tenant_id=place.claim.tenant_id,
        table_name=table.name,
        at=now(),
        snapshot_or_epoch=place.claim.epoch,
        seq=seq,
        partition=part.values,
    )
    puts.put(key, path)
    first, last = _tokens(written)
    begins, ends = _event_times(envelopes, first, last)
    return NewFile(
        table_id=table.table_id,
        path=key,
        row_count=written.row_count,
        size_bytes=written.size_bytes,
        sha256=written.sha256,
        content_algorithm=CONTENT_HASH_ALGORITHM,
        content_hash=written.content_hash,
        schema_version=table.schema.version,
        column_stats={
            str(column.field_id): {"min": column.min, "max": column.max, "null_count": column.null_count}
            for column in written.columns
        },
        partition_values=part.values,
        min_token=first,
        max_token=last,
        min_event_time=begins,
        max_event_time=ends,
    )


def _tokens(written: WrittenFile) -> tuple[int, int]:
    (column,) = (column for column in written.columns if column.field_id == TOKEN_FIELD_ID)
    assert isinstance(column.min, int)
    assert isinstance(column.max, int)
    return column.min, column.max


def _event_times(envelopes: Iterable[Envelope], first: int, last: int) -> tuple[datetime | None, datetime | None]:
    """Bounds of the event times of the rows with these tokens, as close as their envelopes tell."""
    touched = [envelope for envelope in envelopes if envelope.first_token <= last and envelope.last_token >= first]
    begins = (envelope.min_event_time for envelope in touched if envelope.min_event_time)
    ends = (envelope.max_event_time for envelope in touched if envelope.max_event_time)
    return min(begins, default=None), max(ends, default=None)


def _divided(
    slices: Iterable[Slice], fields: Sequence[PartitionField], *, directory: Path, policy: WritePolicy
) -> Iterator[Part]:
    """The rows by partition; each in one part, unless it is larger than a slice."""
    with ExitStack() as stack:
        lanes = _Lanes(directory=directory, most=policy.max_partitions, stack=stack)
        for slice_ in slices:
            if slice_.last and not lanes:
                yield from split(slice_.rows, fields, most=policy.max_partitions)
            else:
                lanes.add(slice_.rows, fields)
        yield from lanes.parts(policy.slice_bytes)


class _Lanes:
    """Partitions of more rows than are held in memory: a file of Arrow's in the scratch directory for each.

    The partitions that have the most rows when the first slice is full have files of their own, and those that come
    later while there is room; the others share one.
    """

    def __init__(self, *, directory: Path, most: int, stack: ExitStack) -> None:
        self._directory = directory
        self._most = most
        self._stack = stack
        self._lanes: dict[str, tuple[Mapping[str, JSON], Path, pa.ipc.RecordBatchStreamWriter]] = {}

    def __bool__(self) -> bool:
        return bool(self._lanes)

    def add(self, rows: pa.Table, fields: Sequence[PartitionField]) -> None:
        """The rows are in the files of their partitions."""
        grouping = group_rows(rows, fields)
        names = {group: spelled(grouping.values(group)) for group in grouping.largest(len(grouping.sizes))}
        kept = [group for group, name in names.items() if name in self._lanes]
        room = self._most - 1 - sum(1 for values, _, _ in self._lanes.values() if values)
        kept += [group for group, name in names.items() if name not in self._lanes][:room]
        for part in grouping.parts(kept):
            self._writer(part, rows.schema).write_table(part.rows)

    def parts(self, slice_bytes: int) -> Iterator[Part]:
        """Everything that was added, by partition; the files are gone then."""
        for values, path, writer in self._lanes.values():
            writer.close()
            with pa.OSFile(str(path)) as file, pa.ipc.open_stream(file) as reader:
                for slice_ in cut((pa.Table.from_batches([batch]) for batch in reader), slice_bytes):
                    yield Part(values=values, rows=slice_.rows)
            path.unlink()

    def _writer(self, part: Part, schema: pa.Schema) -> pa.ipc.RecordBatchStreamWriter:
        name = spelled(part.values)
        if name not in self._lanes:
            path = self._directory / f"lane-{len(self._lanes)}.arrow"
            options = pa.ipc.IpcWriteOptions(compression="lz4", use_threads=False)
            file = self._stack.enter_context(pa.OSFile(str(path), "wb"))
            writer = self._stack.enter_context(pa.ipc.new_stream(file, schema, options=options))
            self._lanes[name] = (part.values, path, writer)
        return self._lanes[name][2]


class _Puts:
    """Puts files into the store, several at once. The first waits until it is known whether there is a second."""

    def __init__(self, store: ObjectStore, stack: ExitStack) -> None:
        self._store = store
        self._stack = stack
        self._first: tuple[str, Path] | None = None
        self._pool: ThreadPoolExecutor | None = None
        self._under_way: list[Future[object]] = []

    def put(self, key: str, path: Path) -> None:
        """The file will be in the store when `finish` returns. Raises what an earlier one raised."""
        if self._pool is None and self._first is None:
            self._first = (key, path)
            return
        if self._pool is None:
            self._pool = self._stack.enter_context(ThreadPoolExecutor(_PUTS_AT_ONCE, thread_name_prefix="put"))
        for one in (self._first, (key, path)):
            if one is not None:
                self._under_way.append(self._pool.submit(self._store.put_file, *one))
        self._first = None
        if len(self._under_way) >= 2 * _PUTS_AT_ONCE:
            self._under_way.pop(0).result()

    def finish(self) -> None:
        """All the files are in the store."""
        if self._first is not None:
            self._store.put_file(*self._first)
        for one in self._under_way:
            one.result()


@contextmanager
def _putting(store: ObjectStore) -> Iterator[_Puts]:
    """Files can be put; when the block ends well they are in the store, and in any case no put is under way."""
    with ExitStack() as stack:
        puts = _Puts(store, stack)
        yield puts
        puts.finish()
