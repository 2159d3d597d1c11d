"""What failed alone waits before it is tried again, and the tenant's log behind it with it; when it failed for good."""

from django.db import migrations, models

# An envelope that is done leaves an entry in the index of the pending, and while somebody holds an old snapshot (a dump)
# none of them can go: only the bound on the token keeps this from walking over them. Replays are the ones below it.
PENDING = """
DROP FUNCTION duckmesh_pending(text, int);
CREATE FUNCTION duckmesh_pending(p_tenant text, p_most int)
RETURNS TABLE (event_id bigint, table_id bigint, first_token bigint, record_count int, size_bytes bigint,
               accepted_at timestamptz, retry_at timestamptz, replayed boolean)
LANGUAGE sql STABLE AS $$
  (SELECT event_id, table_id, first_token, record_count, size_bytes, accepted_at, retry_at, true FROM ingest_event
    WHERE tenant_id = p_tenant AND state = 'pending' AND passed_in IS NOT NULL
    ORDER BY first_token LIMIT p_most)
  UNION ALL
  (SELECT event_id, table_id, first_token, record_count, size_bytes, accepted_at, retry_at, false FROM ingest_event
    WHERE tenant_id = p_tenant AND state = 'pending' AND passed_in IS NULL
      AND first_token > (SELECT visible_token FROM tenant_catalog WHERE tenant_id = p_tenant)
    ORDER BY first_token LIMIT p_most)
$$;
COMMENT ON FUNCTION duckmesh_pending IS
  'The envelopes of the tenant that wait to be written: the oldest p_most that are replayed and the oldest p_most others.';
"""

# One instant for all of them: judged by a clock that goes on, the first could be left out and its successors taken.
CLAIMABLE = """
CREATE FUNCTION duckmesh_claimable(p_tenant text, p_most int)
RETURNS TABLE (event_id bigint, first_token bigint, size_bytes bigint, accepted_at timestamptz)
LANGUAGE sql STABLE AS $$
  SELECT event_id, first_token, size_bytes, accepted_at
    FROM (SELECT p.*, bool_or(NOT replayed AND retry_at > statement_timestamp()) OVER () AS log_waits
            FROM duckmesh_pending(p_tenant, p_most) p) w
   WHERE CASE WHEN replayed THEN retry_at IS NULL OR retry_at <= statement_timestamp() ELSE log_waits IS NOT TRUE END
$$;
COMMENT ON FUNCTION duckmesh_claimable IS
  'Those of the pending that may be tried now. One that backs off holds up the log behind it; a replay only itself.';
"""

FORMER_PENDING = """
DROP FUNCTION duckmesh_pending(text, int);
CREATE FUNCTION duckmesh_pending(p_tenant text, p_most int)
RETURNS TABLE (event_id bigint, table_id bigint, first_token bigint, record_count int, size_bytes bigint, accepted_at timestamptz)
LANGUAGE sql STABLE AS $$
  (SELECT event_id, table_id, first_token, record_count, size_bytes, accepted_at FROM ingest_event
    WHERE tenant_id = p_tenant AND state = 'pending' AND passed_in IS NOT NULL
    ORDER BY first_token LIMIT p_most)
  UNION ALL
  (SELECT event_id, table_id, first_token, record_count, size_bytes, accepted_at FROM ingest_event
    WHERE tenant_id = p_tenant AND state = 'pending' AND passed_in IS NULL
      AND first_token > (SELECT visible_token FROM tenant_catalog WHERE tenant_id = p_tenant)
    ORDER BY first_token LIMIT p_most)
$$;
"""


class Migration(migrations.Migration):
    dependencies = [("ingest", "0004_staged_doomed_at")]

    operations = [
        migrations.AddField(model_name="ingestevent", name="failed_at", field=models.DateTimeField(null=True)),
        migrations.RunSQL(PENDING, FORMER_PENDING),
        migrations.RunSQL(CLAIMABLE, "DROP FUNCTION duckmesh_claimable(text, int)"),
    ]
