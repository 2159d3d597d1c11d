"""Checks of a tenant's history: its snapshots, what they say of themselves, and its head."""

from catalog.tables import exists_at
from maintenance.integrity.checks import Check, Slicing
from maintenance.integrity.findings import FindingKind

# Kept snapshots in pairs of neighbours; the first of a slice is the last of the one before.
_PAIRS = """
SELECT NULL::bigint, NULL::bigint, NULL::text,
       json_build_object('snapshot_id', n.snapshot_id, 'before', n.before, {facts})::text
  FROM (SELECT s.*, lag(snapshot_id) OVER w AS before, lag(visible_token) OVER w AS token_before,
               lag(snapshot_time) OVER w AS time_before, lag(valid_until) OVER w AS until_before
          FROM snapshot s WHERE tenant_id = %(tenant)s AND snapshot_id >= %(low)s AND snapshot_id <= %(high)s
        WINDOW w AS (ORDER BY snapshot_id)) n
 WHERE n.before IS NOT NULL AND {wrong}
"""
_WATERMARK_FELL = _PAIRS.format(
    facts="'visible_token', n.visible_token, 'token_before', n.token_before", wrong="n.visible_token < n.token_before"
)
_TIME_ORDER = _PAIRS.format(
    facts="'snapshot_time', n.snapshot_time, 'time_before', n.time_before", wrong="n.snapshot_time <= n.time_before"
)
_PARENT = _PAIRS.format(facts="'parent_id', n.parent_id", wrong="coalesce(n.parent_id < n.before, true)")
# Whoever expires a snapshot tells the one before it until when it was the latest.
_GAP = _PAIRS.format(
    facts="'parent_id', n.parent_id, 'snapshots_lost', n.snapshot_id - n.before - 1",
    wrong="n.parent_id > n.before AND n.until_before IS NULL",
)

_HEAD = """
SELECT NULL::bigint, NULL::bigint, NULL::text,
       json_build_object('snapshot_seq', c.snapshot_seq, 'visible_token', c.visible_token, 'latest_kept', k.latest,
                         'latest_token', s.visible_token)::text
  FROM tenant_catalog c
  LEFT JOIN snapshot s ON s.tenant_id = c.tenant_id AND s.snapshot_id = c.snapshot_seq
  CROSS JOIN LATERAL (SELECT max(snapshot_id) AS latest FROM snapshot WHERE tenant_id = c.tenant_id) k
 WHERE c.tenant_id = %(tenant)s
   AND (s.snapshot_id IS NULL OR k.latest > c.snapshot_seq OR s.visible_token <> c.visible_token
        OR s.snapshot_time <> c.snapshot_time)
"""

_BEYOND_TOKENS = """
SELECT NULL::bigint, NULL::bigint, NULL::text,
       json_build_object('visible_token', visible_token, 'latest_issued_token', duckmesh_latest_token(tenant_id))::text
  FROM tenant_catalog WHERE tenant_id = %(tenant)s AND visible_token > duckmesh_latest_token(tenant_id)
"""

_COUNTERS = """
SELECT NULL::bigint, NULL::bigint, NULL::text,
       json_build_object('stored_files', c.stored_files, 'files', f.files,
                         'stored_bytes', c.stored_bytes, 'bytes', f.bytes)::text
  FROM tenant_catalog c
  CROSS JOIN LATERAL (SELECT count(*) AS files, coalesce(sum(size_bytes), 0)::bigint AS bytes
                        FROM data_file WHERE tenant_id = c.tenant_id) f
 WHERE c.tenant_id = %(tenant)s AND (c.stored_files <> f.files OR c.stored_bytes <> f.bytes)
"""

# What a publication says it has added is named by its snapshot as long as that is kept, and what it says it has removed
# by the one before. Changes of tables say nothing: a drop closes intervals without counting them.
_CHANGE_LOG = """
WITH told AS (
  SELECT s.snapshot_id, s.kind, (s.summary->>'added_files')::bigint AS added_files,
         (s.summary->>'added_rows')::bigint AS added_rows, (s.summary->>'removed_files')::bigint AS removed_files,
         EXISTS (SELECT 1 FROM snapshot p WHERE p.tenant_id = s.tenant_id AND p.snapshot_id = s.parent_id) AS follows
    FROM snapshot s
   WHERE s.tenant_id = %(tenant)s AND s.snapshot_id > %(low)s AND s.snapshot_id <= %(high)s
     AND s.snapshot_id BETWEEN %(from)s AND %(to)s AND s.kind IN ('ingest', 'compaction', 'restore')
), added AS (
  SELECT i.added_in, count(*) AS files, sum(f.row_count)::bigint AS rows
    FROM snapshot_file i JOIN data_file f ON f.file_id = i.file_id
   WHERE i.tenant_id = %(tenant)s AND i.added_in > %(low)s AND i.added_in <= %(high)s GROUP BY i.added_in
), removed AS (
  SELECT removed_in, count(*) AS files FROM snapshot_file
   WHERE tenant_id = %(tenant)s AND removed_in > %(low)s AND removed_in <= %(high)s GROUP BY removed_in
)
SELECT NULL::bigint, NULL::bigint, NULL::text,
       json_build_object('snapshot_id', told.snapshot_id, 'kind', told.kind,
                         'added_files', told.added_files, 'files', coalesce(added.files, 0),
                         'added_rows', told.added_rows, 'rows', coalesce(added.rows, 0),
                         'removed_files', told.removed_files, 'closed', coalesce(removed.files, 0),
                         'rows_lost', told.added_rows - coalesce(added.rows, 0))::text
  FROM told LEFT JOIN added ON added.added_in = told.snapshot_id
  LEFT JOIN removed ON removed.removed_in = told.snapshot_id
 WHERE told.added_files <> coalesce(added.files, 0) OR told.added_rows <> coalesce(added.rows, 0)
    OR told.follows AND told.removed_files <> coalesce(removed.files, 0)
"""

# Totals of one table: what its rows of snapshot_table_watermark say at each kept snapshot against the sum over the
# intervals that hold it, as a running sum over all that opens and closes. Neighbours that are wrong by the same amount
# are one finding.
_TOTALS = f"""
WITH step AS (
  SELECT i.added_in AS at, f.row_count AS rows, 1 AS files, f.size_bytes AS bytes
    FROM snapshot_file i JOIN data_file f ON f.file_id = i.file_id WHERE i.table_id = %(high)s
  UNION ALL
  SELECT i.removed_in, -f.row_count, -1, -f.size_bytes
    FROM snapshot_file i JOIN data_file f ON f.file_id = i.file_id
   WHERE i.table_id = %(high)s AND i.removed_in IS NOT NULL
), told AS (
  SELECT snapshot_id, row_count, file_count, size_bytes, row_number() OVER (ORDER BY snapshot_id) AS number
    FROM snapshot_table_watermark WHERE table_id = %(high)s
), point AS (
  SELECT at, 0 AS place, sum(rows) AS rows, sum(files) AS files, sum(bytes) AS bytes, 0 AS tells FROM step GROUP BY at
  UNION ALL SELECT snapshot_id, 1, 0, 0, 0, 1 FROM told
  UNION ALL
  SELECT s.snapshot_id, 2, 0, 0, 0, 0 FROM snapshot s JOIN table_def t ON t.table_id = %(high)s
   WHERE s.tenant_id = %(tenant)s AND s.snapshot_id BETWEEN %(from)s AND %(to)s AND {exists_at("s.snapshot_id")}
), held AS (
  SELECT at, place, sum(rows) OVER w AS rows, sum(files) OVER w AS files, sum(bytes) OVER w AS bytes,
         sum(tells) OVER w AS number
    FROM point WINDOW w AS (ORDER BY at, place)
), difference AS (
  SELECT h.at, row_number() OVER (ORDER BY h.at) AS kept, (coalesce(told.row_count, 0) - h.rows)::bigint AS rows,
         (coalesce(told.file_count, 0) - h.files)::bigint AS files,
         (coalesce(told.size_bytes, 0) - h.bytes)::bigint AS bytes
    FROM held h LEFT JOIN told ON told.number = h.number WHERE h.place = 2
), island AS (
  SELECT *, kept - row_number() OVER (PARTITION BY rows, files, bytes ORDER BY at) AS island FROM difference
   WHERE rows <> 0 OR files <> 0 OR bytes <> 0
)
SELECT %(high)s::bigint, NULL::bigint, NULL::text,
       json_build_object('table_name', (SELECT name FROM table_def WHERE table_id = %(high)s),
                         'snapshots', json_build_object('count', count(*), 'first', min(at), 'last', max(at)),
                         'rows_lost', rows, 'files_lost', files, 'bytes_lost', bytes)::text
  FROM island GROUP BY rows, files, bytes, island ORDER BY min(at)
"""

_SCHEMA_VERSIONS = """
SELECT t.table_id, NULL::bigint, NULL::text,
       json_build_object('table_name', t.name, 'schema_version', t.schema_version, 'versions', v.versions,
                         'first', v.first, 'last', v.last)::text
  FROM table_def t
  CROSS JOIN LATERAL (SELECT count(*) AS versions, min(schema_version) AS first, max(schema_version) AS last,
                             count(*) FILTER (WHERE added_in < before) AS falling, max(added_in) AS newest
                        FROM (SELECT schema_version, added_in, lag(added_in) OVER (ORDER BY schema_version) AS before
                                FROM table_schema_version WHERE table_id = t.table_id) o) v
  JOIN tenant_catalog c ON c.tenant_id = t.tenant_id
 WHERE t.table_id = %(high)s AND (v.versions <> t.schema_version OR v.first <> 1 OR v.last <> t.schema_version
                                  OR v.falling > 0 OR v.newest > c.snapshot_seq)
"""

HISTORY_CHECKS = (
    Check(kind=FindingKind.HEAD_MISMATCH, by=Slicing.TENANT, sql=_HEAD, whole_tenant=True),
    Check(kind=FindingKind.WATERMARK_BEYOND_TOKENS, by=Slicing.TENANT, sql=_BEYOND_TOKENS, whole_tenant=True),
    Check(kind=FindingKind.COUNTER_MISMATCH, by=Slicing.TENANT, sql=_COUNTERS, whole_tenant=True),
    Check(kind=FindingKind.WATERMARK_FELL, by=Slicing.SNAPSHOTS, sql=_WATERMARK_FELL, whole_tenant=True),
    Check(kind=FindingKind.SNAPSHOT_TIME_ORDER, by=Slicing.SNAPSHOTS, sql=_TIME_ORDER, whole_tenant=True),
    Check(kind=FindingKind.PARENT_MISMATCH, by=Slicing.SNAPSHOTS, sql=_PARENT, whole_tenant=True),
    Check(kind=FindingKind.SNAPSHOT_GAP, by=Slicing.SNAPSHOTS, sql=_GAP, whole_tenant=True),
    Check(kind=FindingKind.CHANGE_LOG_MISMATCH, by=Slicing.SNAPSHOTS, sql=_CHANGE_LOG, whole_tenant=True),
    Check(kind=FindingKind.TOTALS_MISMATCH, by=Slicing.TABLES, sql=_TOTALS),
    Check(kind=FindingKind.SCHEMA_VERSIONS_BROKEN, by=Slicing.TABLES, sql=_SCHEMA_VERSIONS),
)
