"""A decoded request becomes durable: keys, token and envelope in one transaction, which it may share with others.

What a request is decoded under is remembered between requests and may be old. That is safe: publishing names the
version of the tenant's tables, and on another version everything is undone and decoded again.
"""

import threading
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial

import structlog
from django.db import InterfaceError, OperationalError

from catalog.mode import require_writable
from catalog.tables import LiveTables, TableInfo, live_tables
from duckmesh.kernel.errors import Conflict, Invalid, NotFound, OutcomeUnknown, Unavailable
from duckmesh.kernel.telemetry import traced
from ingest.decode.batch import DecodedBatch
from ingest.group import TenantQueue, can_share
from ingest.publishing import (
    Again,
    Publication,
    Published,
    Rate,
    Stale,
    WriteLimits,
    publish_group,
    publish_growing,
    publish_one,
    unavailable,
)
from ingest.staging import stage, unstage
from storage.store import ObjectStore

log = structlog.get_logger(__name__)

_TRIES = 20


@dataclass(frozen=True, kw_only=True)
class Staging:
    """Payloads of more than `above_bytes` go to the store."""

    store: ObjectStore
    above_bytes: int


@dataclass(frozen=True, kw_only=True)
class AcceptPolicy:
    """What a tenant may write that has no limits of its own, and where large payloads go (None: to the database)."""

    limits: WriteLimits
    staging: Staging | None = None


@dataclass(frozen=True, kw_only=True)
class Accepted:
    """What a request came to. Every record of it, kept or duplicate, is visible when `max_visibility_token` is."""

    accepted_count: int
    duplicate_count: int
    max_visibility_token: int
    size_bytes: int
    replayed: bool = False
    rates: tuple[Rate, ...] = ()


Decode = Callable[[TableInfo], DecodedBatch]

_known: dict[str, LiveTables] = {}
_queues: dict[str, TenantQueue] = {}
_turns: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)


def accept(*, tenant_id: str, table: str, decode: Decode, policy: AcceptPolicy, actor: str = "ingest") -> Accepted:
    """The records that `decode` finds for the table are durable, each once, and have tokens; or none of them is.

    If the table grows, `actor` is who made it. Raises what `decode` raises, `TableNotFound`, `IdempotencyConflict`,
    `Backpressure`, `RateLimited`, `QuotaExceeded`, `ReadOnly`, `Unavailable` when nothing was done, and
    `OutcomeUnknown` when the connection broke while the database may have been committing.
    """
    turn: AbstractContextManager[object] = nullcontext()
    for _ in range(_TRIES):
        with turn:
            tables = _tables(tenant_id)
            try:
                info = tables.find(table)
                batch = decode(info)
                try:
                    accepted = _accept(tables=tables, info=info, batch=batch, policy=policy, actor=actor)
                finally:
                    batch.payload.close()
                if batch.growth is not None:
                    _known.pop(tenant_id, None)  # which are not the tables any more
                return accepted
            except Stale:
                # Of many writes that grow a table at once one succeeds. The others would all try again and again in
                # vain, so they go on one after the other, each under the tables that the one before it left.
                _known.pop(tenant_id, None)
                turn = _turns[tenant_id]
            except Again:
                time.sleep(0.01)
            except (Invalid, NotFound, Conflict):
                # A refusal counts only under the tables as they are now. An unknown outcome is none: trying again could
                # write records without keys twice.
                if _refresh(tenant_id).ddl_version == tables.ddl_version:
                    raise
    raise Unavailable("The table kept changing while the request was accepted; nothing was written.", retry_after=1)


def _tables(tenant_id: str) -> LiveTables:
    return _known.get(tenant_id) or _refresh(tenant_id)


def _refresh(tenant_id: str) -> LiveTables:
    try:
        tables = _known[tenant_id] = live_tables(tenant_id=tenant_id)
    except (OperationalError, InterfaceError) as exc:
        raise unavailable() from exc
    return tables


def _accept(*, tables: LiveTables, info: TableInfo, batch: DecodedBatch, policy: AcceptPolicy, actor: str) -> Accepted:
    require_writable()  # after the body, which may have been long in coming
    staging, size_bytes = policy.staging, batch.payload.size_bytes
    staged_id: int | None = None
    if staging is not None and size_bytes > staging.above_bytes:
        staged_id = stage(tenant_id=info.tenant_id, payload=batch.payload, store=staging.store)
    publication = Publication(
        tenant_id=info.tenant_id,
        table=info,
        ddl_version=tables.ddl_version,
        batch=batch,
        payload=b"" if staged_id is not None else batch.payload.getvalue(),
        staged_id=staged_id,
        size_bytes=size_bytes,
    )
    kept = False
    try:
        with traced("publish", tenant_id=info.tenant_id, records=batch.record_count):
            accepted = _told(publication, _publish(publication, limits=policy.limits, actor=actor))
        kept = accepted.size_bytes > 0
        log.debug("write_accepted", tenant_id=info.tenant_id, table=info.name, token=accepted.max_visibility_token)
        return accepted
    except OutcomeUnknown:
        kept = True  # for all we know
        raise
    finally:
        if staged_id is not None and staging is not None and not kept:
            unstage(staged_id=staged_id, store=staging.store)


def _publish(publication: Publication, *, limits: WriteLimits, actor: str) -> Published:
    if publication.batch.growth is not None:
        return publish_growing(publication, limits=limits, actor=actor)
    alone = partial(publish_one, limits=limits)
    if not can_share(publication):
        return alone(publication)
    queue = queue_of(publication.tenant_id)
    return queue.publish(publication, alone=alone, together=partial(publish_group, limits=limits))


def queue_of(tenant_id: str) -> TenantQueue:
    """Where the tenant's small requests wait for a commit in this process."""
    return _queues.setdefault(tenant_id, TenantQueue())


def _told(publication: Publication, published: Published) -> Accepted:
    match published.outcome:
        case "accepted":
            return Accepted(
                accepted_count=published.last - published.first + 1,
                duplicate_count=published.duplicates,
                max_visibility_token=max(published.last, published.covering),
                size_bytes=publication.size_bytes,
                rates=published.rates,
            )
        case "replayed":
            return Accepted(
                accepted_count=published.last - published.first + 1,
                duplicate_count=published.duplicates,
                max_visibility_token=published.last,
                size_bytes=0,
                replayed=True,
            )
        case _:
            return Accepted(
                accepted_count=0,
                duplicate_count=published.duplicates,
                max_visibility_token=published.covering,
                size_bytes=0,
            )
