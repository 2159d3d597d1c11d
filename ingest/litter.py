"""What requests and workers leave behind when they end early: staged objects nobody names, and files in `scratch`."""

import shutil
import time
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

from django.db import connection, transaction

from catalog.holds import STAGED_IS_HELD, keep_holds_away
from catalog.identity import delete_objects
from catalog.publish import IDLE_LIMIT
from duckmesh.kernel.failpoints import failpoint
from ingest.models import IngestStaged
from storage.store import ObjectStore

# A publication that would name one of them finds the mark, or this statement waits for the publication and leaves what
# it has named: after the wait PostgreSQL asks the outer conditions again, with the inner answer of before.
_DOOM = f"""
UPDATE ingest_staged s SET doomed_at = clock_timestamp()
  FROM (SELECT s.staged_id, s.event_id FROM ingest_staged s LEFT JOIN ingest_event e USING (event_id)
         WHERE s.doomed_at IS NULL
           AND CASE WHEN s.event_id IS NULL
                    THEN s.created_at < clock_timestamp() - make_interval(secs => %(unnamed)s)
                    ELSE e.event_id IS NULL OR e.state IN ('committed', 'discarded', 'dropped') END
           AND NOT {STAGED_IS_HELD}
         ORDER BY s.staged_id LIMIT %(most)s) found
 WHERE s.staged_id = found.staged_id AND s.event_id IS NOT DISTINCT FROM found.event_id AND s.doomed_at IS NULL
"""
_MOST_OBJECTS = 1_000

_LITTER = ("spool-*", "claim-*", "rewrite-*", "backup-*", "restore-*", "drill-*")
_ABANDONED_AFTER = 86_400.0  # seconds; no request and no attempt lasts nearly as long


def remove_staged(*, store: ObjectStore, unnamed_for: timedelta) -> int:
    """Staged objects whose envelope is done, or that no envelope has named for so long, are gone, then their rows.

    How many there were. What the store could not delete keeps its row and is tried again. Raises `StoreNotOurs`.
    """
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(IDLE_LIMIT)
        keep_holds_away()
        cursor.execute(_DOOM, {"unnamed": unnamed_for.total_seconds(), "most": _MOST_OBJECTS})
    failpoint("housekeeping.after_mark")
    doomed = IngestStaged.objects.filter(doomed_at__isnull=False).order_by("staged_id")
    rows = dict(doomed.values_list("path", "staged_id")[:_MOST_OBJECTS])
    if not rows:
        return 0
    kept = set(delete_objects(store=store, keys=rows))
    failpoint("housekeeping.after_objects")
    gone = [staged_id for path, staged_id in rows.items() if path not in kept]
    IngestStaged.objects.filter(staged_id__in=gone).delete()
    return len(gone)


def remove_scratch(directory: Path) -> int:
    """Files and directories of this machine's dead requests and workers are gone; how many there were."""
    removed = 0
    for path in [path for pattern in _LITTER for path in directory.glob(pattern)]:
        with suppress(OSError):  # another process of this machine may be faster
            if time.time() - path.lstat().st_mtime < _ABANDONED_AFTER:
                continue
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
            removed += 1
    return removed
