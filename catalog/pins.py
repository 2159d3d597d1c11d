"""Named, durable holds on snapshots. What is pinned does not expire; a pin past its own time holds nothing.

Names that begin with `_duckmesh.` are the system's own holds: they keep a snapshot all the same, and are not shown.
"""

import re
from datetime import datetime

import structlog
from django.db import IntegrityError, connection, transaction
from django.db.models import Q, QuerySet
from django.db.models.functions import Now

from catalog.errors import PinExists, PinNotFound
from catalog.models import SnapshotPin
from catalog.publish import lock_head
from catalog.snapshots import resolve
from duckmesh.kernel.clock import rfc3339
from duckmesh.kernel.errors import Invalid

log = structlog.get_logger(__name__)

PIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,62}")
RESERVED_PREFIX = "_duckmesh."


def pin_snapshot(
    *, tenant_id: str, snapshot_id: int, name: str, actor: str, expires_at: datetime | None = None
) -> SnapshotPin:
    """The snapshot is held under `name` until the pin is removed or `expires_at` has passed.

    Raises `Invalid` for an ill-formed name or a time that has passed, `PinExists`, and what `resolve` raises for the
    snapshot.
    """
    if not PIN_NAME.fullmatch(name):
        raise Invalid(
            "A pin's name is 1 to 63 letters, digits, '_', '.' or '-' and begins with a letter, a digit or '_'.",
            name=name[:63],
        )
    if name.startswith(RESERVED_PREFIX):
        raise Invalid(f"Pins whose names begin with {RESERVED_PREFIX} are the system's own.", name=name)
    try:
        with transaction.atomic():
            lock_head(tenant_id=tenant_id)
            if expires_at is not None:
                _require_future(expires_at)
            # The name of a pin past its time is free.
            SnapshotPin.objects.filter(tenant_id=tenant_id, name=name, expires_at__lte=Now()).delete()
            pin = hold_snapshot(
                tenant_id=tenant_id, snapshot_id=snapshot_id, name=name, actor=actor, expires_at=expires_at
            )
    except IntegrityError as exc:
        raise PinExists(f"There is a pin named {name}.", name=name) from exc
    log.info("snapshot_pinned", tenant_id=tenant_id, snapshot_id=snapshot_id, pin=name, actor=actor)
    return pin


def hold_snapshot(
    *, tenant_id: str, snapshot_id: int, name: str, actor: str, expires_at: datetime | None = None
) -> SnapshotPin:
    """The pin exists, of whatever name. Called in a transaction that holds the head."""
    resolve(tenant_id=tenant_id, snapshot_id=snapshot_id)
    pin = SnapshotPin.objects.create(
        tenant_id=tenant_id,
        snapshot_id=snapshot_id,
        name=name,
        created_by=actor,
        expires_at=expires_at,
    )
    pin.refresh_from_db()
    return pin


def release_hold(*, tenant_id: str, name: str) -> None:
    """The hold of this name is gone, if it was there. Called in a transaction that holds the head."""
    SnapshotPin.objects.filter(tenant_id=tenant_id, name=name).delete()


def get_pin(*, tenant_id: str, name: str) -> SnapshotPin:
    """The pin of this name, which holds its snapshot."""
    pin = _live(tenant_id).filter(name=name).first()
    if pin is None:
        raise PinNotFound(f"There is no pin named {name[:63]}.", name=name[:63])
    return pin


def list_pins(*, tenant_id: str, after: str, limit: int) -> list[SnapshotPin]:
    """Up to `limit` pins in the order of their names, from the first one behind `after`."""
    return list(_live(tenant_id).filter(name__gt=after).order_by("name")[:limit])


@transaction.atomic
def unpin_snapshot(*, tenant_id: str, name: str) -> None:
    """The pin is gone; its snapshot expires when retention says so."""
    lock_head(tenant_id=tenant_id)
    if not _live(tenant_id).filter(name=name).delete()[0]:
        raise PinNotFound(f"There is no pin named {name[:63]}.", name=name[:63])
    transaction.on_commit(lambda: log.info("snapshot_unpinned", tenant_id=tenant_id, pin=name))


def _live(tenant_id: str) -> QuerySet[SnapshotPin]:
    pins = SnapshotPin.objects.filter(tenant_id=tenant_id).exclude(name__startswith=RESERVED_PREFIX)
    return pins.filter(Q(expires_at=None) | Q(expires_at__gt=Now()))


def _require_future(instant: datetime) -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT %s > clock_timestamp()", [instant])
        if not cursor.fetchone()[0]:
            raise Invalid("expires_at has passed.", expires_at=rfc3339(instant))
