"""Hashes that recognise a retry: of keys, of payloads, of whole requests. BLAKE2b, 128 bits."""

from collections.abc import Iterable, Sequence
from hashlib import blake2b

import msgspec

from ingest.decode.batch import HASH_BYTES, OP_DELETE
from ingest.decode.spool import Spool

# Record keys and request keys share one registry, so equal texts must not meet there.
_RECORD_KEY = b"dm-record-key"
_REQUEST_KEY = b"dm-request-key"
_DELETE = b"delete"
_CHUNK = 2**20


def record_key_hashes(keys: Iterable[str]) -> list[bytes]:
    """The hashes of the records' keys."""
    return [blake2b(k.encode(), digest_size=HASH_BYTES, person=_RECORD_KEY).digest() for k in keys]


def request_key_hash(key: str) -> bytes:
    """The hash of a request's key."""
    return blake2b(key.encode(), digest_size=HASH_BYTES, person=_REQUEST_KEY).digest()


def payload_hash(payload: bytes, op: int) -> bytes:
    """The hash of a canonical payload and what is done with it: on a keyed table, an insert is an upsert."""
    return blake2b(_DELETE + payload if op == OP_DELETE else payload, digest_size=HASH_BYTES).digest()


def payload_hashes(payloads: Sequence[bytes], ops: Sequence[int]) -> bytes:
    """The hashes of canonical payloads, concatenated."""
    if OP_DELETE not in ops:
        return b"".join([blake2b(payload, digest_size=HASH_BYTES).digest() for payload in payloads])
    return b"".join([payload_hash(payload, op) for payload, op in zip(payloads, ops, strict=True)])


def body_hash(body: Spool, *, media_type: str, op: int, key_column: str | None, event_time_column: str | None) -> bytes:
    """The hash of a request whose body is anything but JSON: of what it does and of its bytes, as they came."""
    hasher = blake2b(msgspec.json.encode((media_type, op, key_column, event_time_column)), digest_size=HASH_BYTES)
    with body.open() as source:
        while chunk := source.read(_CHUNK):
            hasher.update(chunk)
    return hasher.digest()


def request_hash(
    *, payloads: Sequence[bytes], ops: Sequence[int], keys: Sequence[str | None], event_times: Sequence[str | None]
) -> bytes:
    """The hash of all that a request writes, whatever its white space, its order of fields and its wish to wait."""
    hasher = blake2b(msgspec.json.encode((ops, keys, event_times)), digest_size=HASH_BYTES)
    for payload in payloads:
        hasher.update(b"\n")  # which canonical JSON does not hold, so that payloads cannot run into each other
        hasher.update(payload)
    return hasher.digest()
