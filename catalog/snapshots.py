"""Snapshots as they are read: resolved by id, by time or as the latest, and the tokens that say how far they reach."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from django.db import connection, transaction

from catalog.errors import SnapshotExpired, SnapshotNotFound, TenantNotFound
from catalog.models import Snapshot, Tenant, TenantCatalog, VoidRange
from duckmesh.kernel.clock import rfc3339
from duckmesh.kernel.errors import Invalid


@dataclass(frozen=True, kw_only=True)
class SnapshotInfo:
    """One immutable version of a tenant's tables. Every write with a token ≤ `visible_token` is in it, or failed."""

    tenant_id: str
    snapshot_id: int
    parent_id: int | None
    snapshot_time: datetime
    visible_token: int
    kind: str
    created_by: str

    @classmethod
    def of(cls, row: Snapshot) -> "SnapshotInfo":
        return cls(
            tenant_id=row.tenant_id,
            snapshot_id=row.snapshot_id,
            parent_id=row.parent_id,
            snapshot_time=row.snapshot_time,
            visible_token=row.visible_token,
            kind=row.kind,
            created_by=row.created_by,
        )


def resolve(*, tenant_id: str, snapshot_id: int | None = None, snapshot_time: datetime | None = None) -> SnapshotInfo:
    """The snapshot of this id, or the one that was the latest at this time, or the latest.

    Raises `SnapshotNotFound` for one that never was, `SnapshotExpired` for one that retention dropped, and `Invalid`
    for a time in the future or for both selectors at once.
    """
    if snapshot_id is not None and snapshot_time is not None:
        raise Invalid("Name a snapshot by snapshot_id or by snapshot_time, not by both.")
    if snapshot_time is not None:
        return _at_time(tenant_id, snapshot_time)
    if snapshot_id is not None:
        return _by_id(tenant_id, snapshot_id)
    return _latest(tenant_id)


_LATEST = """
SELECT s.* FROM tenant_catalog c JOIN snapshot s ON s.tenant_id = c.tenant_id AND s.snapshot_id = c.snapshot_seq
 WHERE c.tenant_id = %s
"""


def _latest(tenant_id: str) -> SnapshotInfo:
    for row in Snapshot.objects.raw(_LATEST, [tenant_id]):
        return SnapshotInfo.of(row)
    raise TenantNotFound(f"There is no tenant {tenant_id}.", tenant_id=tenant_id)


def _by_id(tenant_id: str, snapshot_id: int) -> SnapshotInfo:
    if snapshot_id > 2**63 - 1:
        raise SnapshotNotFound(f"There is no snapshot {snapshot_id}.", snapshot_id=snapshot_id)
    row = Snapshot.objects.filter(tenant_id=tenant_id, snapshot_id=snapshot_id).first()
    if row is not None:
        return SnapshotInfo.of(row)
    head = TenantCatalog.objects.get(tenant_id=tenant_id)
    if 0 <= snapshot_id <= head.snapshot_seq:
        # Gone, unless it was published between the two looks.
        row = Snapshot.objects.filter(tenant_id=tenant_id, snapshot_id=snapshot_id).first()
        if row is not None:
            return SnapshotInfo.of(row)
        replaced = VoidRange.objects.filter(
            tenant_id=tenant_id, first_snapshot_id__lte=snapshot_id, last_snapshot_id__gte=snapshot_id
        )
        if replaced.exists():
            raise SnapshotExpired(
                f"The snapshot {snapshot_id} is of a history that a restore of the catalog has replaced.",
                snapshot_id=snapshot_id,
                replaced=True,
            )
        raise SnapshotExpired(f"The snapshot {snapshot_id} has expired.", snapshot_id=snapshot_id)
    raise SnapshotNotFound(f"There is no snapshot {snapshot_id}.", snapshot_id=snapshot_id)


@transaction.atomic
def _at_time(tenant_id: str, instant: datetime) -> SnapshotInfo:
    shown = rfc3339(instant)
    # A publication takes its time before it commits: behind this lock none is under way, so the answer to a time
    # that has passed never changes.
    TenantCatalog.objects.select_for_update(of=("self",), no_key=True).get(tenant_id=tenant_id)
    with connection.cursor() as cursor:
        cursor.execute("SELECT %s > clock_timestamp()", [instant])
        if cursor.fetchone()[0]:
            raise Invalid("snapshot_time lies in the future.", snapshot_time=shown)
    row = Snapshot.objects.filter(tenant_id=tenant_id, snapshot_time__lte=instant).order_by("-snapshot_time").first()
    if row is None:
        if instant < Tenant.objects.get(tenant_id=tenant_id).created_at:
            raise SnapshotNotFound("There was no snapshot at that time.", snapshot_time=shown)
        raise SnapshotExpired("The snapshot of that time has expired.", snapshot_time=shown)
    if row.valid_until is not None and instant >= row.valid_until:
        raise SnapshotExpired("The snapshot of that time has expired.", snapshot_time=shown)
    return SnapshotInfo.of(row)


def visible_tokens(*, tenant_ids: Iterable[str]) -> dict[str, int]:
    """The latest watermark of each of these tenants: one indexed read, cheap enough to poll."""
    heads = TenantCatalog.objects.filter(tenant_id__in=list(tenant_ids))
    return dict(heads.values_list("tenant_id", "visible_token"))


def latest_issued_token(*, tenant_id: str) -> int:
    """The greatest token that any acknowledged write of the tenant got; 0 before the first."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT duckmesh_latest_token(%s)", [tenant_id])
        return int(cursor.fetchone()[0])


def first_failure(*, tenant_id: str, token: int, table_ids: Iterable[int]) -> int | None:
    """The oldest envelope of these tables with a token up to `token` that failed and is still not visible, if any."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT duckmesh_first_failure(%s, %s, %s, NULL)", [tenant_id, token, list(table_ids)])
        found = cursor.fetchone()[0]
    return None if found is None else int(found)
