"""The data files a snapshot consists of: one indexed range query, however long the history is."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from django.db import connection


@dataclass(frozen=True, kw_only=True)
class DataFileInfo:
    """A data file as the planner needs it. `path` is its object key, `column_stats` its bounds by field id."""

    file_id: int
    table_id: int
    path: str
    row_count: int
    size_bytes: int
    sha256: str
    schema_version: int
    level: int
    min_token: int
    max_token: int
    column_stats: dict[str, Any]


# Two branches, an index each: files that are live now, and files that left after the snapshot. OFFSET 0 makes the
# planner look up file by file: it overestimates them by far and would read the whole of data_file.
_FILES = """
WITH member AS (
  SELECT file_id FROM snapshot_file
   WHERE tenant_id = %(tenant)s AND table_id = ANY (%(tables)s) AND removed_in IS NULL AND added_in <= %(snapshot)s
  UNION ALL
  SELECT file_id FROM snapshot_file
   WHERE tenant_id = %(tenant)s AND table_id = ANY (%(tables)s)
     AND removed_in > %(snapshot)s AND added_in <= %(snapshot)s
)
SELECT f.file_id, f.table_id, f.path, f.row_count, f.size_bytes, f.sha256, f.schema_version, f.level,
       f.min_token, f.max_token, f.column_stats::text
  FROM member JOIN LATERAL (SELECT * FROM data_file d WHERE d.file_id = member.file_id OFFSET 0) f ON true
 ORDER BY f.table_id, f.min_token, f.file_id
"""


def files_at(*, tenant_id: str, snapshot_id: int, table_ids: Iterable[int]) -> dict[int, list[DataFileInfo]]:
    """The files of these tables in the snapshot, by table and in token order; a table without files has none."""
    files: dict[int, list[DataFileInfo]] = {table_id: [] for table_id in table_ids}
    if not files:
        return files
    with connection.cursor() as cursor:
        cursor.execute(_FILES, {"tenant": tenant_id, "tables": list(files), "snapshot": snapshot_id})
        for row in cursor.fetchall():
            file = DataFileInfo(
                file_id=row[0],
                table_id=row[1],
                path=row[2],
                row_count=row[3],
                size_bytes=row[4],
                sha256=row[5],
                schema_version=row[6],
                level=row[7],
                min_token=row[8],
                max_token=row[9],
                column_stats=json.loads(row[10]),
            )
            files[file.table_id].append(file)
    return files
