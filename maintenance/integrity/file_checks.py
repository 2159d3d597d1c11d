"""Checks of data files and of the intervals in which snapshots name them."""

from catalog.expire import IS_NAMED
from maintenance.integrity.checks import Check, Slicing
from maintenance.integrity.findings import FindingKind

_SLICE = """f.tenant_id = %(tenant)s AND f.file_id > %(low)s AND f.file_id <= %(high)s
   AND (%(table)s::bigint IS NULL OR f.table_id = %(table)s)"""

_FACTS = "'table_name', t.name, 'rows', f.row_count, 'size_bytes', f.size_bytes"

_FILES = "data_file f JOIN table_def t ON t.table_id = f.table_id"
_INTERVALS = f"{_FILES} JOIN snapshot_file i ON i.file_id = f.file_id"

_WITHOUT_INTERVAL = f"""
SELECT f.table_id, f.file_id, f.path, json_build_object({_FACTS}, 'rows_lost', f.row_count,
       'min_token', f.min_token, 'max_token', f.max_token)::text
  FROM {_FILES}
 WHERE {_SLICE} AND f.tombstoned_at IS NULL
   AND NOT EXISTS (SELECT 1 FROM snapshot_file i WHERE i.file_id = f.file_id)
"""

_OVERLAP = f"""
SELECT f.table_id, f.file_id, f.path, json_build_object({_FACTS}, 'rows_twice', f.row_count,
       'intervals', json_build_array(json_build_array(i.added_in, i.removed_in),
                                     json_build_array(o.added_in, o.removed_in)))::text
  FROM {_INTERVALS} JOIN snapshot_file o ON o.file_id = i.file_id AND o.added_in > i.added_in
 WHERE {_SLICE} AND (i.removed_in IS NULL OR i.removed_in > o.added_in)
"""

_OUTSIDE_TABLE = f"""
SELECT f.table_id, f.file_id, f.path, json_build_object({_FACTS}, 'added_in', i.added_in, 'removed_in', i.removed_in,
       'table_created_in', t.created_in, 'table_dropped_in', t.dropped_in)::text
  FROM {_INTERVALS}
 WHERE {_SLICE} AND NOT EXISTS (
   SELECT 1 FROM (SELECT t.created_in, t.dropped_in
                  UNION ALL SELECT created_in, dropped_in FROM table_interval WHERE table_id = t.table_id) x
    WHERE x.created_in <= i.added_in AND (x.dropped_in IS NULL OR x.dropped_in >= i.removed_in))
"""

_BEYOND_HEAD = f"""
SELECT f.table_id, f.file_id, f.path, json_build_object({_FACTS}, 'added_in', i.added_in, 'removed_in', i.removed_in,
       'latest_snapshot', c.snapshot_seq)::text
  FROM {_INTERVALS} JOIN tenant_catalog c ON c.tenant_id = f.tenant_id
 WHERE {_SLICE} AND greatest(i.added_in, i.removed_in) > c.snapshot_seq
"""

_OF_OTHER_TABLE = f"""
SELECT f.table_id, f.file_id, f.path, json_build_object({_FACTS}, 'interval_table_id', i.table_id,
       'added_in', i.added_in, 'removed_in', i.removed_in, 'rows_lost', f.row_count)::text
  FROM {_INTERVALS}
 WHERE {_SLICE} AND i.table_id <> f.table_id
"""

_NAMED_TOMBSTONED = f"""
SELECT f.table_id, f.file_id, f.path, json_build_object({_FACTS}, 'rows_lost', f.row_count,
       'tombstoned_at', f.tombstoned_at)::text
  FROM {_FILES}
 WHERE {_SLICE} AND f.tombstoned_at IS NOT NULL AND {IS_NAMED}
"""

_NAMED_MARKED = f"""
SELECT f.table_id, f.file_id, f.path, json_build_object({_FACTS}, 'unreferenced_since', f.unreferenced_since)::text
  FROM {_FILES}
 WHERE {_SLICE} AND f.tombstoned_at IS NULL AND f.unreferenced_since IS NOT NULL AND {IS_NAMED}
"""

_NOT_MARKED = f"""
SELECT f.table_id, f.file_id, f.path, json_build_object({_FACTS})::text
  FROM {_FILES}
 WHERE {_SLICE} AND f.unreferenced_since IS NULL
   AND EXISTS (SELECT 1 FROM snapshot_file i WHERE i.file_id = f.file_id) AND NOT {IS_NAMED}
"""

# The first kept snapshot that names the file has the least watermark of them.
_AHEAD = f"""
SELECT f.table_id, f.file_id, f.path, json_build_object({_FACTS}, 'max_token', f.max_token,
       'snapshot_id', s.snapshot_id, 'visible_token', s.visible_token)::text
  FROM {_INTERVALS}
  CROSS JOIN LATERAL (SELECT snapshot_id, visible_token FROM snapshot
                       WHERE tenant_id = i.tenant_id AND snapshot_id >= i.added_in
                       ORDER BY snapshot_id LIMIT 1) s
 WHERE {_SLICE} AND (i.removed_in IS NULL OR s.snapshot_id < i.removed_in) AND s.visible_token < f.max_token
"""

_SCHEMA_UNKNOWN = f"""
SELECT f.table_id, f.file_id, f.path, json_build_object({_FACTS}, 'schema_version', f.schema_version)::text
  FROM {_FILES}
 WHERE {_SLICE}
   AND NOT EXISTS (SELECT 1 FROM table_schema_version v
                    WHERE v.table_id = f.table_id AND v.schema_version = f.schema_version
                      AND v.added_in <= coalesce((SELECT min(i.added_in) FROM snapshot_file i
                                                   WHERE i.file_id = f.file_id), v.added_in))
"""

_MISPLACED = f"""
SELECT f.table_id, f.file_id, f.path, json_build_object({_FACTS})::text
  FROM {_FILES}
 WHERE {_SLICE} AND NOT starts_with(f.path, f.tenant_id || '/' || t.name || '/')
"""

FILE_CHECKS = tuple(
    Check(kind=kind, by=Slicing.FILES, sql=sql)
    for kind, sql in {
        FindingKind.FILE_WITHOUT_INTERVAL: _WITHOUT_INTERVAL,
        FindingKind.INTERVALS_OVERLAP: _OVERLAP,
        FindingKind.INTERVAL_OUTSIDE_TABLE: _OUTSIDE_TABLE,
        FindingKind.INTERVAL_BEYOND_HEAD: _BEYOND_HEAD,
        FindingKind.INTERVAL_OF_OTHER_TABLE: _OF_OTHER_TABLE,
        FindingKind.NAMED_FILE_TOMBSTONED: _NAMED_TOMBSTONED,
        FindingKind.NAMED_FILE_MARKED: _NAMED_MARKED,
        FindingKind.UNNAMED_FILE_NOT_MARKED: _NOT_MARKED,
        FindingKind.FILE_AHEAD_OF_WATERMARK: _AHEAD,
        FindingKind.FILE_SCHEMA_UNKNOWN: _SCHEMA_UNKNOWN,
        FindingKind.MISPLACED_FILE: _MISPLACED,
    }.items()
)
