"""Objects that no row names: what attempts that died have left, or the store has kept although it was told to delete.

An object may be younger than its row: an attempt writes it, and names it before the attempt's limit. So an object is
deleted at a later sighting only, when the recorded first one lies back longer than any attempt may last, by the
database's clock. What the store says of an object's age is not looked at.

Only keys that this system could have written are deleted, below the tenants of this catalog: a bucket may hold other
things, and a catalog restored from a backup may not know a tenant any more.
"""

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog
from django.db import connection, transaction
from django.db.backends.utils import CursorWrapper

from catalog.identity import delete_objects
from catalog.publish import IDLE_LIMIT, lock_head
from duckmesh.kernel import metrics
from duckmesh.kernel.failpoints import failpoint
from duckmesh.kernel.spans import spelled
from maintenance.expiry import database_time
from maintenance.gc import Collected, audit
from maintenance.job import Progress
from maintenance.models import OrphanSighting
from storage.store import ObjectInfo, ObjectStore

log = structlog.get_logger(__name__)

_PAGE = 1_000
_UUID = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
_DATA_FILE = re.compile(rf"[^/]+/[^/]+/.+/part-\d+-\d+-{_UUID}\.parquet")
_STAGED = re.compile(rf"_staged/[^/]+/{_UUID}\.envelope")

# Staged payloads are rows before they are objects, and after.
_NAMED = """
SELECT path FROM data_file WHERE path = ANY (%(keys)s)
UNION ALL SELECT path FROM ingest_staged WHERE path = ANY (%(keys)s)
"""

_CLAIMS = "SELECT 1 FROM ingest_claim_batch WHERE tenant_id = %s AND state = 'claimed' FOR SHARE"

_SEE = """
INSERT INTO orphan_sighting (path, tenant_id, size_bytes)
SELECT path, %(tenant)s, size_bytes FROM unnest(%(paths)s::text[], %(sizes)s::bigint[]) seen (path, size_bytes)
ON CONFLICT (path) DO UPDATE SET last_seen = greatest(clock_timestamp(), orphan_sighting.last_seen)
RETURNING path, first_seen < clock_timestamp() - make_interval(secs => %(grace)s)
"""

_ALONE = "SELECT pg_advisory_xact_lock(hashtextextended('duckmesh.orphans/' || %s, 0))"

_FORGET = "DELETE FROM orphan_sighting WHERE path = ANY (%s) RETURNING path, size_bytes"

_DUE = """
SELECT coalesce((SELECT ended_at < clock_timestamp() - make_interval(secs => %s) FROM orphan_sweep
                  WHERE tenant_id = %s), true)
"""

# By the time at which the sweep began: what it has not seen since is gone, or has got its name.
_SWEPT = """
WITH unseen AS (DELETE FROM orphan_sighting WHERE tenant_id = %(tenant)s AND last_seen < %(began)s)
INSERT INTO orphan_sweep (tenant_id, ended_at) VALUES (%(tenant)s, clock_timestamp())
ON CONFLICT (tenant_id) DO UPDATE SET ended_at = excluded.ended_at
"""


@dataclass(frozen=True, kw_only=True)
class Orphan:
    """An object that no row names. `first_seen` is None if no sweep has recorded it."""

    key: str
    size_bytes: int
    first_seen: datetime | None


def sweep_is_due(*, tenant_id: str, every: timedelta) -> bool:
    """Whether the last whole sweep of the tenant's objects is that long ago."""
    with connection.cursor() as cursor:
        cursor.execute(_DUE, [every.total_seconds(), tenant_id])
        return bool(cursor.fetchone()[0])


def sweep_orphans(
    *, tenant_id: str, grace: timedelta, store: ObjectStore, progress: Progress, done: float
) -> Collected:
    """The tenant's orphans that were first seen longer ago than `grace` are gone; the others are recorded.

    Raises what `collect_files` raises.
    """
    began = database_time()
    total = Collected()
    for page in _pages(store, tenant_id):
        progress.at("orphans", done)
        due = _see(tenant_id, _unnamed(page), grace=grace)
        failpoint("orphans.after_sighting")
        if due:
            slice_ = _delete(due, tenant_id=tenant_id, store=store)
            total += slice_
            why = f"no row names it; first seen more than {spelled(grace)} before"
            audit(progress, slice_, tenant_id=tenant_id, keys=due, why=why)
    with _sightings(tenant_id) as cursor:
        cursor.execute(_SWEPT, {"tenant": tenant_id, "began": began})
    return total


@contextmanager
def _sightings(tenant_id: str) -> Iterator[CursorWrapper]:
    """A transaction that alone changes the tenant's sightings: two sweeps would lock rows of theirs crosswise."""
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(IDLE_LIMIT + _ALONE, [tenant_id])
        yield cursor


def list_orphans(*, tenant_id: str, store: ObjectStore, progress: Progress, done: float) -> Iterator[Orphan]:
    """The tenant's orphans as they are now, recording nothing."""
    for page in _pages(store, tenant_id):
        progress.at("orphans", done)
        unnamed = _unnamed(page)
        seen = dict(
            OrphanSighting.objects.filter(path__in=[info.key for info in unnamed]).values_list("path", "first_seen")
        )
        for info in unnamed:
            yield Orphan(key=info.key, size_bytes=info.size, first_seen=seen.get(info.key))


def _pages(store: ObjectStore, tenant_id: str) -> Iterator[list[ObjectInfo]]:
    for prefix, ours in ((f"{tenant_id}/", _DATA_FILE), (f"_staged/{tenant_id}/", _STAGED)):
        found: list[ObjectInfo] = []
        for info in store.list(prefix):
            if ours.fullmatch(info.key):
                found.append(info)
            if len(found) == _PAGE:
                yield found
                found = []
        if found:
            yield found


def _unnamed(page: Iterable[ObjectInfo]) -> list[ObjectInfo]:
    """Those of the objects that no row names, asked after they were listed: a row that names one then is as good."""
    by_key = {info.key: info for info in page}
    named = _named(by_key)
    return [info for key, info in by_key.items() if key not in named]


def _named(keys: Iterable[str]) -> set[str]:
    with connection.cursor() as cursor:
        cursor.execute(_NAMED, {"keys": list(keys)})
        return {row[0] for row in cursor.fetchall()}


def _see(tenant_id: str, unnamed: list[ObjectInfo], *, grace: timedelta) -> list[str]:
    """The sightings are recorded; the keys of those whose first one is old enough, and that nothing names still."""
    if not unnamed:
        return []
    given: dict[str, str | float | list[str] | list[int]] = {
        "tenant": tenant_id,
        "paths": [info.key for info in unnamed],
        "sizes": [info.size for info in unnamed],
        "grace": grace.total_seconds(),
    }
    with _sightings(tenant_id) as cursor:
        cursor.execute(_SEE, given)
        old = {path for path, is_old in cursor.fetchall() if is_old}
    return sorted(old - _named_for_good(tenant_id, old)) if old else []


@transaction.atomic
def _named_for_good(tenant_id: str, keys: Iterable[str]) -> set[str]:
    """Those of the keys that a row names, or could still come to name.

    An attempt looks at its limit while it holds its claim or the head, and may commit long after that. Behind these
    locks it has committed, or will find its limit passed.
    """
    with connection.cursor() as cursor:
        cursor.execute(_CLAIMS, [tenant_id])
    lock_head(tenant_id=tenant_id)
    return _named(keys)


def _delete(due: list[str], *, tenant_id: str, store: ObjectStore) -> Collected:
    kept = set(delete_objects(store=store, keys=due))
    failpoint("orphans.after_objects")
    with _sightings(tenant_id) as cursor:
        # Of two sweeps that have deleted the same object the one that removes its row counts it.
        cursor.execute(_FORGET, [[key for key in due if key not in kept]])
        gone = dict(cursor.fetchall())
    size_bytes = sum(gone.values())
    metrics.gc_orphans_deleted.inc(len(gone))
    metrics.gc_bytes_deleted.labels("orphan").inc(size_bytes)
    metrics.gc_undeleted_objects.inc(len(kept))
    for key, size in gone.items():
        log.info("orphan_deleted", tenant_id=tenant_id, key=key, size_bytes=size)
    return Collected(files=len(gone), size_bytes=size_bytes, undeleted=len(kept))
