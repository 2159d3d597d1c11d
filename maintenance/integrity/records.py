"""What the catalog says lies in the store, in the order in which the store lists it, a page at a time."""

import json
from array import array
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from django.db import connection

from maintenance.integrity.checks import Part

_PAGE = 2_000
_END = "\U0010ffff"
_TENANTS_AT_ONCE = 8

# A staged payload must be there from when a write names it until that is done; before and after it may be.
_RECORDS = """
SELECT * FROM (
 (SELECT f.path COLLATE "C" AS path, f.size_bytes, f.file_id, f.tenant_id, f.table_id, f.row_count,
         f.tombstoned_at IS NULL AS must_be,
         (SELECT json_agg(json_build_array(i.added_in, i.removed_in)) FROM snapshot_file i
           WHERE i.file_id = f.file_id)::text AS spans
    FROM data_file f
   WHERE f.path COLLATE "C" > %(after)s AND f.path COLLATE "C" < %(end)s
   ORDER BY f.path COLLATE "C" LIMIT %(most)s)
 UNION ALL
 (SELECT g.path COLLATE "C", g.size_bytes, NULL, g.tenant_id, e.table_id, e.record_count,
         g.doomed_at IS NULL AND e.state IN ('pending', 'failed'), NULL
    FROM ingest_staged g LEFT JOIN ingest_event e ON e.event_id = g.event_id
   WHERE g.path COLLATE "C" > %(after)s AND g.path COLLATE "C" < %(end)s
   ORDER BY g.path COLLATE "C" LIMIT %(most)s)
) r ORDER BY path COLLATE "C" LIMIT %(most)s
"""

_AGAIN = """
SELECT path, tombstoned_at IS NULL FROM data_file WHERE path = ANY (%(keys)s)
UNION ALL
SELECT g.path, g.doomed_at IS NULL AND coalesce(e.state IN ('pending', 'failed'), false)
  FROM ingest_staged g LEFT JOIN ingest_event e ON e.event_id = g.event_id WHERE g.path = ANY (%(keys)s)
"""


@dataclass(frozen=True, kw_only=True)
class Record:
    """An object that a row names: a data file, or without a `file_id` a staged payload. `must_be`: not yet given up.

    `spans` are the intervals of snapshots that name a file, the end of an open one being None.
    """

    path: str
    size_bytes: int
    file_id: int | None
    tenant_id: str
    table_id: int | None
    row_count: int | None
    must_be: bool
    spans: tuple[tuple[int, int | None], ...]


def records(*, prefix: str, after: str) -> Iterator[Record]:
    """The records of this prefix behind `after`, in the order of their keys' bytes."""
    while page := _page(after=max(after, prefix), end=prefix + _END):
        yield from page
        after = page[-1].path
        if len(page) < _PAGE:
            return


def given_up(keys: Sequence[str]) -> dict[str, bool]:
    """Of those of these keys that a row names at this moment: whether the object may be gone all the same."""
    with connection.cursor() as cursor:
        cursor.execute(_AGAIN, {"keys": list(keys)})
        return {path: not must_be for path, must_be in cursor.fetchall()}


def _page(*, after: str, end: str) -> list[Record]:
    with connection.cursor() as cursor:
        cursor.execute(_RECORDS, {"after": after, "end": end, "most": _PAGE})
        return [
            Record(
                path=row[0],
                size_bytes=row[1],
                file_id=row[2],
                tenant_id=row[3],
                table_id=row[4],
                row_count=row[5],
                must_be=bool(row[6]),
                spans=tuple((added, removed) for added, removed in json.loads(row[7] or "[]")),
            )
            for row in cursor.fetchall()
        ]


_KEPT = """
SELECT snapshot_id FROM snapshot WHERE tenant_id = %s AND snapshot_id BETWEEN %s AND %s ORDER BY snapshot_id
"""


class KeptSnapshots:
    """The snapshots of the part that were kept when its tenant was first asked about, eight bytes each."""

    def __init__(self, part: Part | None) -> None:
        self._part = part
        self._held: dict[str, array[int]] = {}

    def naming(self, record: Record) -> int:
        """How many of them name the file. A file that is in the latest snapshot counts as named once at least."""
        kept = self._of(record.tenant_id)
        found = 0
        for added, removed in record.spans:
            end = len(kept) if removed is None else bisect_left(kept, removed)
            found += max(0, end - bisect_left(kept, added))
        # Published since: the snapshots were read before the file.
        live = any(removed is None for _, removed in record.spans)
        newest = kept[-1] if kept else -1
        return found or int(live and self._unbounded and all(added > newest for added, _ in record.spans))

    @property
    def _unbounded(self) -> bool:
        return self._part is None or self._part.to_snapshot == Part(tenant_id="").to_snapshot

    def _of(self, tenant_id: str) -> "array[int]":
        if tenant_id not in self._held:
            if len(self._held) >= _TENANTS_AT_ONCE:
                self._held.pop(next(iter(self._held)))
            part = self._part or Part(tenant_id=tenant_id)
            with connection.cursor() as cursor:
                cursor.execute(_KEPT, [tenant_id, part.from_snapshot, part.to_snapshot])
                self._held[tenant_id] = array("q", (row[0] for row in cursor.fetchall()))
        return self._held[tenant_id]
