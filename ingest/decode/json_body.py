"""JSON bodies: `{"records": […]}` to a `DecodedBatch`, or one error that names all that is wrong."""

from collections.abc import Iterator
from itertools import islice

import pyarrow as pa

from catalog.schema import TableShape
from ingest.decode import hashing
from ingest.decode.batch import DecodedBatch, DecodeLimits
from ingest.decode.collect import Collector
from ingest.decode.exact import decode_exact
from ingest.decode.fast import decode_fast
from ingest.decode.growth import decode_growing
from ingest.decode.plan import TablePlan, plan_of
from ingest.decode.reading import Document
from ingest.decode.rows import Rows


def decode_json(body: bytes, *, shape: TableShape, limits: DecodeLimits, request_key: str | None) -> DecodedBatch:
    """The request as one typed batch: all of its records, or an error and none of them."""
    collector = Collector(limits=limits, request_key=request_key)
    try:
        return _decode(body, shape=shape, limits=limits, collector=collector, hash_all=request_key is not None)
    except BaseException:
        collector.close()
        raise


def _decode(
    body: bytes, *, shape: TableShape, limits: DecodeLimits, collector: Collector, hash_all: bool
) -> DecodedBatch:
    rows, needed = decode_growing(
        shape,
        max_columns=limits.max_columns,
        fast=lambda plan: decode_fast(body, plan, max_records=limits.max_records, hash_all=hash_all),
        exact=lambda plan: decode_exact(body, plan, max_records=limits.max_records),
        payloads=lambda: _payloads(body, max_records=limits.max_records),
    )
    add_rows(collector, rows, plan_of(needed))
    request_hash = None
    if hash_all:
        request_hash = hashing.request_hash(
            payloads=rows.payloads, ops=rows.ops, keys=rows.keys, event_times=rows.event_times
        )
    return collector.finish(
        request_hash=request_hash,
        wait_for_visibility=rows.wait_for_visibility,
        visibility_timeout_ms=rows.visibility_timeout_ms,
        growth=None if needed is shape else needed.schema.columns,
    )


def _payloads(body: bytes, *, max_records: int) -> Iterator[object]:
    """The payloads of as many records as are decoded; what is wrong with the others is no payload's."""
    for record in islice(Document(body).records(), max_records):
        if isinstance(record, dict):
            yield record.get("payload")


def add_rows(collector: Collector, rows: Rows, plan: TablePlan) -> None:
    """The rows are the collector's next batch."""
    arrays = [*rows.arrays, pa.array(rows.ops, pa.int8())] if plan.keyed else rows.arrays
    collector.add(
        pa.RecordBatch.from_arrays(arrays, schema=plan.arrow),
        keys=rows.keys,
        contents=_contents(rows),
        event_span=rows.event_span,
    )


def _contents(rows: Rows) -> bytes:
    """The payload hashes of the records with a key."""
    nulls = rows.keys.count(None)
    if nulls == len(rows.keys):
        return b""
    if not nulls:
        return hashing.payload_hashes(rows.payloads, rows.ops)
    ordinals = [ordinal for ordinal, key in enumerate(rows.keys) if key is not None]
    return hashing.payload_hashes([rows.payloads[i] for i in ordinals], [rows.ops[i] for i in ordinals])
