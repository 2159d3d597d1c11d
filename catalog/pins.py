"""Named, durable holds on snapshots. What is pinned does not expire."""

from datetime import datetime

from django.db import IntegrityError, transaction

from catalog.errors import PinExists, PinNotFound
from catalog.models import SnapshotPin
from catalog.publish import lock_head
from catalog.snapshots import resolve


def pin_snapshot(
    *, tenant_id: str, snapshot_id: int, name: str, actor: str, expires_at: datetime | None = None
) -> SnapshotPin:
    """The snapshot is held under `name` until the pin is removed or `expires_at` has passed."""
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
