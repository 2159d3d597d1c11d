"""Named, durable holds on snapshots. What is pinned does not expire."""

import re
from datetime import datetime

from django.db import IntegrityError, transaction

from catalog.errors import PinExists, PinNotFound
from catalog.models import SnapshotPin
from catalog.publish import lock_head
from catalog.snapshots import resolve
from duckmesh.kernel.errors import Invalid

PIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,62}")


def pin_snapshot(
    *, tenant_id: str, snapshot_id: int, name: str, actor: str, expires_at: datetime | None = None
) -> SnapshotPin:
    """The snapshot is held under `name` until the pin is removed or `expires_at` has passed.

    Raises `Invalid` for an ill-formed name, `PinExists`, and what `resolve` raises for the snapshot.
    """
    if not PIN_NAME.fullmatch(name):
        raise Invalid(
            "A pin's name is 1 to 63 letters, digits, '_', '.' or '-' and begins with a letter, a digit or '_'.",
            name=name[:63],
        )
    try:
        with transaction.atomic():
            lock_head(tenant_id=tenant_id)
            resolve(tenant_id=tenant_id, snapshot_id=snapshot_id)
            pin = SnapshotPin.objects.create(
                tenant_id=tenant_id,
                snapshot_id=snapshot_id,
                name=name,
                created_by=actor,
                expires_at=expires_at,
            )
    except IntegrityError as exc:
        raise PinExists(f"There is a pin named {name}.", name=name) from exc
    pin.refresh_from_db()
    return pin


def get_pin(*, tenant_id: str, name: str) -> SnapshotPin:
    """The pin of this name."""
    pin = SnapshotPin.objects.filter(tenant_id=tenant_id, name=name).first()
    if pin is None:
        raise PinNotFound(f"There is no pin named {name}.", name=name)
    return pin


@transaction.atomic
def unpin_snapshot(*, tenant_id: str, name: str) -> None:
    """The pin is gone; its snapshot expires when retention says so."""
    lock_head(tenant_id=tenant_id)
    if not SnapshotPin.objects.filter(tenant_id=tenant_id, name=name).delete()[0]:
        raise PinNotFound(f"There is no pin named {name}.", name=name)
