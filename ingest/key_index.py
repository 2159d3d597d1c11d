"""The index of the idempotency keys is rebuilt when it has grown to more than twice what its keys need.

Keys are random, so new ones fill the gaps that old ones leave, and the index stays as it is while as many come as go.
After a burst it would stay as large as the burst made it.
"""

from contextlib import suppress

import structlog
from django.db import OperationalError, connection

from duckmesh.kernel.failpoints import failpoint

log = structlog.get_logger(__name__)

_INDEX = "ingest_key_pkey"
_NEEDED = 40  # bytes of a key in a new index
_PATIENCE = "20s"

# Rebuilding waits for every older transaction of the database: with a dump under way it would wait for hours.
_STATE = """
SELECT pg_relation_size(i.oid), greatest(t.reltuples, 0)::bigint,
       CASE WHEN pg_has_role(t.relowner, 'USAGE') THEN true
            WHEN current_setting('server_version_num')::int < 170000 THEN false
            ELSE has_table_privilege(t.oid, 'MAINTAIN') END,
       EXISTS (SELECT 1 FROM pg_stat_activity a
                WHERE a.datname = current_database() AND a.pid <> pg_backend_pid() AND a.backend_type = 'client backend'
                  AND a.xact_start < clock_timestamp() - interval '5 seconds')
  FROM pg_class i JOIN pg_index x ON x.indexrelid = i.oid JOIN pg_class t ON t.oid = x.indrelid
 WHERE i.oid = to_regclass(%s)
"""

# A rebuilding that was broken off leaves an index that nobody reads and every insertion pays for.
_BROKEN = """
SELECT count(*) FROM pg_index x JOIN pg_class c ON c.oid = x.indexrelid
 WHERE x.indrelid = to_regclass('ingest_key') AND NOT x.indisvalid AND c.relname ~ '_ccnew[0-9]*$|_ccold[0-9]*$'
"""
_LOCK = "SELECT pg_try_advisory_lock(hashtextextended('duckmesh.rebuild', 0))"
_UNLOCK = "SELECT pg_advisory_unlock(hashtextextended('duckmesh.rebuild', 0))"


def rebuild_if_bloated(*, least_bytes: int) -> bool:
    """The index is no larger than twice what it needs, or than `least_bytes`; True if it was rebuilt for that.

    Writes go on meanwhile. It is put off while an old transaction is open, or another process is at it.
    """
    if connection.in_atomic_block:
        raise RuntimeError("An index is not rebuilt in a transaction.")
    with connection.cursor() as cursor:
        cursor.execute(_LOCK)
        if not cursor.fetchone()[0]:
            return False
        try:
            return _rebuild(least_bytes)
        finally:
            with suppress(OperationalError):  # with the session the lock is gone too
                cursor.execute(_UNLOCK)


def _rebuild(least_bytes: int) -> bool:
    with connection.cursor() as cursor:
        cursor.execute(_BROKEN)
        broken = cursor.fetchone()[0] > 0
        if not broken and not _is_bloated(least_bytes):
            return False
        # The number of rows is an estimate: before it is acted upon, it is made anew.
        cursor.execute("ANALYZE ingest_key")
        bloated = _is_bloated(least_bytes)
        cursor.execute(f"SET lock_timeout = '{_PATIENCE}'")
        try:
            if broken:
                cursor.execute("SELECT duckmesh_drop_broken_key_indexes()")
            if bloated:
                failpoint("housekeeping.before_rebuild")
                cursor.execute(f"REINDEX INDEX CONCURRENTLY {_INDEX}")
        except OperationalError as exc:
            log.warning("rebuild_postponed", error=type(exc).__name__)
            return False
        finally:
            with suppress(OperationalError):
                cursor.execute("RESET lock_timeout")
    return bloated


def _is_bloated(least_bytes: int) -> bool:
    with connection.cursor() as cursor:
        cursor.execute(_STATE, [_INDEX])
        size, rows, may, busy = cursor.fetchone()
    return may and not busy and size > max(least_bytes, 2 * _NEEDED * rows)
