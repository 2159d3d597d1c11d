"""What a decoded request is: its records as an envelope and the proofs that make a retry recognisable."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from catalog.schema import MAX_COLUMNS, Column
from ingest.decode.spool import Spool, SpoolPolicy

OP_UPSERT = 0
"""The row is inserted, or on a keyed table takes the place of what its key had."""

OP_DELETE = 1
"""On a keyed table: the key's row is gone."""

HASH_BYTES = 16


@dataclass(frozen=True, kw_only=True)
class DecodeLimits:
    """How much one request may hold and how long it may ask to wait.

    `max_decoded_bytes` is of what Arrow and Parquet bodies come to when their values are taken out of their packing.
    """

    max_records: int
    max_visibility_timeout: timedelta
    spool: SpoolPolicy
    max_keyed_records: int = 250_000
    max_columns: int = MAX_COLUMNS
    max_line_bytes: int = 16 * 2**20
    max_decoded_bytes: int = 2**30
    default_visibility_timeout: timedelta = timedelta(seconds=5)


@dataclass(frozen=True, kw_only=True)
class DecodedBatch:
    """All records of one valid request, in their order.

    `payload` is an envelope, which whoever decoded closes. Its batches have the table's columns in their order, as
    they are, or as `growth` says they must become, and `_duckmesh_op` at the end if the table is keyed. Hashes are
    concatenated, `HASH_BYTES` each, in the order of `key_ordinals`: the records that carry a key, where a key's
    first record only is named; the later ones are in `excluded`.
    """

    payload: Spool
    record_count: int
    growth: tuple[Column, ...] | None
    key_ordinals: Sequence[int]
    key_hashes: bytes
    payload_hashes: bytes
    excluded: list[int]
    request_key_hash: bytes | None
    request_hash: bytes | None
    min_event_time: datetime | None
    max_event_time: datetime | None
    wait_for_visibility: bool
    visibility_timeout: timedelta
