"""The one way snapshots go: their rows are removed, with the totals that no kept one has, and files that no kept
snapshot names are marked with the time."""

from collections.abc import Iterable

from django.db import connection, transaction
from django.db.models.functions import Now

from catalog.errors import SnapshotPinned
from catalog.holds import keep_holds_away
from catalog.models import Snapshot, SnapshotPin
from catalog.publish import lock_head
from duckmesh.kernel.errors import Invalid

# A kept snapshot whose direct successor goes remembers until when it was the latest.
_REMEMBER = """
UPDATE snapshot kept SET valid_until = gone.snapshot_time
  FROM snapshot gone
 WHERE gone.tenant_id = %(tenant)s AND gone.snapshot_id = ANY (%(ids)s::bigint[])
   AND kept.tenant_id = gone.tenant_id AND kept.snapshot_id = gone.parent_id
   AND NOT kept.snapshot_id = ANY (%(ids)s::bigint[])
"""

# Of the file `f` of a statement. ARRAY and OFFSET 0 make the planner look at each such file for itself, in the indexes,
# and not at all there are.
IS_NAMED = """EXISTS (
     SELECT 1 FROM (SELECT * FROM snapshot_file own WHERE own.file_id = f.file_id OFFSET 0) i
      WHERE i.removed_in IS NULL
         OR EXISTS (SELECT 1 FROM snapshot s WHERE s.tenant_id = i.tenant_id
                       AND s.snapshot_id >= i.added_in AND s.snapshot_id < i.removed_in))"""

# What the expired snapshots alone have named was removed behind the first of them and not behind the next that is kept.
# A hold keeps what is marked at its time or later. The clock may have been set back since it was taken.
_UNREFERENCED = f"""
UPDATE data_file f
   SET unreferenced_since = greatest(clock_timestamp(), (SELECT max(h.created_at) FROM file_hold h))
 WHERE f.unreferenced_since IS NULL
   AND f.file_id = ANY (ARRAY(
     SELECT file_id FROM snapshot_file
      WHERE tenant_id = %(tenant)s AND removed_in > %(first)s
        AND removed_in <= (SELECT min(snapshot_id) FROM snapshot
                            WHERE tenant_id = %(tenant)s AND snapshot_id > %(last)s)))
   AND NOT {IS_NAMED}
"""

# Totals hold from their own snapshot up to the table's next ones: without a kept snapshot in between nobody asks for
# them. A table's last ones stay.
_TOTALS = """
DELETE FROM snapshot_table_watermark w
 WHERE w.table_id = ANY (ARRAY(SELECT table_id FROM table_def WHERE tenant_id = %(tenant)s))
   AND w.snapshot_id <= %(last)s
   AND w.snapshot_id > coalesce((SELECT max(snapshot_id) FROM snapshot
                                  WHERE tenant_id = %(tenant)s AND snapshot_id < %(first)s), -1)
   AND (SELECT min(n.snapshot_id) FROM snapshot_table_watermark n
         WHERE n.table_id = w.table_id AND n.snapshot_id > w.snapshot_id)
    <= (SELECT min(s.snapshot_id) FROM snapshot s
         WHERE s.tenant_id = %(tenant)s AND s.snapshot_id >= w.snapshot_id)
"""


@transaction.atomic
def expire_snapshots(*, tenant_id: str, snapshot_ids: Iterable[int]) -> list[int]:
    """These snapshots answer SNAPSHOT_EXPIRED from now on; the ids that were still there are returned.

    Raises `Invalid` for the latest snapshot and `SnapshotPinned` for one that a live pin holds; then nothing changes.
    A pin whose own time has passed holds nothing and goes.
    """
    head = lock_head(tenant_id=tenant_id)
    ids = sorted(set(snapshot_ids))
    if head.snapshot_id in ids:
        raise Invalid("The latest snapshot cannot expire.", snapshot_id=head.snapshot_id)
    pins = SnapshotPin.objects.filter(tenant_id=tenant_id, snapshot_id__in=ids)
    pins.filter(expires_at__lte=Now()).delete()
    pinned = pins.first()
    if pinned is not None:
        raise SnapshotPinned(
            f"The pin {pinned.name} holds the snapshot {pinned.snapshot_id}.",
            name=pinned.name,
            snapshot_id=pinned.snapshot_id,
        )
    present = list(
        Snapshot.objects.filter(tenant_id=tenant_id, snapshot_id__in=ids).values_list("snapshot_id", flat=True)
    )
    if not present:
        return []
    keep_holds_away()
    with connection.cursor() as cursor:
        cursor.execute(_REMEMBER, {"tenant": tenant_id, "ids": ids})
        Snapshot.objects.filter(tenant_id=tenant_id, snapshot_id__in=ids).delete()
        gone: dict[str, str | int] = {"tenant": tenant_id, "first": min(present), "last": max(present)}
        cursor.execute(_UNREFERENCED, gone)
        cursor.execute(_TOTALS, gone)
    return sorted(present)
