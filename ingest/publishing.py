"""The statements that make decoded requests durable, and what their ends mean.

Every one is, or is in, one short transaction. An error that the server reports has undone it; a connection that broke
may have been committing.
"""

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any, Self

import psycopg2
from django.db import DatabaseError, InterfaceError, InternalError, OperationalError, connection, transaction

from catalog.errors import PublishConflict
from catalog.growth import grow_table
from catalog.limits import Limits
from catalog.publish import IDLE_LIMIT
from catalog.schema import Column
from catalog.tables import TableInfo
from duckmesh.kernel.config import Config
from duckmesh.kernel.errors import JSON, OutcomeUnknown, Unavailable
from ingest.decode.batch import DecodedBatch
from ingest.errors import Backpressure, IdempotencyConflict, QuotaExceeded, RateLimited

_REFUSED = "DM001"
_IN_THE_WAY = ("40P01", "40001")  # deadlock, serialization failure
_NULL, _NO_PARENT = "23502", "23503"
_QUOTA_RETRY = 60


class Stale(Exception):
    """The tables are not what the request was decoded under."""


class Again(Exception):
    """Another transaction was in the way, or the connection was gone; nothing was done."""


@dataclass(frozen=True, kw_only=True)
class WriteLimits(Limits):
    """What writes are held to where the tenant's own row says nothing else. `burst` belongs to the two rates."""

    burst: timedelta = timedelta(seconds=2)

    @classmethod
    def of(cls, config: Config) -> Self:
        return cls(**asdict(Limits.of(config)), burst=config.rate_burst)

    @property
    def arguments(self) -> list[Any]:
        """The last two arguments of the functions that publish."""
        most = (
            self.max_pending_records,
            self.max_records_per_second,
            self.max_bytes_per_second,
            self.max_stored_bytes,
            self.max_stored_files,
        )
        return [int_array(most), self.burst.total_seconds()]


@dataclass(frozen=True, kw_only=True)
class Rate:
    """A tenant's rate in one unit, and how many seconds of it are owed for what was written."""

    unit: str
    per_second: int
    owed: float


@dataclass(frozen=True, kw_only=True)
class Publication:
    """A decoded request and the tables it was decoded under. Its envelope is in `payload`, or staged in the store."""

    tenant_id: str
    table: TableInfo
    ddl_version: int
    batch: DecodedBatch
    payload: bytes
    staged_id: int | None
    size_bytes: int


@dataclass(frozen=True, kw_only=True)
class Published:
    """What became of it. `first` and `last` are tokens, of the first request if this one is a replay of it."""

    outcome: str
    first: int
    last: int
    duplicates: int
    covering: int
    rates: tuple[Rate, ...]


_RATES = """extract(epoch FROM records_paid_at - clock_timestamp())::float8,
       extract(epoch FROM bytes_paid_at - clock_timestamp())::float8, records_rate, bytes_rate"""

_ONE = f"""
SELECT outcome, first, last, coalesce(array_length(duplicates, 1), 0), covering, {_RATES}
  FROM duckmesh_publish(%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
"""

_GROUP = f"""
SELECT firsts, {_RATES}
  FROM duckmesh_publish_group(%s, %s, %s, %s, %s, %s, %s, %s, %s::uuid[], %s::uuid[], %s::timestamptz[],
                              %s::timestamptz[], %s, %s, %s, %s)
"""

_KEYS = """
SELECT event, duplicates, covering, replayed
  FROM nextval(pg_get_serial_sequence('ingest_event', 'event_id')) event,
       duckmesh_take_keys(%s, event, %s, %s, %s, %s, %s)
"""

_APPEND = f"""
SELECT first, last, {_RATES} FROM duckmesh_append(%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
"""


def publish_one(publication: Publication, *, limits: WriteLimits) -> Published:
    """The request is durable, or known. Raises `Stale`, `Again`, or what its sender is to be told."""
    table, batch = publication.table, publication.batch
    arguments = [
        publication.tenant_id,
        table.table_id,
        publication.ddl_version,
        table.schema.version,
        *_key_arguments(batch)[:3],
        batch.record_count,
        int_array(batch.excluded),
        *_key_arguments(batch)[3:],
        batch.min_event_time,
        batch.max_event_time,
        *_payload_arguments(publication),
        *limits.arguments,
    ]
    with _told(), connection.cursor() as cursor:
        cursor.execute(_ONE, arguments)
        outcome, first, last, duplicates, covering, *rates = cursor.fetchone()
    return Published(
        outcome=outcome,
        first=first or 0,
        last=last or 0,
        duplicates=duplicates,
        covering=covering or 0,
        rates=_rates(*rates),
    )


def publish_group(publications: Sequence[Publication], *, limits: WriteLimits) -> list[Published]:
    """The requests, of one tenant and decoded under one version of its tables, are durable; or none of them is.

    Raises as `publish_one`; also when one of their keys is known, or together they are more than the tenant may write.
    """
    batches = [publication.batch for publication in publications]
    counts = [batch.record_count for batch in batches]
    arguments = [
        publications[0].tenant_id,
        publications[0].ddl_version,
        int_array(publication.table.table_id for publication in publications),
        int_array(publication.table.schema.version for publication in publications),
        int_array(counts),
        int_array(len(batch.key_ordinals) for batch in batches),
        psycopg2.Binary(b"".join(batch.key_hashes for batch in batches)),
        psycopg2.Binary(b"".join(batch.payload_hashes for batch in batches)),
        [_hex(batch.request_key_hash) for batch in batches],
        [_hex(batch.request_hash) for batch in batches],
        [batch.min_event_time for batch in batches],
        [batch.max_event_time for batch in batches],
        [psycopg2.Binary(publication.payload) for publication in publications],
        int_array(publication.size_bytes for publication in publications),
        *limits.arguments,
    ]
    with _told(), connection.cursor() as cursor:
        cursor.execute(_GROUP, arguments)
        firsts, *rates = cursor.fetchone()
    owed = _rates(*rates)
    return [
        Published(outcome="accepted", first=first, last=first + count - 1, duplicates=0, covering=0, rates=owed)
        for first, count in zip(firsts, counts, strict=True)
    ]


def publish_growing(publication: Publication, *, limits: WriteLimits, actor: str) -> Published:
    """As `publish_one`; and the table has the columns that the request needs, or neither is so.

    The one order of locks: keys, head, token lock.
    """
    table, batch = publication.table, publication.batch
    assert batch.growth is not None, "only what grows a table is published so"
    with _told(), transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(IDLE_LIMIT + _KEYS, [table.table_id, *_key_arguments(batch)])
        event, duplicates, covering, replayed = cursor.fetchone()
        excluded = [*duplicates, *batch.excluded]
        kept = batch.record_count - len(excluded)
        if replayed is not None or not kept:
            known = _known(publication, replayed=replayed, duplicates=len(excluded), covering=covering)
            # Nothing is written, so nothing grows, and a key of the request would name nothing.
            transaction.set_rollback(True)
            return known
        version = _grow(publication, batch.growth, actor=actor)
        cursor.execute(
            _APPEND,
            [
                publication.tenant_id,
                event,
                table.table_id,
                publication.ddl_version + 1,
                version,
                kept,
                int_array(excluded),
                batch.min_event_time,
                batch.max_event_time,
                *_payload_arguments(publication),
                *limits.arguments,
            ],
        )
        first, last, *rates = cursor.fetchone()
    return Published(
        outcome="accepted", first=first, last=last, duplicates=len(excluded), covering=covering, rates=_rates(*rates)
    )


def int_array(numbers: Iterable[int]) -> str:
    """An array literal. psycopg2 writes an ARRAY expression: a thousand constants cost PostgreSQL a millisecond."""
    return "{" + ",".join(map(str, numbers)) + "}"


def _grow(publication: Publication, columns: Sequence[Column], *, actor: str) -> int:
    try:
        return grow_table(
            tenant_id=publication.tenant_id,
            table_id=publication.table.table_id,
            ddl_version=publication.ddl_version,
            columns=columns,
            actor=actor,
        )
    except PublishConflict as exc:
        raise Stale from exc


_REPLAYED = """
SELECT t.ddl_version, e.first_token, e.last_token, coalesce(array_length(e.excluded, 1), 0)
  FROM tenant t LEFT JOIN ingest_event e ON e.event_id = %s
 WHERE t.tenant_id = %s
"""


def _known(publication: Publication, *, replayed: int | None, duplicates: int, covering: int) -> Published:
    """What is known of the request already; never about a table that is gone meanwhile."""
    with connection.cursor() as cursor:
        cursor.execute(_REPLAYED, [replayed, publication.tenant_id])
        found: tuple[Any, ...] | None = cursor.fetchone()
    if found is None or found[0] != publication.ddl_version:
        raise Stale
    _, first, last, excluded = found
    if replayed is None:
        return Published(outcome="duplicate", first=0, last=0, duplicates=duplicates, covering=covering, rates=())
    if first is None:
        raise Again  # it was purged between the two statements
    return Published(outcome="replayed", first=first, last=last, duplicates=excluded, covering=0, rates=())


def _key_arguments(batch: DecodedBatch) -> list[Any]:
    return [
        int_array(batch.key_ordinals),
        psycopg2.Binary(batch.key_hashes),
        psycopg2.Binary(batch.payload_hashes),
        _hex(batch.request_key_hash),
        _hex(batch.request_hash),
    ]


def _payload_arguments(publication: Publication) -> list[Any]:
    payload = None if publication.staged_id is not None else psycopg2.Binary(publication.payload)
    return [payload, publication.staged_id, publication.size_bytes]


def _hex(digest: bytes | None) -> str | None:
    return None if digest is None else digest.hex()


def _rates(
    records_owed: float | None, bytes_owed: float | None, records: int | None, size_bytes: int | None
) -> tuple[Rate, ...]:
    found = (("records", records, records_owed), ("bytes", size_bytes, bytes_owed))
    return tuple(Rate(unit=unit, per_second=rate, owed=max(0.0, owed or 0.0)) for unit, rate, owed in found if rate)


@contextmanager
def _told() -> Iterator[None]:
    """Whatever the database answers inside leaves as what it means."""
    try:
        connection.ensure_connection()
    except (OperationalError, InterfaceError) as exc:
        raise unavailable() from exc
    try:
        yield
    except (DatabaseError, InterfaceError) as exc:
        failure = _failure(exc)
        if failure is exc:
            raise
        raise failure from exc


def unavailable() -> Unavailable:
    """The database cannot be reached, or cannot do it, and has not done it."""
    return Unavailable("The database does not answer; nothing was written.", retry_after=1)


def _failure(exc: Exception) -> Exception:
    """What is told of it. An error that the server reports as such has undone the statement; other ends are unknown."""
    cause = exc.__cause__
    if isinstance(exc, InterfaceError):
        # The connection was found closed: nothing was sent.
        connection.close()
        return Again()
    if not isinstance(cause, psycopg2.Error) or cause.diag.severity_nonlocalized != "ERROR":
        connection.close()
        return OutcomeUnknown(
            "The connection to the database broke: the records may or may not have been accepted."
            " Send them again with the same keys.",
            retry_after=1,
        )
    if cause.pgcode == _REFUSED:
        return _refusal(cause.diag.message_primary or "", json.loads(cause.diag.message_detail or "null"))
    if cause.pgcode in _IN_THE_WAY:
        return Again()
    if cause.pgcode in (_NULL, _NO_PARENT):
        # The table or its tenant is gone while the version is the known one: the catalog is another one now.
        return Stale()
    if isinstance(exc, OperationalError | InternalError):
        # Out of time, memory or disk, or a server that was demoted, which another connection may find replaced.
        connection.close()
        return unavailable()
    return exc


# `detail`: what the SQL functions put beside each outcome.
def _refusal(outcome: str, detail: Any) -> Exception:
    match outcome:
        case "stale":
            return Stale()
        case "vanished":
            return Again()
        case "full":
            return Backpressure(
                "Too many accepted records are not yet visible; let the workers catch up.", retry_after=1, **detail
            )
        case "rate":
            retry_after = max(1, math.ceil(detail["retry_after"]))
            return RateLimited(
                f"The tenant writes more than {detail['limit']} {detail['unit']} a second.",
                retry_after=retry_after,
                unit=detail["unit"],
                limit=detail["limit"],
            )
        case "quota":
            return QuotaExceeded(
                "The tenant stores as much as it may; raise its quota, or let retention delete old snapshots.",
                retry_after=_QUOTA_RETRY,
                **detail,
            )
        case "conflict" if detail is None:
            return IdempotencyConflict("The Idempotency-Key was used before with another body.")
        case "conflict":
            errors: list[JSON] = [
                {"index": index, "reason": "key was used with another payload or op"} for index in detail
            ]
            return IdempotencyConflict(
                f"{len(detail)} idempotency keys were used before with another payload or op.", errors=errors[:100]
            )
        case _:
            raise AssertionError(f"duckmesh_publish answered {outcome}")
