"""What no snapshot names any more goes: files are tombstoned, and forgotten when their objects are gone; then tables.

A file comes this far when the last snapshot that named it expires (`catalog.expire`). It is tombstoned when that was so
long ago that no query and no attempt can still be reading it, unless a hold keeps it. From then on nothing may name it
again, so its object can be deleted at any time, any number of times, and its row after that.
"""

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog
from django.db import IntegrityError, connection, transaction
from django.db.models import F

from catalog.expire import IS_NAMED
from catalog.holds import FILE_IS_HELD, keep_holds_away
from catalog.models import (
    DataFile,
    SnapshotFile,
    SnapshotTableWatermark,
    TableInterval,
    TableSchemaVersion,
    TenantCatalog,
)
from catalog.publish import lock_head

log = structlog.get_logger(__name__)


@dataclass(frozen=True, kw_only=True)
class Doomed:
    """A tombstoned file, whose object is to be deleted."""

    file_id: int
    path: str
    size_bytes: int


# The time of the statement is at most its present moment, and an index can be searched by it.
_OLD_ENOUGH = "f.unreferenced_since < statement_timestamp() - make_interval(secs => %(age)s)"
_IN_SCOPE = "f.tenant_id = %(tenant)s AND (%(table)s::bigint IS NULL OR f.table_id = %(table)s)"

# What is named all the same keeps no mark: when it is named no more, its age begins anew.
_UNMARK = f"""
UPDATE data_file f SET unreferenced_since = NULL
 WHERE {_IN_SCOPE} AND f.tombstoned_at IS NULL AND {_OLD_ENOUGH} AND {IS_NAMED}
"""

_TOMBSTONE = f"""
UPDATE data_file SET tombstoned_at = clock_timestamp()
 WHERE file_id = ANY (ARRAY(
   SELECT f.file_id FROM data_file f
    WHERE {_IN_SCOPE} AND f.tombstoned_at IS NULL AND {_OLD_ENOUGH} AND NOT {FILE_IS_HELD}
    ORDER BY f.unreferenced_since LIMIT %(most)s))
"""


@transaction.atomic
def tombstone_files(*, tenant_id: str, table_id: int | None, unreferenced_for: timedelta, most: int) -> int:
    """Up to so many files that no snapshot has named for so long, and no hold keeps, are tombstoned; how many."""
    given = {"tenant": tenant_id, "table": table_id, "age": unreferenced_for.total_seconds(), "most": most}
    lock_head(tenant_id=tenant_id)
    keep_holds_away()
    with connection.cursor() as cursor:
        cursor.execute(_UNMARK, given)
        cursor.execute(_TOMBSTONE, given)
        count = int(cursor.rowcount)
    if count:
        transaction.on_commit(lambda: log.info("files_tombstoned", tenant_id=tenant_id, files=count))
    return count


def doomed_files(*, tenant_id: str, table_id: int | None, after: int, most: int) -> list[Doomed]:
    """Up to so many tombstoned files, in the order of their ids, from the first one behind `after`."""
    files = DataFile.objects.filter(
        tenant_id=tenant_id, unreferenced_since__isnull=False, tombstoned_at__isnull=False, file_id__gt=after
    )
    if table_id is not None:
        files = files.filter(table_id=table_id)
    rows = files.order_by("file_id").values_list("file_id", "path", "size_bytes")[:most]
    return [Doomed(file_id=file_id, path=path, size_bytes=size) for file_id, path, size in rows]


@transaction.atomic
def forget_files(*, tenant_id: str, file_ids: Sequence[int]) -> list[Doomed]:
    """The rows of these tombstoned files, whose objects are gone, are gone too; those that were still there.

    The tenant's stored bytes and files count them no more.
    """
    lock_head(tenant_id=tenant_id)
    rows = DataFile.objects.filter(tenant_id=tenant_id, file_id__in=file_ids, tombstoned_at__isnull=False)
    gone = [
        Doomed(file_id=file_id, path=path, size_bytes=size)
        for file_id, path, size in rows.values_list("file_id", "path", "size_bytes")
    ]
    ids = [file.file_id for file in gone]
    SnapshotFile.objects.filter(file_id__in=ids).delete()
    DataFile.objects.filter(file_id__in=ids).delete()
    TenantCatalog.objects.filter(tenant_id=tenant_id).update(
        stored_bytes=F("stored_bytes") - sum(file.size_bytes for file in gone),
        stored_files=F("stored_files") - len(gone),
    )
    return gone


# Its writes name it as long as they are remembered.
_FORGOTTEN_TABLES = """
SELECT t.table_id FROM table_def t
 WHERE t.tenant_id = %(tenant)s AND t.dropped_in IS NOT NULL
   AND NOT EXISTS (SELECT 1 FROM data_file f WHERE f.table_id = t.table_id)
   AND NOT EXISTS (SELECT 1 FROM snapshot s WHERE s.tenant_id = t.tenant_id
                      AND s.snapshot_id >= t.created_in AND s.snapshot_id < t.dropped_in)
   AND NOT EXISTS (SELECT 1 FROM table_interval i JOIN snapshot s ON s.tenant_id = t.tenant_id
                      AND s.snapshot_id >= i.created_in AND s.snapshot_id < i.dropped_in
                    WHERE i.table_id = t.table_id)
   AND NOT EXISTS (SELECT 1 FROM ingest_event e WHERE e.tenant_id = t.tenant_id AND e.table_id = t.table_id)
 ORDER BY t.table_id
"""


def forgotten_tables(*, tenant_id: str) -> list[int]:
    """The dropped tables that no snapshot, file or remembered write names any more. Reads all writes of the tenant."""
    with connection.cursor() as cursor:
        cursor.execute(_FORGOTTEN_TABLES, {"tenant": tenant_id})
        return [row[0] for row in cursor.fetchall()]


def forget_table(*, tenant_id: str, table_id: int) -> bool:
    """The dropped table's rows are gone; False if something names it after all, such as a run in the history."""
    try:
        with transaction.atomic():
            lock_head(tenant_id=tenant_id)
            if table_id not in forgotten_tables(tenant_id=tenant_id):
                return False
            for model in (SnapshotTableWatermark, TableInterval, TableSchemaVersion):
                model.objects.filter(table_id=table_id).delete()
            with connection.cursor() as cursor:
                # By its keys the database knows all that names a table, better than a list here would.
                cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")
                cursor.execute("DELETE FROM table_def WHERE table_id = %s", [table_id])
    except IntegrityError:
        return False
    return True


@dataclass(frozen=True, kw_only=True)
class Unreferenced:
    """A file that no snapshot names: since when, when it is old enough to be deleted, and the hold that keeps it."""

    file_id: int
    path: str
    size_bytes: int
    since: datetime
    due: datetime
    tombstoned: bool
    held_by: str | None


_UNREFERENCED = """
SELECT f.file_id, f.path, f.size_bytes, f.unreferenced_since,
       f.unreferenced_since + make_interval(secs => %(age)s), f.tombstoned_at IS NOT NULL,
       (SELECT h.kind || ' ' || h.name FROM file_hold h
         WHERE f.unreferenced_since >= h.created_at AND (h.upto_file_id IS NULL OR f.file_id <= h.upto_file_id)
           AND (h.expires_at IS NULL OR h.expires_at > clock_timestamp()) ORDER BY h.hold_id LIMIT 1)
  FROM data_file f
 WHERE f.tenant_id = %(tenant)s AND (%(table)s::bigint IS NULL OR f.table_id = %(table)s)
   AND f.unreferenced_since IS NOT NULL
 ORDER BY f.file_id
"""


def unreferenced_files(*, tenant_id: str, table_id: int | None, unreferenced_for: timedelta) -> list[Unreferenced]:
    """Every file of the tenant, or of the table, that no snapshot names."""
    given = {"tenant": tenant_id, "table": table_id, "age": unreferenced_for.total_seconds()}
    with connection.cursor() as cursor:
        cursor.execute(_UNREFERENCED, given)
        return [
            Unreferenced(
                file_id=row[0],
                path=row[1],
                size_bytes=row[2],
                since=row[3],
                due=row[4],
                tombstoned=row[5],
                held_by=row[6],
            )
            for row in cursor.fetchall()
        ]


_PAST = """
SELECT file_id, added_in, removed_in FROM snapshot_file i
 WHERE i.tenant_id = %(tenant)s AND i.removed_in IS NOT NULL AND (%(table)s::bigint IS NULL OR i.table_id = %(table)s)
   AND NOT EXISTS (SELECT 1 FROM snapshot_file o WHERE o.file_id = i.file_id AND o.removed_in IS NULL)
"""


def files_named_by_none_of(*, tenant_id: str, table_id: int | None, kept: Iterable[int]) -> list[tuple[str, int]]:
    """Key and size of each file that is named now, but would not be if only these snapshots were left."""
    ids = sorted(kept)
    named: dict[int, bool] = {}
    with connection.cursor() as cursor:
        cursor.execute(_PAST, {"tenant": tenant_id, "table": table_id})
        for file_id, added_in, removed_in in cursor.fetchall():
            place = bisect_left(ids, added_in)
            named[file_id] = named.get(file_id, False) or (place < len(ids) and ids[place] < removed_in)
    unnamed = [file_id for file_id, is_named in named.items() if not is_named]
    files = DataFile.objects.filter(file_id__in=unnamed, unreferenced_since=None)
    return list(files.order_by("file_id").values_list("path", "size_bytes"))
