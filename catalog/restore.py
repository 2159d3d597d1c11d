"""A snapshot's contents come back as a new snapshot. Nothing is lost: what they replace stays in the older ones.

Files that are in both stay as they are; those that have come since go, and those that have gone since get an interval
more. A table that has come since is dropped, one that has gone since exists again, as the same table. A version of a
schema is never taken back: the old columns become the next one, under their old field ids.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from django.db import connection, transaction

from catalog.evolution import write_version
from catalog.models import Snapshot, TableDef, TableInterval, TableSchemaVersion
from catalog.publish import lock_tokens, publish_snapshot
from catalog.restoring import restored_columns
from catalog.schema import TableSchema, from_stored
from catalog.snapshots import SnapshotInfo, resolve
from catalog.tables import TableInfo, last_definitions, live_tables, tables_at
from catalog.tenants import raise_ddl_version
from duckmesh.kernel.failpoints import failpoint

Waiting = Callable[[], Iterable[tuple[int, int]]]
"""Tells the tables and schema versions of the writes that come after the restore and are accepted already."""


@dataclass(frozen=True, kw_only=True)
class _Files:
    """What of the tables' files a restore changed."""

    tables: frozenset[int]
    added_files: int
    added_rows: int
    removed_files: int


_CLOSE = """
UPDATE snapshot_file i SET removed_in = %(new)s
 WHERE i.table_id = ANY (%(tables)s) AND i.removed_in IS NULL AND i.added_in > %(old)s
   AND NOT EXISTS (SELECT 1 FROM snapshot_file o
                    WHERE o.file_id = i.file_id AND o.added_in <= %(old)s AND o.removed_in > %(old)s)
RETURNING i.table_id
"""

_OPEN = """
WITH opened AS (
  INSERT INTO snapshot_file (file_id, tenant_id, table_id, added_in)
  SELECT i.file_id, i.tenant_id, i.table_id, %(new)s FROM snapshot_file i
   WHERE i.table_id = ANY (%(tables)s) AND i.removed_in > %(old)s AND i.added_in <= %(old)s
     AND NOT EXISTS (SELECT 1 FROM snapshot_file o WHERE o.file_id = i.file_id AND o.removed_in IS NULL)
  RETURNING file_id, table_id
)
SELECT o.table_id, f.row_count
  FROM opened o JOIN LATERAL (SELECT * FROM data_file d WHERE d.file_id = o.file_id OFFSET 0) f ON true
"""

# A constraint refuses this of a file that is marked for deletion, and the restore with it.
_NAMED_AGAIN = """
UPDATE data_file SET unreferenced_since = NULL
 WHERE unreferenced_since IS NOT NULL
   AND file_id = ANY (ARRAY(SELECT file_id FROM snapshot_file WHERE tenant_id = %(tenant)s AND added_in = %(new)s))
"""

_TOTALS = """
INSERT INTO snapshot_table_watermark (tenant_id, snapshot_id, table_id, max_token, row_count, file_count, size_bytes)
SELECT %(tenant)s, %(new)s, t.table_id, coalesce(w.max_token, 0), coalesce(w.row_count, 0), coalesce(w.file_count, 0),
       coalesce(w.size_bytes, 0)
  FROM unnest(%(changed)s::bigint[]) t (table_id)
  LEFT JOIN LATERAL (SELECT * FROM snapshot_table_watermark w
                      WHERE w.table_id = t.table_id AND w.snapshot_id <= %(old)s
                      ORDER BY w.snapshot_id DESC LIMIT 1) w ON true
"""


@transaction.atomic
def restore_snapshot(*, tenant_id: str, snapshot_id: int, actor: str, watermark: int, waiting: Waiting) -> SnapshotInfo:
    """The tenant's next snapshot consists of what this one does. Writes in flight are decoded again.

    `waiting` is asked behind the token lock. Raises `SnapshotNotFound`, `SnapshotExpired` and `PublishConflict`.
    """
    snapshot = publish_snapshot(tenant_id=tenant_id, kind=Snapshot.Kind.RESTORE, actor=actor, watermark=watermark)
    resolve(tenant_id=tenant_id, snapshot_id=snapshot_id)
    then = {table.table_id: table for table in tables_at(tenant_id=tenant_id, snapshot_id=snapshot_id).values()}
    now = {table.table_id: table for table in live_tables(tenant_id=tenant_id).tables.values()}
    files = _swap_files(tenant_id, {*then, *now}, old=snapshot_id, new=snapshot.snapshot_id)
    with connection.cursor() as cursor:
        # Of a table that comes back the last totals are those before its drop.
        changed = [table_id for table_id in then if table_id in files.tables or table_id not in now]
        cursor.execute(
            _TOTALS,
            {"tenant": tenant_id, "old": snapshot_id, "new": snapshot.snapshot_id, "changed": changed},
        )
    failpoint("restore.after_files")
    lock_tokens(tenant_id=tenant_id)
    _drop(now.keys() - then.keys(), new=snapshot.snapshot_id)
    _revive(then.keys() - now.keys(), new=snapshot.snapshot_id)
    _take_back_columns(tenant_id, then, new=snapshot.snapshot_id, waiting=waiting)
    raise_ddl_version(tenant_id=tenant_id)
    Snapshot.objects.filter(tenant_id=tenant_id, snapshot_id=snapshot.snapshot_id).update(
        summary={
            "tables": sorted(files.tables),
            "added_files": files.added_files,
            "added_rows": files.added_rows,
            "removed_files": files.removed_files,
            "restored_from": snapshot_id,
        }
    )
    return snapshot


def _swap_files(tenant_id: str, table_ids: Iterable[int], *, old: int, new: int) -> _Files:
    given: dict[str, Any] = {"tenant": tenant_id, "tables": list(table_ids), "old": old, "new": new}
    with connection.cursor() as cursor:
        cursor.execute(_CLOSE, given)
        closed = [row[0] for row in cursor.fetchall()]
        cursor.execute(_OPEN, given)
        opened = cursor.fetchall()
        cursor.execute(_NAMED_AGAIN, given)
    return _Files(
        tables=frozenset([*closed, *(table_id for table_id, _ in opened)]),
        added_files=len(opened),
        added_rows=sum(rows for _, rows in opened),
        removed_files=len(closed),
    )


def _drop(table_ids: Iterable[int], *, new: int) -> None:
    TableDef.objects.filter(table_id__in=table_ids).update(dropped_in=new)


def _revive(table_ids: Iterable[int], *, new: int) -> None:
    gone = TableDef.objects.filter(table_id__in=table_ids)
    TableInterval.objects.bulk_create(
        TableInterval(table_id=table.table_id, created_in=table.created_in, dropped_in=table.dropped_in)
        for table in gone
        if table.dropped_in is not None
    )
    gone.update(created_in=new, dropped_in=None)


def _take_back_columns(tenant_id: str, then: Mapping[int, TableInfo], *, new: int, waiting: Waiting) -> None:
    versions = _schemas([pair for pair in waiting() if pair[0] in then])
    for table_id, last in last_definitions(tenant_id=tenant_id, table_ids=then).items():
        old = then[table_id]
        columns = restored_columns(old.schema, waiting=versions.get(table_id, ()))
        if columns != last.schema.columns:
            named = {
                "primary_key_cols": old.primary_key_cols,
                "partition_spec": old.partition_spec,
                "sort_cols": old.sort_cols,
            }
            write_version(last, columns, next_field_id=last.next_field_id, named=named, snapshot_id=new)


def _schemas(pairs: Iterable[tuple[int, int]]) -> dict[int, list[TableSchema]]:
    """The schema versions that these pairs of table and version name, by table, in their order."""
    wanted = set(pairs)
    rows = TableSchemaVersion.objects.filter(table_id__in={table_id for table_id, _ in wanted})
    schemas: dict[int, list[TableSchema]] = {}
    for row in rows.order_by("table_id", "schema_version"):
        if (row.table_id, row.schema_version) in wanted:
            schema = from_stored(row.schema_json["columns"], version=row.schema_version)
            schemas.setdefault(row.table_id, []).append(schema)
    return schemas
