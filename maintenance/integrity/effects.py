"""What a file that cannot be read takes away, from which snapshots, and what would bring it back."""

from collections.abc import Mapping
from typing import Any

from django.db import connection

from duckmesh.kernel.clock import rfc3339
from duckmesh.kernel.errors import JSON

_MOST_KEYS = 20
_MOST_BACKUPS = 3

_FILE = """
SELECT f.table_id, t.name, f.row_count, f.level, f.min_token, f.max_token
  FROM data_file f JOIN table_def t ON t.table_id = f.table_id WHERE f.file_id = %s
"""
_SNAPSHOTS = """
SELECT count(*), min(s.snapshot_id), max(s.snapshot_id), coalesce(bool_or(s.snapshot_id = c.snapshot_seq), false)
  FROM snapshot_file i
  JOIN snapshot s ON s.tenant_id = i.tenant_id AND s.snapshot_id >= i.added_in
   AND (i.removed_in IS NULL OR s.snapshot_id < i.removed_in)
  JOIN tenant_catalog c ON c.tenant_id = i.tenant_id
 WHERE i.file_id = %s
"""
# Whatever is named while a backup dumps is in it, and with data its object was copied.
_BACKUPS = """
SELECT b.name, b.dumped_at FROM backup b JOIN data_file f ON f.created_at < b.started_at
 WHERE f.file_id = %s AND b.state = 'completed' AND b.with_data ORDER BY b.dumped_at DESC LIMIT %s
"""
_INTERVALS = "SELECT added_in, removed_in FROM snapshot_file WHERE file_id = %s ORDER BY added_in"

# What a snapshot of this table took away and what it put there. Where a compaction made it, and did not fold, the two
# hold the same rows.
_EXCHANGED = """
SELECT coalesce(i.removed_in = %(snapshot)s, false) AS taken, count(*), sum(f.row_count), sum(f.content_hash),
       count(*) FILTER (WHERE f.tombstoned_at IS NOT NULL), bool_or(f.level > 0),
       (array_agg(f.path ORDER BY f.file_id))[1:%(most)s],
       (SELECT kind FROM snapshot s WHERE s.tenant_id = min(i.tenant_id) AND s.snapshot_id = %(snapshot)s)
  FROM snapshot_file i JOIN data_file f ON f.file_id = i.file_id
 WHERE i.table_id = %(table)s AND (i.added_in = %(snapshot)s OR i.removed_in = %(snapshot)s)
 GROUP BY 1
"""


def effect_of(file_id: int) -> Mapping[str, JSON]:
    """Details of a finding: the file's table, the rows that are lost without it, the kept snapshots that name it."""
    with connection.cursor() as cursor:
        cursor.execute(_FILE, [file_id])
        row = cursor.fetchone()
        if row is None:
            return {}
        table_id, name, rows, level, first, last = row
        cursor.execute(_SNAPSHOTS, [file_id])
        count, oldest, newest, latest = cursor.fetchone()
        cursor.execute(_INTERVALS, [file_id])
        intervals = cursor.fetchall()
        cursor.execute(_BACKUPS, [file_id, _MOST_BACKUPS])
        found: list[JSON] = [
            {"from": "backup", "backup": name, "dumped_at": rfc3339(dumped_at)} for name, dumped_at in cursor.fetchall()
        ]
    for added_in, removed_in in intervals:
        if level:
            found += _elsewhere("compaction_inputs", table_id, added_in, taken=True)
        if removed_in is not None:
            found += _elsewhere("compaction_output", table_id, removed_in, taken=False)
    return {
        "table_name": name,
        "rows_lost": rows if count else 0,
        "min_token": first,
        "max_token": last,
        "snapshots": {"count": count, "first": oldest, "last": newest, "latest": latest},
        "recover": found,
    }


def _elsewhere(source: str, table_id: int, snapshot_id: int, *, taken: bool) -> list[JSON]:
    """The other side of a compaction, if that is what made the snapshot and all of that side is still there."""
    with connection.cursor() as cursor:
        cursor.execute(_EXCHANGED, {"table": table_id, "snapshot": snapshot_id, "most": _MOST_KEYS})
        sides: dict[bool, Any] = {row[0]: row[1:] for row in cursor.fetchall()}
    if len(sides) < 2 or not sides[False][4]:
        return []
    files, rows, hashes, gone, _, keys, kind = sides[taken]
    same_rows = (rows, hashes) == sides[not taken][1:3]
    if gone or not (same_rows or kind == "compaction"):
        return []
    return [
        {
            "from": source,
            "snapshot_id": snapshot_id,
            "files": files,
            "rows": int(rows),
            "same_rows": same_rows,
            "object_keys": list(keys),
        }
    ]
