"""A catalog that was restored from a dump, or lost commits in a failover, begins a new life: nothing is issued twice.

The catalog that was lost went on after the dump, nobody knows how far. Clients hold tokens and snapshot ids of it, and
programs that survived it hold claims, staged payloads and versions of tables. So every number leaps beyond what it can
have issued; what lies between is recorded, per tenant, and answers 409 (tokens) and 410 (snapshots) for ever.
"""

from datetime import datetime, timedelta

from django.db import connection, transaction

from catalog.identity import renew_identity
from catalog.server import record_server

TOKEN_LEAP = 2**44
"""At a million records a second of one tenant this is 203 days after the dump. JSON readers that know floats only are
exact up to 2**53: that is 511 restores."""

NUMBER_LEAP = 2**32
"""Of what is numbered by transaction or table: snapshots, claims, envelopes, files. At 1,000 a second, 49 days."""

# A publication takes its time before it commits. What the dump saw last was still the latest this long before it.
PUBLICATION_LASTS = timedelta(minutes=1)

_VOID = """
INSERT INTO void_range (tenant_id, incarnation, first_token, last_token, first_snapshot_id, last_snapshot_id, dumped_at)
SELECT c.tenant_id, c.incarnation + 1, l.token + 1,
       l.token + %(tokens)s - CASE WHEN EXISTS (SELECT 1 FROM duckmesh_pending(c.tenant_id, 1) p WHERE NOT p.replayed)
                                   THEN 0 ELSE 1 END,
       c.snapshot_seq + 1, c.snapshot_seq + %(numbers)s, %(dumped_at)s
  FROM tenant_catalog c CROSS JOIN LATERAL (SELECT duckmesh_latest_token(c.tenant_id) AS token) l
"""

_CLOSE = """
UPDATE snapshot s
   SET valid_until = least(s.valid_until, greatest(s.snapshot_time + interval '1 microsecond', %(known_until)s))
  FROM tenant_catalog c WHERE s.tenant_id = c.tenant_id AND s.snapshot_id = c.snapshot_seq
"""

# The watermark stays before what is pending. Where nothing is, the leap's last token is the restore's own, and visible.
_LEAP = """
UPDATE tenant_catalog c
   SET incarnation = v.incarnation, token_floor = v.first_token - 1 + %(tokens)s,
       visible_token = CASE WHEN v.last_token < v.first_token - 1 + %(tokens)s THEN v.first_token - 1 + %(tokens)s
                            ELSE c.visible_token END,
       snapshot_seq = v.last_snapshot_id + 1,
       snapshot_time = greatest(clock_timestamp(), c.snapshot_time + interval '1 microsecond')
  FROM void_range v WHERE v.tenant_id = c.tenant_id AND v.incarnation = c.incarnation + 1
"""

_PUBLISH = """
INSERT INTO snapshot (tenant_id, snapshot_id, parent_id, snapshot_time, visible_token, kind, created_by, summary)
SELECT c.tenant_id, c.snapshot_seq, v.first_snapshot_id - 1, c.snapshot_time, c.visible_token, 'restore', 'restore',
       jsonb_build_object('tables', '[]'::jsonb, 'added_files', 0, 'added_rows', 0, 'removed_files', 0,
                          'incarnation', c.incarnation)
  FROM tenant_catalog c JOIN void_range v ON v.tenant_id = c.tenant_id AND v.incarnation = c.incarnation
"""

_TABLES = "UPDATE tenant SET ddl_version = ddl_version + %(numbers)s"
_IDS = """
SELECT setval(pg_get_serial_sequence('table_def', 'table_id'),
              coalesce(pg_sequence_last_value(pg_get_serial_sequence('table_def', 'table_id')), 0) + %(numbers)s),
       setval(pg_get_serial_sequence('data_file', 'file_id'),
              coalesce(pg_sequence_last_value(pg_get_serial_sequence('data_file', 'file_id')), 0) + %(numbers)s),
       duckmesh_forget_claims(%(numbers)s)
"""


@transaction.atomic
def begin_incarnation(*, dumped_at: datetime) -> None:
    """The catalog, restored as it was at `dumped_at`, is one that has issued nothing of what the lost one may have.

    Nobody else may use it yet. What is pending stays so; claims and their leases are gone. It lives on the PostgreSQL
    that it is connected to. The object store is not its own until it takes it over.
    """
    given: dict[str, int | datetime] = {
        "tokens": TOKEN_LEAP,
        "numbers": NUMBER_LEAP,
        "dumped_at": dumped_at,
        "known_until": dumped_at - PUBLICATION_LASTS,
    }
    record_server()
    with connection.cursor() as cursor:
        for statement in (_VOID, _CLOSE, _LEAP, _PUBLISH, _TABLES, _IDS):
            cursor.execute(statement, given)
    renew_identity()
