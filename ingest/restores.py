"""Restores in the tenant's log: ordered with a token, applied in the order of tokens, and told how they ended.

What was accepted before the order is visible before the restore is, and replaced by it; what was accepted after it
comes after it. Until it is applied the snapshot is held by a pin that only this can remove.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import structlog
from django.db import connection, transaction

from catalog.mode import require_writable
from catalog.pins import hold_snapshot, release_hold
from catalog.publish import lock_head
from catalog.restore import restore_snapshot
from catalog.snapshots import SnapshotInfo
from ingest.bus import Claim, RestoreOrder, hold_of
from ingest.models import IngestEvent

log = structlog.get_logger(__name__)

_NEXT = "SELECT nextval(pg_get_serial_sequence('ingest_event', 'event_id'))"
_ORDER = "SELECT duckmesh_order_restore(%s, %s, %s, %s)"

# One that failed may be replayed after the restore.
_WAITING = """
SELECT table_id, schema_version FROM ingest_event
 WHERE tenant_id = %(tenant)s AND state = 'pending' AND passed_in IS NULL AND first_token > %(token)s
   AND table_id IS NOT NULL
UNION
SELECT table_id, schema_version FROM ingest_event
 WHERE tenant_id = %(tenant)s AND state IN ('pending', 'failed') AND passed_in IS NOT NULL AND table_id IS NOT NULL
"""


@dataclass(frozen=True, kw_only=True)
class Ordered:
    """A restore that is durable. A barrier on its token shows its effect."""

    tenant_id: str
    event_id: int
    token: int


@transaction.atomic
def order_restore(*, tenant_id: str, snapshot_id: int, actor: str) -> Ordered:
    """The restore has a token, and its snapshot does not expire before it is applied.

    Raises `SnapshotNotFound`, `SnapshotExpired` and `ReadOnly`.
    """
    require_writable()
    lock_head(tenant_id=tenant_id)
    with connection.cursor() as cursor:
        cursor.execute(_NEXT)
        event_id = int(cursor.fetchone()[0])
        hold_snapshot(tenant_id=tenant_id, snapshot_id=snapshot_id, name=hold_of(event_id), actor=actor)
        cursor.execute(_ORDER, [tenant_id, event_id, snapshot_id, actor])
        ordered = Ordered(tenant_id=tenant_id, event_id=event_id, token=int(cursor.fetchone()[0]))
    transaction.on_commit(
        lambda: log.info(
            "restore_ordered", tenant_id=tenant_id, snapshot_id=snapshot_id, token=ordered.token, actor=actor
        )
    )
    return ordered


def apply_restore(claim: Claim, order: RestoreOrder) -> SnapshotInfo:
    """The restore is the tenant's next snapshot. Called in the transaction that acks the claim, after `bus.hold`."""
    head = lock_head(tenant_id=claim.tenant_id)
    snapshot = restore_snapshot(
        tenant_id=claim.tenant_id,
        snapshot_id=order.snapshot_id,
        actor=order.asked_by,
        watermark=max(head.visible_token, claim.last_token),
        waiting=lambda: _waiting(claim),
    )
    release_hold(tenant_id=claim.tenant_id, name=hold_of(claim.envelopes[0].event_id))
    return snapshot


def _waiting(claim: Claim) -> Iterable[tuple[int, int]]:
    with connection.cursor() as cursor:
        cursor.execute(_WAITING, {"tenant": claim.tenant_id, "token": claim.last_token})
        return [(row[0], row[1]) for row in cursor.fetchall()]


def restored_in(ordered: Ordered) -> int | None:
    """The snapshot that the restore became; None if it is not applied, or failed."""
    event = IngestEvent.objects.get(tenant_id=ordered.tenant_id, event_id=ordered.event_id)
    return event.snapshot_id


def has_failed(ordered: Ordered) -> bool:
    """Whether the restore was set aside."""
    failed = IngestEvent.objects.filter(tenant_id=ordered.tenant_id, event_id=ordered.event_id, passed_in__isnull=False)
    return failed.exists()
