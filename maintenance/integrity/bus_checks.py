"""Checks of the bus: accepted writes, their payloads, claims and keys, against what the snapshots hold."""

from maintenance.integrity.checks import Check, Slicing
from maintenance.integrity.findings import FindingKind

# Each committed write is in files that its snapshot added, all of a claim's records and no others. Writes are forgotten
# after a while and a slice may cut a claim, so there may be more rows than records, never fewer.
_RECORDS = """
WITH held AS (
  SELECT e.snapshot_id, e.table_id, sum(e.record_count)::bigint AS records, min(e.first_token) AS first,
         max(e.last_token) AS last
    FROM ingest_event e
    JOIN snapshot s ON s.tenant_id = e.tenant_id AND s.snapshot_id = e.snapshot_id
   WHERE e.tenant_id = %(tenant)s AND e.last_token > %(low)s AND e.last_token <= %(high)s
     AND e.state = 'committed' AND e.table_id IS NOT NULL
     AND (%(table)s::bigint IS NULL OR e.table_id = %(table)s)
   GROUP BY e.snapshot_id, e.table_id
), added AS (
  SELECT i.added_in, i.table_id, sum(f.row_count)::bigint AS rows, min(f.min_token) AS first, max(f.max_token) AS last
    FROM snapshot_file i JOIN data_file f ON f.file_id = i.file_id
   WHERE i.tenant_id = %(tenant)s AND i.added_in IN (SELECT snapshot_id FROM held)
   GROUP BY i.added_in, i.table_id
)
SELECT h.table_id, NULL::bigint, NULL::text,
       json_build_object('snapshot_id', h.snapshot_id, 'records', h.records, 'rows', coalesce(a.rows, 0),
                         'rows_lost', greatest(h.records - coalesce(a.rows, 0), 0),
                         'first_token', h.first, 'last_token', h.last)::text
  FROM held h LEFT JOIN added a ON a.added_in = h.snapshot_id AND a.table_id = h.table_id
 WHERE coalesce(a.rows, 0) < h.records OR a.first > h.first OR a.last < h.last
"""

_BELOW_WATERMARK = """
SELECT e.table_id, NULL::bigint, NULL::text,
       json_build_object('event_id', e.event_id, 'first_token', e.first_token, 'last_token', e.last_token,
                         'visible_token', c.visible_token, 'rows_lost', e.record_count)::text
  FROM tenant_catalog c JOIN ingest_event e ON e.tenant_id = c.tenant_id
 WHERE c.tenant_id = %(tenant)s AND e.state = 'pending' AND e.passed_in IS NULL AND e.first_token <= c.visible_token
   AND (%(table)s::bigint IS NULL OR e.table_id = %(table)s)
 ORDER BY e.first_token LIMIT 1000
"""

_PAYLOAD = """
SELECT e.table_id, NULL::bigint, NULL::text,
       json_build_object('event_id', e.event_id, 'state', e.state, 'first_token', e.first_token,
                         'last_token', e.last_token, 'rows_lost', e.record_count)::text
  FROM (SELECT * FROM ingest_event WHERE tenant_id = %(tenant)s AND state = 'pending' AND passed_in IS NULL
        UNION ALL
        SELECT * FROM ingest_event WHERE tenant_id = %(tenant)s AND state IN ('pending', 'failed')
           AND passed_in IS NOT NULL) e
 WHERE e.table_id IS NOT NULL AND (%(table)s::bigint IS NULL OR e.table_id = %(table)s)
   AND NOT EXISTS (SELECT 1 FROM ingest_payload p WHERE p.event_id = e.event_id)
   AND NOT EXISTS (SELECT 1 FROM ingest_staged g WHERE g.event_id = e.event_id)
 ORDER BY e.first_token LIMIT 1000
"""

_DONE_WRITES = """
SELECT e.table_id, NULL::bigint, NULL::text,
       json_build_object('batch_id', b.batch_id, 'event_id', e.event_id, 'state', e.state)::text
  FROM ingest_claim_batch b JOIN ingest_claim_item i ON i.batch_id = b.batch_id
  JOIN ingest_event e ON e.event_id = i.event_id
 WHERE b.tenant_id = %(tenant)s AND b.state = 'claimed' AND e.state <> 'pending'
 LIMIT 1000
"""

# Any claimant and the sweep of every second end a claim whose lease ran out.
_STALE = """
SELECT NULL::bigint, NULL::bigint, NULL::text,
       json_build_object('batch_id', batch_id, 'consumer_id', consumer_id, 'lease_until', lease_until)::text
  FROM ingest_claim_batch
 WHERE tenant_id = %(tenant)s AND state = 'claimed' AND lease_until < clock_timestamp() - interval '10 minutes'
"""

_KEYS = """
SELECT k.table_id, NULL::bigint, NULL::text,
       json_build_object('event_id', k.event_id, 'keys', count(*))::text
  FROM ingest_key k
 WHERE k.table_id = %(high_table)s AND (k.table_id, k.key_hash) > (%(low_table)s, %(low_hash)s)
   AND (k.table_id, k.key_hash) <= (%(high_table)s, %(high_hash)s)
   AND NOT EXISTS (SELECT 1 FROM ingest_event e WHERE e.event_id = k.event_id)
 GROUP BY k.table_id, k.event_id LIMIT 1000
"""

BUS_CHECKS = (
    Check(kind=FindingKind.PENDING_BELOW_WATERMARK, by=Slicing.TENANT, sql=_BELOW_WATERMARK),
    Check(kind=FindingKind.PAYLOAD_MISSING, by=Slicing.TENANT, sql=_PAYLOAD),
    Check(kind=FindingKind.CLAIM_OF_DONE_WRITES, by=Slicing.TENANT, sql=_DONE_WRITES, whole_tenant=True),
    Check(kind=FindingKind.CLAIM_STALE, by=Slicing.TENANT, sql=_STALE, whole_tenant=True),
    Check(kind=FindingKind.RECORDS_MISSING, by=Slicing.WRITES, sql=_RECORDS),
    Check(kind=FindingKind.KEY_WITHOUT_WRITE, by=Slicing.KEYS, sql=_KEYS, deep=True),
)
