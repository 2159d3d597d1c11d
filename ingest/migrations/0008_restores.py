"""To restore a snapshot is an entry of the tenant's log: it has a token, and is applied in the order of tokens."""

from importlib import import_module

import django.db.models.deletion
from django.db import migrations, models

_BACK_OFF = import_module("ingest.migrations.0005_back_off")
_PUBLISH = import_module("ingest.migrations.0002_publish")

PENDING = """
DROP FUNCTION duckmesh_pending(text, int);
CREATE FUNCTION duckmesh_pending(p_tenant text, p_most int)
RETURNS TABLE (event_id bigint, table_id bigint, first_token bigint, record_count int, size_bytes bigint,
               accepted_at timestamptz, retry_at timestamptz, replayed boolean, restores boolean)
LANGUAGE sql STABLE AS $$
  (SELECT event_id, table_id, first_token, record_count, size_bytes, accepted_at, retry_at, true, false
     FROM ingest_event
    WHERE tenant_id = p_tenant AND state = 'pending' AND passed_in IS NOT NULL
    ORDER BY first_token LIMIT p_most)
  UNION ALL
  (SELECT event_id, table_id, first_token, record_count, size_bytes, accepted_at, retry_at, false,
          restore_to IS NOT NULL
     FROM ingest_event
    WHERE tenant_id = p_tenant AND state = 'pending' AND passed_in IS NULL
      AND first_token > (SELECT visible_token FROM tenant_catalog WHERE tenant_id = p_tenant)
    ORDER BY first_token LIMIT p_most)
$$;
COMMENT ON FUNCTION duckmesh_pending IS
  'The envelopes of the tenant that wait to be written: the oldest p_most that are replayed and the oldest p_most others.';
"""

CLAIMABLE = """
DROP FUNCTION duckmesh_claimable(text, int);
CREATE FUNCTION duckmesh_claimable(p_tenant text, p_most int)
RETURNS TABLE (event_id bigint, first_token bigint, size_bytes bigint, accepted_at timestamptz, restores boolean)
LANGUAGE sql STABLE AS $$
  SELECT event_id, first_token, size_bytes, accepted_at, restores
    FROM (SELECT p.*, bool_or(NOT replayed AND retry_at > statement_timestamp()) OVER () AS log_waits
            FROM duckmesh_pending(p_tenant, p_most) p) w
   WHERE CASE WHEN replayed THEN retry_at IS NULL OR retry_at <= statement_timestamp() ELSE log_waits IS NOT TRUE END
$$;
COMMENT ON FUNCTION duckmesh_claimable IS
  'Those of the pending that may be tried now. One that backs off holds up the log behind it; a replay only itself.';
"""

FORMER_CLAIMABLE = "DROP FUNCTION duckmesh_claimable(text, int);" + _BACK_OFF.CLAIMABLE

# A restore that failed is in the way of whatever reads a table.
FIRST_FAILURE = """
CREATE OR REPLACE FUNCTION duckmesh_first_failure(p_tenant text, p_token bigint, p_tables bigint[], p_snapshot bigint)
RETURNS bigint LANGUAGE sql STABLE AS $$
  SELECT event_id FROM ingest_event
  WHERE tenant_id = p_tenant AND passed_in IS NOT NULL AND first_token <= p_token
    AND (table_id = ANY (p_tables) OR restore_to IS NOT NULL AND cardinality(p_tables) > 0)
    AND (state IN ('failed', 'pending') OR state = 'committed' AND snapshot_id > p_snapshot)
  ORDER BY first_token LIMIT 1
$$;
"""

FORMER_FIRST_FAILURE = _PUBLISH.FIRST_FAILURE.replace("CREATE FUNCTION", "CREATE OR REPLACE FUNCTION")

# The tenant's rates stand on its newest envelope, which this becomes.
ORDER_RESTORE = """
CREATE FUNCTION duckmesh_order_restore(p_tenant text, p_event bigint, p_snapshot bigint, p_asked_by text)
RETURNS bigint LANGUAGE plpgsql VOLATILE AS $$
DECLARE
  token bigint;
BEGIN
  PERFORM duckmesh_token_lock(p_tenant);
  token := duckmesh_latest_token(p_tenant) + 1;
  INSERT INTO ingest_event (event_id, tenant_id, restore_to, asked_by, schema_version, first_token, last_token,
                            record_count, excluded, size_bytes, accepted_at, records_paid_at, bytes_paid_at)
  OVERRIDING SYSTEM VALUE
  SELECT p_event, p_tenant, p_snapshot, p_asked_by, 0, token, token, 1, '{}', 0, clock_timestamp(),
         e.records_paid_at, e.bytes_paid_at
    FROM (SELECT 1) one
    LEFT JOIN LATERAL (SELECT i.records_paid_at, i.bytes_paid_at FROM ingest_event i
                        WHERE i.tenant_id = p_tenant ORDER BY i.last_token DESC LIMIT 1) e ON true;
  RETURN token;
END $$;
COMMENT ON FUNCTION duckmesh_order_restore IS 'The restore is the last of the tenant''s log, and the token lock is held.';
"""


class Migration(migrations.Migration):
    dependencies = [("ingest", "0007_housekeeping"), ("catalog", "0005_table_intervals")]

    operations = [
        migrations.AddField("ingestevent", "asked_by", models.CharField(db_default="", default="", max_length=200)),
        migrations.AddField("ingestevent", "restore_to", models.BigIntegerField(null=True)),
        migrations.AlterField(
            "ingestevent",
            "table",
            models.ForeignKey(
                db_constraint=False,
                db_index=False,
                null=True,
                on_delete=django.db.models.deletion.PROTECT,
                to="catalog.tabledef",
            ),
        ),
        migrations.AddConstraint(
            "ingestevent",
            models.CheckConstraint(
                condition=models.Q(
                    models.Q(("restore_to", None), ("table__isnull", False)),
                    models.Q(("record_count", 1), ("restore_to__isnull", False), ("table", None)),
                    _connector="OR",
                ),
                name="ingest_event_writes_or_restores",
            ),
        ),
        migrations.RunSQL(PENDING, _BACK_OFF.PENDING),
        migrations.RunSQL(CLAIMABLE, FORMER_CLAIMABLE),
        migrations.RunSQL(FIRST_FAILURE, FORMER_FIRST_FAILURE),
        migrations.RunSQL(ORDER_RESTORE, "DROP FUNCTION duckmesh_order_restore(text, bigint, bigint, text)"),
    ]
