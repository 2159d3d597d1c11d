"""Writes that were set aside: shown, tried again, or given up. What each says holds nothing of its records.

A failed write is a hole: the watermark has passed it, and a barrier that needs it says so. Only a failed one can be
replayed or discarded; once it is replayed it is pending as any other, and a second replay or a discard is refused.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any

import structlog
from django.db import connection, transaction

from catalog.incidents import record_incident
from catalog.mode import require_writable
from catalog.models import IncidentAudit
from duckmesh.kernel.errors import Conflict
from ingest.errors import EventNotFailed, FailedEventNotFound
from ingest.models import IngestEvent, IngestKey, IngestPayload

log = structlog.get_logger(__name__)


@dataclass(frozen=True, kw_only=True)
class FailedEvent:
    """A write that failed, and what became of it. `failed_at` is the last time it was set aside."""

    event_id: int
    tenant_id: str
    table_name: str
    first_token: int
    last_token: int
    record_count: int
    attempts: int
    error: str
    reason: str
    state: str
    accepted_at: datetime
    failed_at: datetime | None


# The index holds what ever failed, which is little. A dropped table keeps its row, and its name; a restore has none.
_COLUMNS = """
SELECT e.event_id, e.tenant_id, coalesce(t.name, ''), e.first_token, e.last_token, e.record_count, e.attempts,
       coalesce(e.error ->> 'error', ''), coalesce(e.error ->> 'reason', ''), e.state, e.accepted_at, e.failed_at
  FROM ingest_event e LEFT JOIN table_def t USING (table_id)
 WHERE e.passed_in IS NOT NULL
"""
_LIST = f"""{_COLUMNS}
   AND e.tenant_id = %(tenant)s AND e.state = 'failed' AND e.first_token > %(after)s
   AND (%(table)s::text IS NULL OR lower(t.name) = lower(%(table)s))
 ORDER BY e.first_token LIMIT %(limit)s
"""
_ONE = f"{_COLUMNS} AND e.tenant_id = %(tenant)s AND e.event_id = %(event)s"


def list_failed(*, tenant_id: str, table: str | None, after: int, limit: int) -> list[FailedEvent]:
    """The tenant's failed writes with tokens behind `after`, in the order of their tokens, of one table if named."""
    return _read(_LIST, {"tenant": tenant_id, "table": table, "after": after, "limit": limit})


def get_failed(*, tenant_id: str, event_id: int) -> FailedEvent:
    """A write that has failed, whatever became of it since. Raises `FailedEventNotFound`."""
    found = _read(_ONE, {"tenant": tenant_id, "event": event_id})
    if not found:
        raise FailedEventNotFound(f"There is no failed write {event_id}.", failed_event_id=event_id)
    return found[0]


@transaction.atomic
def replay(*, tenant_id: str, event_id: int, actor: str) -> FailedEvent:
    """The failed write is pending, with all its attempts before it; if its table is gone it will go with it.

    Raises `FailedEventNotFound`, and `EventNotFailed` where somebody was faster. A restore is refused: it would undo
    what has come since, which whoever asked for it did not know of.
    """
    if IngestEvent.objects.filter(tenant_id=tenant_id, event_id=event_id, restore_to__isnull=False).exists():
        raise Conflict(
            "A restore that failed is not tried again: discard it, and ask for a new one.", failed_event_id=event_id
        )
    _leave_failed(tenant_id, event_id, state=IngestEvent.State.PENDING, attempts=0, retry_at=None)
    event = get_failed(tenant_id=tenant_id, event_id=event_id)
    _record(event, deed="replayed", actor=actor)
    transaction.on_commit(
        lambda: log.info("failed_event_replayed", tenant_id=tenant_id, event_id=event_id, actor=actor)
    )
    return event


@transaction.atomic
def discard(*, tenant_id: str, event_id: int, actor: str) -> FailedEvent:
    """The failed write is given up: no barrier tells of it, and its idempotency keys are free to be sent again.

    Raises `FailedEventNotFound`, `ReadOnly`, and `EventNotFailed` where somebody was faster.
    """
    require_writable()
    _leave_failed(tenant_id, event_id, state=IngestEvent.State.DISCARDED)
    IngestKey.objects.filter(event_id=event_id).delete()
    IngestPayload.objects.filter(event_id=event_id).delete()
    event = get_failed(tenant_id=tenant_id, event_id=event_id)
    _record(event, deed="discarded", actor=actor)
    transaction.on_commit(
        lambda: log.info("failed_event_discarded", tenant_id=tenant_id, event_id=event_id, actor=actor)
    )
    return event


def replay_all(*, tenant_ids: Sequence[str], actor: str) -> list[FailedEvent]:
    """Every write of these tenants that is failed now is pending, each by itself."""
    failed = IngestEvent.objects.filter(
        tenant_id__in=tenant_ids, state=IngestEvent.State.FAILED, passed_in__isnull=False, restore_to=None
    )
    replayed = []
    for tenant_id, event_id in failed.order_by("tenant_id", "first_token").values_list("tenant_id", "event_id"):
        try:
            replayed.append(replay(tenant_id=tenant_id, event_id=event_id, actor=actor))
        except EventNotFailed:
            continue  # somebody else has replayed or discarded it meanwhile
    return replayed


def _leave_failed(tenant_id: str, event_id: int, *, state: IngestEvent.State, **changes: Any) -> None:
    """Of several who do this at once the database lets one through. `Any`: values of the row's columns."""
    failed = IngestEvent.objects.filter(tenant_id=tenant_id, event_id=event_id, state=IngestEvent.State.FAILED)
    if not failed.update(state=state, **changes):
        event = get_failed(tenant_id=tenant_id, event_id=event_id)
        raise EventNotFailed(
            f"The write {event_id} is not failed: it is {event.state}.", failed_event_id=event_id, state=event.state
        )


def _record(event: FailedEvent, *, deed: str, actor: str) -> None:
    record_incident(
        tenant_id=event.tenant_id,
        kind=f"ingest_event_{deed}",
        severity=IncidentAudit.Severity.WARNING,
        message=f"The failed envelope {event.event_id} was {deed}.",
        context={
            "event_id": event.event_id,
            "table": event.table_name,
            "first_token": event.first_token,
            "last_token": event.last_token,
            "actor": actor,
        },
    )


def _read(statement: str, arguments: dict[str, Any]) -> list[FailedEvent]:
    with connection.cursor() as cursor:
        cursor.execute(statement, arguments)
        rows = cursor.fetchall()
    names = [field.name for field in fields(FailedEvent)]
    return [FailedEvent(**dict(zip(names, row, strict=True))) for row in rows]
