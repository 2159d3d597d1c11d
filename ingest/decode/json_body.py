"""JSON bodies: `{"records": […]}` to a `DecodedBatch`, or one error that names all that is wrong."""

from collections.abc import Sequence
from datetime import timedelta

import pyarrow as pa

from catalog.schema import TableSchema
from duckmesh.kernel.errors import Invalid
from ingest.decode import hashing
from ingest.decode.batch import HASH_BYTES, DecodedBatch, DecodeLimits
from ingest.decode.exact import decode_exact
from ingest.decode.fast import decode_fast
from ingest.decode.plan import LONGEST_KEY, TablePlan, plan_for
from ingest.decode.refusals import Doubt, shown
from ingest.decode.rows import Rows
from ingest.decode.times import moment
from ingest.errors import IdempotencyConflict


def decode_json(
    body: bytes,
    *,
    schema: TableSchema,
    primary_key: tuple[str, ...],
    limits: DecodeLimits,
    request_key: str | None,
) -> DecodedBatch:
    """The request as one typed batch: all of its records, or an error and none of them."""
    if request_key is not None and not 1 <= len(request_key) <= LONGEST_KEY:
        raise Invalid(f"Idempotency-Key must be 1 to {LONGEST_KEY} characters long, not {len(request_key)}")
    plan = plan_for(schema, primary_key)
    try:
        rows = decode_fast(body, plan, max_records=limits.max_records, hash_all=request_key is not None)
    except Doubt:
        rows = decode_exact(body, plan, max_records=limits.max_records)
    return assemble(rows, plan, limits=limits, request_key=request_key)


def assemble(rows: Rows, plan: TablePlan, *, limits: DecodeLimits, request_key: str | None) -> DecodedBatch:
    """The batch of these rows, with the hashes that a retry will be recognised by."""
    arrays = [*rows.arrays, pa.array(rows.ops, pa.int8())] if plan.keyed else rows.arrays
    ordinals, keys, hashes, excluded = _keyed(rows)
    return DecodedBatch(
        batch=pa.RecordBatch.from_arrays(arrays, schema=plan.arrow),
        record_count=len(rows.ops),
        key_ordinals=ordinals,
        key_hashes=hashing.record_key_hashes(keys),
        payload_hashes=hashes,
        keys=keys,
        excluded=excluded,
        request_key_hash=None if request_key is None else hashing.request_key_hash(request_key),
        request_hash=None
        if request_key is None
        else hashing.request_hash(payloads=rows.payloads, ops=rows.ops, keys=rows.keys, event_times=rows.event_times),
        min_event_time=moment(rows.event_span[0]) if rows.event_span else None,
        max_event_time=moment(rows.event_span[1]) if rows.event_span else None,
        wait_for_visibility=rows.wait_for_visibility,
        visibility_timeout=_timeout(rows.visibility_timeout_ms, limits),
    )


def _timeout(milliseconds: int | None, limits: DecodeLimits) -> timedelta:
    if milliseconds is None:
        return limits.default_visibility_timeout
    longest = limits.max_visibility_timeout // timedelta(milliseconds=1)
    if not 0 <= milliseconds <= longest:
        raise Invalid(f"visibility_timeout_ms must be between 0 and {longest}")
    return timedelta(milliseconds=milliseconds)


def _keyed(rows: Rows) -> tuple[Sequence[int], Sequence[str], bytes, list[int]]:
    """The ordinals, keys and payload hashes of the records with a key, and the ordinals that repeat one of them."""
    keys = [key for key in rows.keys if key is not None]
    if not keys:
        return [], [], b"", []
    if len(keys) == len(rows.keys):
        ordinals: Sequence[int] = range(len(keys))
        hashes = hashing.payload_hashes(rows.payloads, rows.ops)
    else:
        ordinals = [ordinal for ordinal, key in enumerate(rows.keys) if key is not None]
        hashes = hashing.payload_hashes([rows.payloads[i] for i in ordinals], [rows.ops[i] for i in ordinals])
    if len(set(keys)) == len(keys):
        return ordinals, keys, hashes, []
    return _without_repeats(ordinals, keys, hashes)


def _without_repeats(
    ordinals: Sequence[int], keys: list[str], hashes: bytes
) -> tuple[Sequence[int], Sequence[str], bytes, list[int]]:
    first: dict[str, tuple[int, bytes]] = {}
    excluded: list[int] = []
    for position, (ordinal, key) in enumerate(zip(ordinals, keys, strict=True)):
        content = hashes[position * HASH_BYTES : (position + 1) * HASH_BYTES]
        earlier = first.setdefault(key, (ordinal, content))
        if earlier[1] != content:
            raise IdempotencyConflict(
                f"Records {earlier[0]} and {ordinal} have the same idempotency_key and different contents",
                idempotency_key=shown(key),
                index=ordinal,
            )
        if earlier[0] != ordinal:
            excluded.append(ordinal)
    kept = list(first.values())
    return [ordinal for ordinal, _ in kept], list(first), b"".join(content for _, content in kept), excluded
