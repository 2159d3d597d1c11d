"""Idempotency keys past their window go, and then their envelopes, in slices that nobody notices.

Only what is done goes: committed, discarded or dropped. A tenant's newest envelope stays, because tokens continue from
it, and one that failed and was committed later stays while a snapshot between the two is kept, because it is a hole
there. Ages are judged by the database's clock.
"""

from dataclasses import dataclass
from datetime import timedelta

from django.db import connection, transaction

from catalog.publish import IDLE_LIMIT
from duckmesh.kernel.failpoints import failpoint

# Of two processes that clean at once, the second leaves. Held for a transaction: a process that is stopped in the
# middle loses it with its session.
_ALONE = "SELECT pg_try_advisory_xact_lock(hashtextextended('duckmesh.housekeeping', 0))"

# In the order of the ids, which is nearly that of the time: where no envelope is old, none behind it is. The two inner
# questions are asked so that only their indexes can answer them: asked by EXISTS they were answered by reading tables.
_WALK = """
SELECT event_id, old,
       old AND state IN ('committed', 'discarded', 'dropped')
       AND last_token < (SELECT n.last_token FROM ingest_event n WHERE n.tenant_id = e.tenant_id
                          ORDER BY n.last_token DESC LIMIT 1)
       AND (state <> 'committed' OR passed_in IS NULL
            OR (SELECT s.snapshot_id FROM snapshot s WHERE s.tenant_id = e.tenant_id AND s.snapshot_id >= e.passed_in
                 ORDER BY s.snapshot_id LIMIT 1) >= snapshot_id),
       record_count + cardinality(excluded) + 1
  FROM (SELECT *, accepted_at < clock_timestamp() - make_interval(secs => %(window)s) AS old
          FROM ingest_event WHERE event_id > %(after)s ORDER BY event_id LIMIT %(most)s) e
 ORDER BY event_id
"""
_MOST_ENVELOPES = 1_000

# The bounds are for the index of block ranges, which knows no lists.
_KEYS = "DELETE FROM ingest_key WHERE event_id BETWEEN %(first)s AND %(last)s AND event_id = ANY (%(ids)s::bigint[])"
_ENVELOPES = """
WITH items AS (DELETE FROM ingest_claim_item WHERE event_id = ANY (%(ids)s::bigint[]))
DELETE FROM ingest_event WHERE event_id = ANY (%(ids)s::bigint[])
"""


@dataclass(frozen=True, kw_only=True)
class Purged:
    """What a slice removed, and the id behind which the next begins; None if there is nothing old behind it."""

    keys: int = 0
    envelopes: int = 0
    after: int | None = None


@transaction.atomic
def purge_slice(*, after: int, window: timedelta, most_keys: int) -> Purged | None:
    """The oldest envelopes behind this id that are past the window, and their keys, are gone; None: another is at it.

    About as many as have `most_keys` keys, but at least one. Old ones that must stay are passed by.
    """
    with connection.cursor() as cursor:
        cursor.execute(IDLE_LIMIT + _ALONE)
        if not cursor.fetchone()[0]:
            return None
        cursor.execute(_WALK, {"after": after, "window": window.total_seconds(), "most": _MOST_ENVELOPES})
        rows = cursor.fetchall()
        if not any(old for _, old, _, _ in rows):
            return Purged()
        ids: list[int] = []
        weight = 0
        for event_id, _, done, keys in rows:
            if done:
                weight += keys
                if ids and weight > most_keys:
                    break
                ids.append(event_id)
            after = event_id
        if not ids:
            return Purged(after=after)
        cursor.execute(_KEYS, {"ids": ids, "first": ids[0], "last": ids[-1]})
        removed = cursor.rowcount
        failpoint("housekeeping.after_keys")
        cursor.execute(_ENVELOPES, {"ids": ids})
        return Purged(keys=removed, envelopes=cursor.rowcount, after=after)
