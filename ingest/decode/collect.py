"""What a request's batches come to: an envelope, the hashes that recognise a retry, and the records that repeat one."""

from collections.abc import Sequence
from datetime import timedelta

import pyarrow as pa

from catalog.schema import Column
from duckmesh.kernel.errors import Invalid
from ingest.decode import hashing
from ingest.decode.batch import HASH_BYTES, DecodedBatch, DecodeLimits
from ingest.decode.envelope import EnvelopeWriter
from ingest.decode.plan import LONGEST_KEY
from ingest.decode.refusals import shown
from ingest.decode.spool import Spool
from ingest.decode.times import moment
from ingest.errors import IdempotencyConflict, PayloadTooLarge


class Collector:
    """Takes the batches of one request in their order."""

    def __init__(self, *, limits: DecodeLimits, request_key: str | None) -> None:
        if request_key is not None and not 1 <= len(request_key) <= LONGEST_KEY:
            raise Invalid(f"Idempotency-Key must be 1 to {LONGEST_KEY} characters long, not {len(request_key)}")
        self._limits = limits
        self._request_key = request_key
        self._spool = Spool(limits.spool)
        self._envelope = EnvelopeWriter(self._spool)
        self._count = 0
        self._ordinals: list[int] = []
        self._key_hashes: list[bytes] = []
        self._contents = bytearray()
        self._positions: dict[bytes, int] = {}
        self._excluded: list[int] = []
        self._span: tuple[int, int] | None = None

    def add(
        self,
        batch: pa.RecordBatch,
        *,
        keys: Sequence[str | None] = (),
        contents: bytes = b"",
        event_span: tuple[int, int] | None = None,
    ) -> None:
        """Append the batch. `contents` are the payload hashes, concatenated, of those records that have a key.

        `keys` is empty if none has one. `event_span` is in microseconds since 1970. Raises `IdempotencyConflict` for
        a key with two contents, `PayloadTooLarge` beyond the limit of records with keys.
        """
        self._envelope.write(batch)
        if keys:
            self._add_keys(keys, contents)
        self._count += batch.num_rows
        if event_span is not None:
            low, high = self._span or event_span
            self._span = (min(low, event_span[0]), max(high, event_span[1]))

    def close(self) -> None:
        """The request was refused: what was collected is gone."""
        self._spool.close()

    def finish(
        self,
        *,
        request_hash: bytes | None,
        wait_for_visibility: bool,
        visibility_timeout_ms: int | None,
        growth: tuple[Column, ...] | None = None,
    ) -> DecodedBatch:
        """All that was added. `request_hash` is of what the request says, and None without a request key."""
        return DecodedBatch(
            payload=self._spool,
            record_count=self._count,
            growth=growth,
            key_ordinals=self._ordinals,
            key_hashes=b"".join(self._key_hashes),
            payload_hashes=bytes(self._contents),
            excluded=self._excluded,
            request_key_hash=None if self._request_key is None else hashing.request_key_hash(self._request_key),
            request_hash=None if self._request_key is None else request_hash,
            min_event_time=moment(self._span[0]) if self._span else None,
            max_event_time=moment(self._span[1]) if self._span else None,
            wait_for_visibility=wait_for_visibility,
            visibility_timeout=visibility_timeout(visibility_timeout_ms, self._limits),
        )

    def _add_keys(self, keys: Sequence[str | None], contents: bytes) -> None:
        present = [key for key in keys if key is not None]
        ordinals: Sequence[int] = range(self._count, self._count + len(keys))
        if len(present) < len(keys):
            ordinals = [ordinal for ordinal, key in zip(ordinals, keys, strict=True) if key is not None]
        hashes = hashing.record_key_hashes(present)
        distinct = set(hashes)
        if len(distinct) < len(hashes) or not distinct.isdisjoint(self._seen()):
            ordinals, hashes, contents = self._without_repeats(present, ordinals, hashes, contents)
        self._ordinals += ordinals
        self._key_hashes += hashes
        self._contents += contents
        if len(self._ordinals) > self._limits.max_keyed_records:
            raise PayloadTooLarge(
                f"A request has at most {self._limits.max_keyed_records} records with keys of their own;"
                " send it in parts, or with one Idempotency-Key",
                limit=self._limits.max_keyed_records,
            )

    def _seen(self) -> dict[bytes, int]:
        """The positions of the keys taken so far. Most requests are of one batch, and nobody asks."""
        for position in range(len(self._positions), len(self._key_hashes)):
            self._positions[self._key_hashes[position]] = position
        return self._positions

    def _without_repeats(
        self, keys: Sequence[str], ordinals: Sequence[int], hashes: Sequence[bytes], contents: bytes
    ) -> tuple[list[int], list[bytes], bytes]:
        """Those that are new; the ordinals of the others are excluded."""
        earlier = {key: (self._ordinals[at], _content(self._contents, at)) for key, at in self._seen().items()}
        new: list[tuple[int, bytes, bytes]] = []
        for position, (key, ordinal, key_hash) in enumerate(zip(keys, ordinals, hashes, strict=True)):
            content = _content(contents, position)
            first = earlier.setdefault(key_hash, (ordinal, content))
            if first[0] == ordinal:
                new.append((ordinal, key_hash, content))
            elif first[1] == content:
                self._excluded.append(ordinal)
            else:
                raise IdempotencyConflict(
                    f"Records {first[0]} and {ordinal} have the same idempotency_key and different contents",
                    idempotency_key=shown(key),
                    index=ordinal,
                )
        return [o for o, _, _ in new], [h for _, h, _ in new], b"".join(c for _, _, c in new)


def _content(contents: bytes | bytearray, position: int) -> bytes:
    return bytes(contents[position * HASH_BYTES : (position + 1) * HASH_BYTES])


def visibility_timeout(milliseconds: int | None, limits: DecodeLimits) -> timedelta:
    """How long the request waits: what it asks for, or the default. Raises `Invalid` beyond what it may ask for."""
    if milliseconds is None:
        return limits.default_visibility_timeout
    longest = limits.max_visibility_timeout // timedelta(milliseconds=1)
    if not 0 <= milliseconds <= longest:
        raise Invalid(f"visibility_timeout_ms must be between 0 and {longest}")
    return timedelta(milliseconds=milliseconds)
