"""Retention as tests ask for it, and what must hold of a store and its catalog whatever was done."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

from django.db import connection

from catalog.identity import OWNER_KEY
from catalog.models import DataFile, Snapshot, TenantCatalog
from catalog.publish import NewFile, publish_snapshot
from duckmesh.kernel.clock import now
from maintenance.job import Scope, Workplace
from maintenance.ladder import RetentionPolicy
from maintenance.retention import perform
from maintenance.rules import RetentionLimits, RetentionOptions
from storage.keys import data_file_key
from storage.store import ObjectStore
from tests.factories import make_file
from tests.lake import Lake
from tests.progress import Recorder

SAFETY = timedelta(minutes=30)
LONG = SAFETY + timedelta(seconds=1)
GRACE = timedelta(hours=24)
LIMITS = RetentionLimits(
    safety_age=SAFETY, least_safety_age=timedelta(minutes=15), orphan_grace=GRACE, sweep_every=timedelta(hours=1)
)
ONLY_LATEST = RetentionPolicy(keep_last=1, keep_all_for=timedelta(0), rungs=())


def retain(
    lake: Lake,
    *,
    scope: Scope | None = None,
    store: ObjectStore | None = None,
    policy: RetentionPolicy = ONLY_LATEST,
    progress: Recorder | None = None,
    **options: Any,
) -> dict[str, Any]:
    """The summary of a run; by default of all tenants, keeping only the latest snapshot, orphans swept now."""
    return perform(
        scope=scope or Scope(),
        options=RetentionOptions(**{"orphans": True, **options}),
        place=Workplace(store=store or lake.store, scratch=lake.root / "scratch"),
        policy=policy,
        limits=LIMITS,
        progress=progress or Recorder(),
    )


def stored(store: ObjectStore) -> set[str]:
    """The keys in the store, without its own."""
    return {info.key for info in store.list("")} - {OWNER_KEY}


def named(tenant_id: str) -> set[str]:
    """The keys of all data files that have a row."""
    return set(DataFile.objects.filter(tenant_id=tenant_id).values_list("path", flat=True))


def check_counters(tenant_id: str) -> None:
    """The head counts exactly the files that have a row."""
    sizes = list(DataFile.objects.filter(tenant_id=tenant_id).values_list("size_bytes", flat=True))
    head = TenantCatalog.objects.get(tenant_id=tenant_id)
    assert (head.stored_files, head.stored_bytes) == (len(sizes), sum(sizes))


_TOO_EARLY = """
SELECT f.path FROM data_file f JOIN snapshot_file i USING (file_id)
 WHERE f.tenant_id = %s AND f.tombstoned_at IS NOT NULL
   AND (i.removed_in IS NULL OR EXISTS (SELECT 1 FROM snapshot s WHERE s.tenant_id = f.tenant_id
                                           AND s.snapshot_id >= i.added_in AND s.snapshot_id < i.removed_in))
"""
_MISSING = """
SELECT DISTINCT f.path FROM data_file f JOIN snapshot_file i USING (file_id)
  JOIN snapshot s ON s.tenant_id = f.tenant_id AND s.snapshot_id >= i.added_in
       AND (i.removed_in IS NULL OR s.snapshot_id < i.removed_in)
 WHERE f.tenant_id = %s
"""


def check_reachable(tenant_id: str, store: ObjectStore) -> None:
    """Every file that a snapshot names is in the store, and none of them is tombstoned."""
    with connection.cursor() as cursor:
        cursor.execute(_TOO_EARLY, [tenant_id])
        assert cursor.fetchall() == []
        cursor.execute(_MISSING, [tenant_id])
        needed = {row[0] for row in cursor.fetchall()}
    assert needed <= stored(store)
    check_counters(tenant_id)


def new_file(store: ObjectStore, tenant_id: str, table_id: int, data: bytes = b"rows") -> NewFile:
    """A file as an attempt writes it, of bytes that are no Parquet, which no row names yet."""
    key = data_file_key(tenant_id=tenant_id, table_name="events", at=now(), snapshot_or_epoch=1, seq=0)
    store.put(key, data)
    return replace(make_file(table_id=table_id, size_bytes=len(data)), path=key)


def put_file(store: ObjectStore, tenant_id: str, table_id: int, *, removed: Sequence[int] = ()) -> int:
    """The tenant's next snapshot, with a new file, of bytes that are no Parquet, and without these; the file's id."""
    file = new_file(store, tenant_id, table_id)
    kind = Snapshot.Kind.COMPACTION if removed else Snapshot.Kind.INGEST
    publish_snapshot(tenant_id=tenant_id, kind=kind, actor="test", added=[file], removed=removed)
    return DataFile.objects.get(path=file.path).file_id


def put_orphan(store: ObjectStore, tenant_id: str, number: int = 1, table: str = "events") -> str:
    """A data file as an attempt writes it, which no row names; its key."""
    name = f"part-1-{number}-{number:08x}-0000-4000-8000-000000000000.parquet"
    key = f"{tenant_id}/{table}/date=2026-01-01/hour=00/{name}"
    store.put(key, b"rows")
    return key
