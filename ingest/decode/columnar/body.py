"""Arrow streams and Parquet files: columns of other types to the table's own, exactly or not at all."""

from collections.abc import Callable, Iterator

import pyarrow as pa

from catalog.schema import TableShape
from duckmesh.kernel.errors import Invalid
from ingest.decode.batch import DecodedBatch, DecodeLimits
from ingest.decode.collect import Collector, visibility_timeout
from ingest.decode.columnar.frames import Frames
from ingest.decode.columnar.growth import BroughtColumns
from ingest.decode.columnar.rows import RowReader, match_columns
from ingest.decode.columnar.size import Budget, decoded_bytes
from ingest.decode.columnar.source import MOST_ROWS, Source, open_arrow, open_parquet
from ingest.decode.columnar.types import logical_type_of
from ingest.decode.options import BodyOptions, BoundOptions, bind_options, require_columns
from ingest.decode.plan import TablePlan, plan_of
from ingest.decode.refusals import Refusals
from ingest.decode.spool import Spool
from ingest.decode.streamed import body_hash_of

__all__ = ["ARROW_TYPE", "PARQUET_TYPE", "decode_arrow", "decode_parquet", "logical_type_of"]

ARROW_TYPE = "application/vnd.apache.arrow.stream"
PARQUET_TYPE = "application/vnd.apache.parquet"
_SLICE_BYTES = 32 * 2**20

Open = Callable[[Spool, Budget], Source]


def decode_arrow(
    body: Spool, *, shape: TableShape, options: BodyOptions, limits: DecodeLimits, request_key: str | None
) -> DecodedBatch:
    """The rows of an Arrow IPC stream as one request; InvalidRecord names the rows and columns that are refused."""
    return _decode(body, ARROW_TYPE, open_arrow, shape=shape, options=options, limits=limits, request_key=request_key)


def decode_parquet(
    body: Spool, *, shape: TableShape, options: BodyOptions, limits: DecodeLimits, request_key: str | None
) -> DecodedBatch:
    """The rows of a Parquet file as one request; InvalidRecord names the rows and columns that are refused."""
    return _decode(
        body, PARQUET_TYPE, open_parquet, shape=shape, options=options, limits=limits, request_key=request_key
    )


def _decode(
    body: Spool,
    media_type: str,
    open_: Open,
    *,
    shape: TableShape,
    options: BodyOptions,
    limits: DecodeLimits,
    request_key: str | None,
) -> DecodedBatch:
    visibility_timeout(options.visibility_timeout_ms, limits)  # before a long body is decoded in vain
    bind_options(options, shape)
    collector = Collector(limits=limits, request_key=request_key)
    try:
        # Once for what the body says of itself, before it is read, and once for what its values come to.
        source = open_(body, Budget(limits.max_decoded_bytes))
        if not source.schema.names:
            raise Invalid("The body has no columns")
        refusals = Refusals()
        brought = BroughtColumns(shape, source.schema, max_columns=limits.max_columns, refusals=refusals)
        bound = bind_options(options, brought.shape)
        _collect(source, brought, bound, Frames(collector), refusals, Budget(limits.max_decoded_bytes))
        require_columns(options, brought.grown)
        return collector.finish(
            request_hash=None if request_key is None else body_hash_of(body, media_type, bound),
            wait_for_visibility=options.wait_for_visibility,
            visibility_timeout_ms=options.visibility_timeout_ms,
            growth=None if brought.grown is shape else brought.grown.schema.columns,
        )
    except BaseException:
        collector.close()
        raise


def _collect(
    source: Source, brought: BroughtColumns, bound: BoundOptions, frames: Frames, refusals: Refusals, budget: Budget
) -> None:
    if refusals.count:
        raise refusals.error()
    plan = plan_of(brought.shape)
    reader = RowReader(plan, bound, match_columns(source.schema, plan, bound, refusals), refusals)
    if not refusals.count:
        for batch in _slices(source, budget, row_bytes=_row_bytes(plan)):
            if (rows := reader.read(batch)) is not None:
                brought.see(rows.batch)
                frames.add(rows)
            if refusals.full:
                break
    if refusals.count:
        raise refusals.error()
    if not reader.count:
        raise Invalid("The body holds no records: send at least one")
    frames.flush()


def _slices(source: Source, budget: Budget, *, row_bytes: int) -> Iterator[pa.RecordBatch]:
    """The batches that hold any rows, none of them longer than is good for a frame."""
    for batch in source.batches:
        if batch.num_rows:
            size = max(sum(map(decoded_bytes, batch.columns)), batch.num_rows * row_bytes)
            budget.spend(size)
            yield from _cut(batch, size)


def _cut(batch: pa.RecordBatch, size: int) -> Iterator[pa.RecordBatch]:
    most = min(MOST_ROWS, max(1, batch.num_rows * _SLICE_BYTES // max(1, size)))
    if batch.num_rows <= most:
        yield batch
        return
    for start in range(0, batch.num_rows, most):
        part = batch.slice(start, most)
        yield from _cut(part, sum(map(decoded_bytes, part.columns)))


def _row_bytes(plan: TablePlan) -> int:
    """What a row takes at least when all of its values are null."""
    return sum(column.arrow.bit_width // 8 if _has_width(column.arrow) else 4 for column in plan.columns)


def _has_width(type_: pa.DataType) -> bool:
    return bool(pa.types.is_primitive(type_) or pa.types.is_decimal(type_))
