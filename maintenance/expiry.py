"""Snapshots that the policy keeps no longer expire, slice after slice."""

from collections.abc import Iterator
from datetime import datetime

import structlog
from django.db import connection
from django.db.models import Q
from django.db.models.functions import Now

from catalog.errors import SnapshotPinned
from catalog.expire import expire_snapshots
from catalog.models import Snapshot, SnapshotPin
from catalog.pins import RESERVED_PREFIX
from duckmesh.kernel import metrics
from duckmesh.kernel.errors import JSON
from duckmesh.kernel.failpoints import failpoint
from maintenance.job import Progress
from maintenance.ladder import Judge, RetentionPolicy, Seen, Verdict

log = structlog.get_logger(__name__)

_PAGE = 5_000
_SLICE = 500


def expire_tenant(*, tenant_id: str, policy: RetentionPolicy, progress: Progress, done: float) -> int:
    """The tenant has the snapshots that the policy keeps; how many have expired for it."""
    count = 0
    for verdicts in _slices(verdict for verdict in verdicts_of(tenant_id=tenant_id, policy=policy) if not verdict.kept):
        progress.at("expire", done)
        gone = _expire([verdict.snapshot_id for verdict in verdicts], tenant_id=tenant_id)
        failpoint("gc.after_expire")
        if gone:
            count += len(gone)
            metrics.gc_snapshots_expired.inc(len(gone))
            ids: dict[str, JSON] = {"snapshots": len(gone), "first": gone[0], "last": gone[-1]}
            log.info("snapshots_expired", tenant_id=tenant_id, **ids)
            why = sorted({verdict.reason for verdict in verdicts})
            progress.step("expired", tenant_id=tenant_id, why=list(why), **ids)
    return count


def verdicts_of(*, tenant_id: str, policy: RetentionPolicy) -> Iterator[Verdict]:
    """What becomes of each of the tenant's snapshots, the newest first, by the database's clock."""
    judge = Judge(policy=policy, now=database_time())
    before: int | None = None
    while True:
        page = Snapshot.objects.filter(tenant_id=tenant_id)
        if before is not None:
            page = page.filter(snapshot_id__lt=before)
        rows = list(page.order_by("-snapshot_id").values_list("snapshot_id", "snapshot_time")[:_PAGE])
        if not rows:
            return
        before = rows[-1][0]
        seen = [Seen(snapshot_id=snapshot_id, snapshot_time=time) for snapshot_id, time in rows]
        yield from judge.judge(seen, held=_held(tenant_id))


def _held(tenant_id: str) -> dict[int, str]:
    live = SnapshotPin.objects.filter(Q(expires_at=None) | Q(expires_at__gt=Now()), tenant_id=tenant_id)
    return {
        snapshot_id: "needed by a restore that waits" if name.startswith(RESERVED_PREFIX) else f"pinned as {name}"
        for snapshot_id, name in live.order_by("-name").values_list("snapshot_id", "name")
    }


def _slices(verdicts: Iterator[Verdict]) -> Iterator[list[Verdict]]:
    found: list[Verdict] = []
    for verdict in verdicts:
        found.append(verdict)
        if len(found) == _SLICE:
            yield found
            found = []
    if found:
        yield found


def _expire(ids: list[int], *, tenant_id: str) -> list[int]:
    """Those that expired; what was pinned since the verdict stays."""
    wanted = set(ids)
    while wanted:
        try:
            return expire_snapshots(tenant_id=tenant_id, snapshot_ids=wanted)
        except SnapshotPinned as exc:
            wanted.discard(int(str(exc.context["snapshot_id"])))
    return []


def database_time() -> datetime:
    """The present moment, as the database tells it."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT clock_timestamp()")
        found: datetime = cursor.fetchone()[0]
        return found
