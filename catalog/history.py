"""A tenant's history as it is shown: its snapshots, what each consists of, and what lies between two of them.

Everything is read from the intervals and totals that publications write, and costs what is asked about: the length of
the history does not matter. Rows are those of data files; of a keyed table they are operations, some not yet folded.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from django.db import connection

from catalog.models import TableDef
from catalog.schema import TableSchema, from_stored
from catalog.snapshots import SnapshotInfo, resolve
from catalog.tables import exists_at
from duckmesh.kernel.errors import JSON


@dataclass(frozen=True, kw_only=True)
class ListedSnapshot:
    """A snapshot among others, with the names of the pins that hold it and the tables whose files it changed."""

    snapshot: SnapshotInfo
    pins: tuple[str, ...]
    tables: tuple[str, ...]
    added_files: int
    added_rows: int
    removed_files: int
    restored_from: int | None


@dataclass(frozen=True, kw_only=True)
class TableTotals:
    """What a table consists of in a snapshot."""

    table_id: int
    name: str
    schema_version: int
    files: int
    rows: int
    size_bytes: int


@dataclass(frozen=True, kw_only=True)
class Amount:
    """Files, and what is in them."""

    files: int = 0
    rows: int = 0
    size_bytes: int = 0


@dataclass(frozen=True, kw_only=True)
class SchemaStep:
    """Two versions of a table's schema, and what of its columns differs."""

    from_version: int
    to_version: int
    columns: tuple[dict[str, JSON], ...]


@dataclass(frozen=True, kw_only=True)
class TableChange:
    """How a table differs between two snapshots: it was `created`, `dropped` or `changed`."""

    table_id: int
    name: str
    change: str
    schema: SchemaStep | None
    added: Amount = field(default_factory=Amount)
    removed: Amount = field(default_factory=Amount)


@dataclass(frozen=True, kw_only=True)
class ShownSnapshot:
    """A snapshot, its tables in the order of their names, and what it changed of the one before it."""

    snapshot: SnapshotInfo
    restored_from: int | None
    pins: tuple[str, ...]
    tables: tuple[TableTotals, ...]
    changes: tuple[TableChange, ...]


_LIVE_PIN = "p.name NOT LIKE '\\_duckmesh.%%' AND (p.expires_at IS NULL OR p.expires_at > statement_timestamp())"

_SNAPSHOTS = f"""
SELECT s.snapshot_id, s.parent_id, s.snapshot_time, s.visible_token, s.kind, s.created_by, s.summary::text,
       ARRAY(SELECT p.name FROM snapshot_pin p
              WHERE p.tenant_id = s.tenant_id AND p.snapshot_id = s.snapshot_id AND {_LIVE_PIN} ORDER BY p.name)
  FROM snapshot s
"""
_PAGE = f"""{_SNAPSHOTS}
 WHERE s.tenant_id = %(tenant)s AND (%(before)s::bigint IS NULL OR s.snapshot_id < %(before)s)
 ORDER BY s.snapshot_id DESC LIMIT %(limit)s
"""
_ONE = f"{_SNAPSHOTS} WHERE s.tenant_id = %(tenant)s AND s.snapshot_id = %(snapshot)s"


def list_snapshots(*, tenant_id: str, before: int | None, limit: int) -> list[ListedSnapshot]:
    """The tenant's newest snapshots that have not expired, the newest first, from the first one below `before`."""
    with connection.cursor() as cursor:
        cursor.execute(_PAGE, {"tenant": tenant_id, "before": before, "limit": limit})
        rows = [(_info(tenant_id, row), json.loads(row[6]), tuple(row[7])) for row in cursor.fetchall()]
    ids = {table_id for _, summary, _ in rows for table_id in summary.get("tables", ())}
    names = dict(TableDef.objects.filter(tenant_id=tenant_id, table_id__in=ids).values_list("table_id", "name"))
    return [
        ListedSnapshot(
            snapshot=snapshot,
            pins=pins,
            # One that this snapshot took away may be gone since, row and all.
            tables=tuple(sorted(names[table_id] for table_id in summary.get("tables", ()) if table_id in names)),
            added_files=summary.get("added_files", 0),
            added_rows=summary.get("added_rows", 0),
            removed_files=summary.get("removed_files", 0),
            restored_from=summary.get("restored_from"),
        )
        for snapshot, summary, pins in rows
    ]


def show_snapshot(*, tenant_id: str, snapshot_id: int) -> ShownSnapshot:
    """What the snapshot consists of and what it changed. Raises `SnapshotNotFound` and `SnapshotExpired`."""
    snapshot = resolve(tenant_id=tenant_id, snapshot_id=snapshot_id)
    with connection.cursor() as cursor:
        cursor.execute(_ONE, {"tenant": tenant_id, "snapshot": snapshot_id})
        row = cursor.fetchone()
        cursor.execute(_TOTALS, {"tenant": tenant_id, "snapshot": snapshot_id})
        totals = cursor.fetchall()
    if row is None:
        # It expired between the two looks: the first one tells how that is said.
        return show_snapshot(tenant_id=tenant_id, snapshot_id=snapshot_id)
    return ShownSnapshot(
        snapshot=snapshot,
        restored_from=json.loads(row[6]).get("restored_from"),
        pins=tuple(row[7]),
        tables=tuple(
            TableTotals(table_id=t[0], name=t[1], schema_version=t[2], files=t[3], rows=t[4], size_bytes=t[5])
            for t in totals
        ),
        changes=tuple(_changes(tenant_id, snapshot_id - 1, snapshot_id)),
    )


def diff_snapshots(*, tenant_id: str, from_id: int, to_id: int) -> list[TableChange]:
    """What makes the one snapshot the other, by table, in the order of their names; either may be the older.

    Files that came and went in between are not told. Raises `SnapshotNotFound` and `SnapshotExpired` for either.
    """
    for snapshot_id in (from_id, to_id):
        resolve(tenant_id=tenant_id, snapshot_id=snapshot_id)
    return _changes(tenant_id, from_id, to_id)


_VERSION = """(SELECT v.schema_version FROM table_schema_version v WHERE v.table_id = t.table_id AND v.added_in <= {0}
        ORDER BY v.schema_version DESC LIMIT 1)"""

_TOTALS = f"""
SELECT t.table_id, t.name, {_VERSION.format("%(snapshot)s")},
       coalesce(w.file_count, 0), coalesce(w.row_count, 0), coalesce(w.size_bytes, 0)
  FROM table_def t
  LEFT JOIN LATERAL (SELECT * FROM snapshot_table_watermark w
                      WHERE w.table_id = t.table_id AND w.snapshot_id <= %(snapshot)s
                      ORDER BY w.snapshot_id DESC LIMIT 1) w ON true
 WHERE t.tenant_id = %(tenant)s AND {exists_at("%(snapshot)s")}
 ORDER BY lower(t.name)
"""

_TABLES = f"""
SELECT table_id, name, CASE WHEN here THEN {_VERSION.format("%(from)s")} END,
       CASE WHEN there THEN {_VERSION.format("%(to)s")} END
  FROM (SELECT t.*, {exists_at("%(from)s")} AS here, {exists_at("%(to)s")} AS there
          FROM table_def t WHERE t.tenant_id = %(tenant)s) t
 WHERE here OR there ORDER BY lower(name), table_id
"""

# Only what changed after the older and up to the newer of the two can differ. A file may have several intervals: what
# was removed and restored in between is in both.
_FILES = """
WITH change AS (
  SELECT i.table_id, i.file_id, false AS later FROM snapshot_file i
   WHERE i.tenant_id = %(tenant)s AND i.removed_in > %(older)s AND i.removed_in <= %(newer)s AND i.added_in <= %(older)s
     AND NOT EXISTS (SELECT 1 FROM snapshot_file o WHERE o.file_id = i.file_id AND o.added_in > %(older)s
                        AND o.added_in <= %(newer)s AND (o.removed_in IS NULL OR o.removed_in > %(newer)s))
  UNION ALL
  SELECT i.table_id, i.file_id, true FROM snapshot_file i
   WHERE i.tenant_id = %(tenant)s AND i.added_in > %(older)s AND i.added_in <= %(newer)s
     AND (i.removed_in IS NULL OR i.removed_in > %(newer)s)
     AND NOT EXISTS (SELECT 1 FROM snapshot_file o WHERE o.file_id = i.file_id AND o.added_in <= %(older)s
                        AND o.removed_in > %(older)s)
)
SELECT c.table_id, c.later, count(*), sum(f.row_count)::bigint, sum(f.size_bytes)::bigint
  FROM change c JOIN LATERAL (SELECT * FROM data_file d WHERE d.file_id = c.file_id OFFSET 0) f ON true
 GROUP BY c.table_id, c.later
"""

_COLUMNS = """
SELECT table_id, schema_version, (schema_json->'columns')::text FROM table_schema_version
 WHERE (table_id, schema_version) IN (SELECT * FROM unnest(%s::bigint[], %s::int[]))
"""


def _changes(tenant_id: str, from_id: int, to_id: int) -> list[TableChange]:
    with connection.cursor() as cursor:
        cursor.execute(_TABLES, {"tenant": tenant_id, "from": from_id, "to": to_id})
        tables = cursor.fetchall()
        cursor.execute(_FILES, {"tenant": tenant_id, "older": min(from_id, to_id), "newer": max(from_id, to_id)})
        amounts = {
            (row[0], row[1] == (from_id < to_id)): Amount(files=row[2], rows=row[3], size_bytes=row[4])
            for row in cursor.fetchall()
        }
        steps = [(row[0], row[2], row[3]) for row in tables if row[2] and row[3] and row[2] != row[3]]
        schemas = _schemas(cursor, [(table_id, version) for table_id, *pair in steps for version in pair])
    step_of = {
        table_id: SchemaStep(
            from_version=before,
            to_version=after,
            columns=tuple(column_changes(schemas[table_id, before], schemas[table_id, after])),
        )
        for table_id, before, after in steps
    }
    changes = []
    for table_id, name, before, after in tables:
        change = "created" if before is None else "dropped" if after is None else "changed"
        added, removed = amounts.get((table_id, True), Amount()), amounts.get((table_id, False), Amount())
        if change != "changed" or table_id in step_of or added.files or removed.files:
            schema = step_of.get(table_id)
            changes.append(
                TableChange(table_id=table_id, name=name, change=change, schema=schema, added=added, removed=removed)
            )
    return changes


def column_changes(before: TableSchema, after: TableSchema) -> list[dict[str, JSON]]:
    """What makes the columns of the one version those of the other. Columns are known by their field ids."""
    old = {column.field_id: column for column in before.columns}
    new = {column.field_id: column for column in after.columns}
    changes: list[dict[str, JSON]] = [
        {"change": "dropped", "column": column.name, "type": column.type}
        for field_id, column in old.items()
        if field_id not in new
    ]
    for field_id, column in new.items():
        was = old.get(field_id)
        if was is None:
            changes.append({"change": "added", "column": column.name, "type": column.type})
            continue
        if was.name != column.name:
            changes.append({"change": "renamed", "column": column.name, "was": was.name})
        if was.type != column.type:
            changes.append({"change": "retyped", "column": column.name, "was": was.type, "type": column.type})
        if was.nullable != column.nullable:
            changes.append({"change": "nullable" if column.nullable else "not_nullable", "column": column.name})
    return changes


# `Any`: the driver's cursor.
def _schemas(cursor: Any, wanted: Sequence[tuple[int, int]]) -> dict[tuple[int, int], TableSchema]:
    if not wanted:
        return {}
    cursor.execute(_COLUMNS, [[table_id for table_id, _ in wanted], [version for _, version in wanted]])
    return {(row[0], row[1]): from_stored(json.loads(row[2]), version=row[1]) for row in cursor.fetchall()}


def _info(tenant_id: str, row: tuple[int, int | None, datetime, int, str, str, str, list[str]]) -> SnapshotInfo:
    return SnapshotInfo(
        tenant_id=tenant_id,
        snapshot_id=row[0],
        parent_id=row[1],
        snapshot_time=row[2],
        visible_token=row[3],
        kind=row[4],
        created_by=row[5],
    )
