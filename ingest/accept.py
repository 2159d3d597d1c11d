"""A decoded request becomes durable: keys, token and envelope in one statement, which is one transaction.

What a request is decoded under is remembered between requests and may be old. That is safe: publishing names the
version of the tenant's tables, and on another version everything is undone and decoded again.
"""

import json
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import psycopg2
from django.db import DatabaseError, InterfaceError, InternalError, OperationalError, connection

from catalog.tables import LiveTables, TableInfo, live_tables
from duckmesh.kernel.errors import JSON, Conflict, Invalid, NotFound, OutcomeUnknown, Unavailable
from ingest.decode.batch import DecodedBatch
from ingest.errors import Backpressure, IdempotencyConflict

_TRIES = 20
_REFUSED = "DM001"
_IN_THE_WAY = ("40P01", "40001")  # deadlock, serialization failure
_NULL, _NO_PARENT = "23502", "23503"

_PUBLISH = """
SELECT outcome, first, last, coalesce(array_length(duplicates, 1), 0), covering
  FROM duckmesh_publish(%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
"""


@dataclass(frozen=True, kw_only=True)
class Accepted:
    """What a request came to. Every record of it, kept or duplicate, is visible when `max_visibility_token` is."""

    accepted_count: int
    duplicate_count: int
    max_visibility_token: int
    size_bytes: int
    replayed: bool = False


class _Stale(Exception):
    """The tables are not what the request was decoded under."""


class _Again(Exception):
    """Another transaction was in the way, or the connection was gone; nothing was done."""


Decode = Callable[[TableInfo], DecodedBatch]

_known: dict[str, LiveTables] = {}


def accept(*, tenant_id: str, table: str, decode: Decode, max_pending: int) -> Accepted:
    """The records that `decode` finds for the table are durable, each once, and have tokens; or none of them is.

    Raises what `decode` raises, `TableNotFound`, `IdempotencyConflict`, `Backpressure`, `Unavailable` when nothing was
    done, and `OutcomeUnknown` when the connection broke while the database may have been committing.
    """
    for _ in range(_TRIES):
        tables = _tables(tenant_id)
        try:
            info = tables.find(table)
            batch = decode(info)
            try:
                return _publish(tenant_id=tenant_id, info=info, tables=tables, batch=batch, max_pending=max_pending)
            finally:
                batch.payload.close()
        except _Stale:
            _refresh(tenant_id)
        except _Again:
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
        raise _unavailable() from exc
    return tables


def _publish(*, tenant_id: str, info: TableInfo, tables: LiveTables, batch: DecodedBatch, max_pending: int) -> Accepted:
    payload = batch.payload.getvalue()
    row = _execute(
        [
            tenant_id,
            info.table_id,
            tables.ddl_version,
            info.schema.version,
            _int_array(batch.key_ordinals),
            psycopg2.Binary(batch.key_hashes),
            psycopg2.Binary(batch.payload_hashes),
            batch.record_count,
            _int_array(batch.excluded),
            batch.request_key_hash and batch.request_key_hash.hex(),
            batch.request_hash and batch.request_hash.hex(),
            batch.min_event_time,
            batch.max_event_time,
            psycopg2.Binary(payload),
            max_pending,
        ]
    )
    outcome, first, last, duplicates, covering = row
    match outcome:
        case "accepted":
            return Accepted(
                accepted_count=last - first + 1,
                duplicate_count=duplicates,
                max_visibility_token=max(last, covering or 0),
                size_bytes=len(payload),
            )
        case "replayed":
            return Accepted(
                accepted_count=last - first + 1,
                duplicate_count=duplicates,
                max_visibility_token=last,
                size_bytes=0,
                replayed=True,
            )
        case _:
            return Accepted(accepted_count=0, duplicate_count=duplicates, max_visibility_token=covering, size_bytes=0)


def _int_array(numbers: Iterable[int]) -> str:
    """An array literal. psycopg2 writes an ARRAY expression: a thousand constants cost PostgreSQL a millisecond."""
    return "{" + ",".join(map(str, numbers)) + "}"


def _execute(arguments: list[Any]) -> tuple[Any, ...]:
    try:
        connection.ensure_connection()
    except (OperationalError, InterfaceError) as exc:
        raise _unavailable() from exc
    try:
        with connection.cursor() as cursor:
            cursor.execute(_PUBLISH, arguments)
            row: tuple[Any, ...] = cursor.fetchone()
            return row
    except (DatabaseError, InterfaceError) as exc:
        failure = _failure(exc)
        if failure is exc:
            raise
        raise failure from exc


def _failure(exc: Exception) -> Exception:
    """What is told of it. An error that the server reports as such has undone the statement; other ends are unknown."""
    cause = exc.__cause__
    if isinstance(exc, InterfaceError):
        # The connection was found closed: nothing was sent.
        connection.close()
        return _Again()
    if not isinstance(cause, psycopg2.Error) or cause.diag.severity_nonlocalized != "ERROR":
        connection.close()
        return OutcomeUnknown(
            "The connection to the database broke: the records may or may not have been accepted."
            " Send them again with the same keys.",
            retry_after=1,
        )
    if cause.pgcode == _REFUSED:
        return _refusal(cause.diag.message_primary or "", cause.diag.message_detail)
    if cause.pgcode in _IN_THE_WAY:
        return _Again()
    if cause.pgcode in (_NULL, _NO_PARENT):
        # The table or its tenant is gone while the version is the known one: the catalog is another one now.
        return _Stale()
    if isinstance(exc, OperationalError | InternalError):
        # Out of time, memory or disk, or a server that was demoted, which another connection may find replaced.
        connection.close()
        return _unavailable()
    return exc


def _unavailable() -> Unavailable:
    return Unavailable("The database does not answer; nothing was written.", retry_after=1)


def _refusal(outcome: str, detail: str | None) -> Exception:
    match outcome:
        case "stale":
            return _Stale()
        case "vanished":
            return _Again()
        case "full":
            return Backpressure(
                "Too many accepted records are not yet visible; let the workers catch up.",
                retry_after=1,
                pending_records=int(detail or 0),
            )
        case "conflict" if detail is None:
            return IdempotencyConflict("The Idempotency-Key was used before with another body.")
        case "conflict":
            ordinals: list[int] = json.loads(detail or "[]")
            errors: list[JSON] = [
                {"index": index, "reason": "key was used with another payload or op"} for index in ordinals
            ]
            return IdempotencyConflict(
                f"{len(ordinals)} idempotency keys were used before with another payload or op.", errors=errors[:100]
            )
        case _:
            raise AssertionError(f"duckmesh_publish answered {outcome}")
