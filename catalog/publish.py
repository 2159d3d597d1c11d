"""The one way a tenant's history goes on. With `catalog.expire` the only writer of snapshots.

Lock order, everywhere: claim, idempotency keys, `tenant_catalog`, token lock. Skip what you do not need, never go back.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from django.db import connection, transaction

from catalog.errors import PublishConflict, TenantNotFound
from catalog.models import DataFile, Snapshot, SnapshotFile, TableDef
from catalog.snapshots import SnapshotInfo


@dataclass(frozen=True, kw_only=True)
class NewFile:
    """A data file whose object is durable in the store and that a snapshot is about to name."""

    table_id: int
    path: str
    row_count: int
    size_bytes: int
    sha256: str
    content_algorithm: str
    content_hash: int
    schema_version: int
    min_token: int
    max_token: int
    column_stats: Mapping[str, Any] = field(default_factory=dict)
    partition_values: Mapping[str, Any] = field(default_factory=dict)
    min_event_time: datetime | None = None
    max_event_time: datetime | None = None
    level: int = 0
    folded: bool = False


@dataclass(frozen=True, kw_only=True)
class Head:
    """The newest snapshot of a tenant, whose row the present transaction holds."""

    snapshot_id: int
    visible_token: int


_ADVANCE = """
UPDATE tenant_catalog
   SET snapshot_seq = snapshot_seq + 1,
       visible_token = coalesce(%s, visible_token),
       stored_bytes = stored_bytes + %s, stored_files = stored_files + %s,
       snapshot_time = greatest(clock_timestamp(), snapshot_time + interval '1 microsecond')
 WHERE tenant_id = %s
RETURNING snapshot_seq, snapshot_time, visible_token
"""

_TOTALS = """
INSERT INTO snapshot_table_watermark (tenant_id, snapshot_id, table_id, max_token, row_count, file_count, size_bytes)
SELECT %s, %s, d.table_id, greatest(coalesce(p.max_token, 0), d.token), coalesce(p.row_count, 0) + d.rows,
       coalesce(p.file_count, 0) + d.files, coalesce(p.size_bytes, 0) + d.bytes
  FROM unnest(%s::bigint[], %s::bigint[], %s::bigint[], %s::bigint[], %s::bigint[])
       d (table_id, token, rows, files, bytes)
  LEFT JOIN LATERAL (SELECT * FROM snapshot_table_watermark w WHERE w.table_id = d.table_id
                      ORDER BY w.snapshot_id DESC LIMIT 1) p ON true
"""


# A program that is stopped while it holds a tenant's head or claim holds up the tenant. Beyond this time the database
# ends its session, so that others go on; the program finds its connection gone and nothing done.
IDLE_LIMIT = "SET LOCAL idle_in_transaction_session_timeout = '5s';"

_LOCK = IDLE_LIMIT + "SELECT snapshot_seq, visible_token FROM tenant_catalog WHERE tenant_id = %s FOR UPDATE"


def lock_head(*, tenant_id: str) -> Head:
    """The tenant's head, which stands still until this transaction ends."""
    if not connection.in_atomic_block:
        raise transaction.TransactionManagementError("The head is locked for a transaction.")
    with connection.cursor() as cursor:
        cursor.execute(_LOCK, [tenant_id])
        row = cursor.fetchone()
    if row is None:
        raise TenantNotFound(f"There is no tenant {tenant_id}.", tenant_id=tenant_id)
    return Head(snapshot_id=row[0], visible_token=row[1])


def lock_tokens(*, tenant_id: str) -> None:
    """No write of the tenant gets a token until this transaction ends."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT duckmesh_token_lock(%s)", [tenant_id])


@transaction.atomic
def publish_snapshot(
    *,
    tenant_id: str,
    kind: Snapshot.Kind,
    actor: str,
    added: Sequence[NewFile] = (),
    removed: Sequence[int] = (),
    watermark: int | None = None,
) -> SnapshotInfo:
    """The tenant's next snapshot exists: the latest one without the files `removed`, with the files `added`.

    Without a `watermark` it carries the one of the snapshot it extends. Raises `PublishConflict` when a removed file
    has left the latest snapshot, a table was dropped, or the watermark would fall; then nothing has changed.
    """
    head = lock_head(tenant_id=tenant_id)
    if watermark is not None and watermark < head.visible_token:
        raise PublishConflict("The watermark may not fall.", watermark=watermark, latest=head.visible_token)
    with connection.cursor() as cursor:
        cursor.execute(_ADVANCE, [watermark, sum(file.size_bytes for file in added), len(added), tenant_id])
        snapshot_id, snapshot_time, visible_token = cursor.fetchone()
    changes = _remove(tenant_id=tenant_id, snapshot_id=snapshot_id, file_ids=removed)
    changes += _add(tenant_id=tenant_id, snapshot_id=snapshot_id, files=added)
    _write_totals(tenant_id=tenant_id, snapshot_id=snapshot_id, changes=changes)
    snapshot = Snapshot.objects.create(
        tenant_id=tenant_id,
        snapshot_id=snapshot_id,
        parent_id=head.snapshot_id,
        snapshot_time=snapshot_time,
        visible_token=visible_token,
        kind=kind,
        created_by=actor,
        summary={
            "tables": sorted({change.table_id for change in changes}),
            "added_files": len(added),
            "removed_files": len(removed),
            "added_rows": sum(file.row_count for file in added),
        },
    )
    return SnapshotInfo.of(snapshot)


@dataclass(frozen=True, kw_only=True)
class _Change:
    table_id: int
    token: int
    rows: int
    files: int
    size_bytes: int


def _remove(*, tenant_id: str, snapshot_id: int, file_ids: Sequence[int]) -> list[_Change]:
    if not file_ids:
        return []
    live = SnapshotFile.objects.filter(tenant_id=tenant_id, file_id__in=file_ids, removed_in=None)
    if live.update(removed_in=snapshot_id) != len(set(file_ids)):
        raise PublishConflict("A file to be replaced has left the latest snapshot.", files=len(file_ids))
    return [
        _Change(table_id=file.table_id, token=0, rows=-file.row_count, files=-1, size_bytes=-file.size_bytes)
        for file in DataFile.objects.filter(file_id__in=file_ids)
    ]


def _add(*, tenant_id: str, snapshot_id: int, files: Sequence[NewFile]) -> list[_Change]:
    if not files:
        return []
    table_ids = {file.table_id for file in files}
    # The head is locked and a drop locks it too: what is live here stays live until we commit.
    live = TableDef.objects.filter(tenant_id=tenant_id, table_id__in=table_ids, dropped_in=None).count()
    if live != len(table_ids):
        raise PublishConflict("A table was dropped.", tables=len(table_ids) - live)
    rows = DataFile.objects.bulk_create(DataFile(tenant_id=tenant_id, **vars(file)) for file in files)
    SnapshotFile.objects.bulk_create(
        SnapshotFile(file_id=row.file_id, tenant_id=tenant_id, table_id=row.table_id, added_in=snapshot_id)
        for row in rows
    )
    return [
        _Change(table_id=f.table_id, token=f.max_token, rows=f.row_count, files=1, size_bytes=f.size_bytes)
        for f in files
    ]


def _write_totals(*, tenant_id: str, snapshot_id: int, changes: Sequence[_Change]) -> None:
    by_table: dict[int, list[_Change]] = defaultdict(list)
    for change in changes:
        by_table[change.table_id].append(change)
    if not by_table:
        return
    groups = by_table.values()
    with connection.cursor() as cursor:
        cursor.execute(
            _TOTALS,
            [
                tenant_id,
                snapshot_id,
                list(by_table),
                [max(change.token for change in group) for group in groups],
                [sum(change.rows for change in group) for group in groups],
                [sum(change.files for change in group) for group in groups],
                [sum(change.size_bytes for change in group) for group in groups],
            ],
        )
