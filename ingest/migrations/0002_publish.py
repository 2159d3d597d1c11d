"""The bus in SQL: one function accepts an envelope; others tell what waits and what is missing."""

from django.db import migrations

LATEST_TOKEN = """
CREATE FUNCTION duckmesh_latest_token(p_tenant text) RETURNS bigint LANGUAGE sql STABLE AS $$
  SELECT greatest(
    coalesce((SELECT last_token FROM ingest_event WHERE tenant_id = p_tenant ORDER BY last_token DESC LIMIT 1), 0),
    coalesce((SELECT token_floor FROM tenant_catalog WHERE tenant_id = p_tenant), 0))
$$;
COMMENT ON FUNCTION duckmesh_latest_token IS 'The greatest token ever issued to the tenant, 0 before the first.';
"""

FIRST_FAILURE = """
CREATE FUNCTION duckmesh_first_failure(p_tenant text, p_token bigint, p_tables bigint[], p_snapshot bigint)
RETURNS bigint LANGUAGE sql STABLE AS $$
  SELECT event_id FROM ingest_event
  WHERE tenant_id = p_tenant AND passed_in IS NOT NULL AND first_token <= p_token AND table_id = ANY (p_tables)
    AND (state IN ('failed', 'pending') OR state = 'committed' AND snapshot_id > p_snapshot)
  ORDER BY first_token LIMIT 1
$$;
COMMENT ON FUNCTION duckmesh_first_failure IS
  'The oldest envelope of these tables with a token up to p_token that failed and that this snapshot, or for null the latest, does not hold.';
"""

# An envelope that is done leaves an entry in the index of the pending, and while somebody holds an old snapshot (a dump)
# none of them can go: only the bound on the token keeps this from walking over them. Replays are the ones below it.
PENDING = """
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
COMMENT ON FUNCTION duckmesh_pending IS
  'The envelopes of the tenant that wait to be written: the oldest p_most that are replayed and the oldest p_most others.';
"""

# One bytea of 16-byte hashes costs a client less than an array of as many UUIDs.
HASHES = """
CREATE FUNCTION duckmesh_hashes(p_key_hashes bytea, p_payload_hashes bytea)
RETURNS TABLE (i int, key_hash uuid, payload_hash uuid) LANGUAGE sql IMMUTABLE AS $$
  SELECT i, encode(substr(p_key_hashes, i * 16 - 15, 16), 'hex')::uuid,
         encode(substr(p_payload_hashes, i * 16 - 15, 16), 'hex')::uuid
    FROM generate_series(1, length(p_key_hashes) / 16) i
$$;
COMMENT ON FUNCTION duckmesh_hashes IS 'The hashes that are concatenated in two values of 16 bytes each, numbered from 1.';
"""

# plpgsql in READ COMMITTED takes a new snapshot for each statement: the look-up of duplicates sees the writer that the
# INSERT waited for, and the read behind the lock sees what the previous holder of the lock committed.
PUBLISH = """
CREATE FUNCTION duckmesh_publish(
  p_tenant text, p_table bigint, p_ddl_version bigint, p_schema_version int,
  p_ordinals int[], p_key_hashes bytea, p_payload_hashes bytea,
  p_record_count int, p_excluded int[], p_request_key uuid, p_request_hash uuid,
  p_min_event_time timestamptz, p_max_event_time timestamptz, p_payload bytea, p_max_pending bigint,
  OUT outcome text, OUT event bigint, OUT first bigint, OUT last bigint,
  OUT duplicates int[], OUT covering bigint
) LANGUAGE plpgsql VOLATILE AS $$
DECLARE
  conflicts int[];
  keys int := coalesce(array_length(p_ordinals, 1), 0);
  inserted int;
  known int;
  kept int;
  ddl bigint;
  visible bigint;
BEGIN
  -- Without the lock, so that an answer of duplicates alone is never about a table that is gone.
  SELECT t.ddl_version INTO ddl FROM tenant t WHERE t.tenant_id = p_tenant;
  IF ddl IS DISTINCT FROM p_ddl_version THEN RAISE EXCEPTION 'stale' USING ERRCODE = 'DM001'; END IF;

  event := nextval(pg_get_serial_sequence('ingest_event', 'event_id'));
  duplicates := '{}';
  covering := 0;

  IF p_request_key IS NOT NULL THEN
    INSERT INTO ingest_key (table_id, key_hash, payload_hash, event_id)
    VALUES (p_table, p_request_key, p_request_hash, event) ON CONFLICT DO NOTHING;
    IF NOT FOUND THEN
      SELECT CASE WHEN k.payload_hash = p_request_hash THEN 'replayed' ELSE 'conflict' END,
             e.event_id, e.first_token, e.last_token, e.excluded
        INTO outcome, event, first, last, duplicates
        FROM ingest_key k JOIN ingest_event e USING (event_id)
       WHERE k.table_id = p_table AND k.key_hash = p_request_key;
      IF outcome = 'replayed' THEN RETURN; END IF;
      RAISE EXCEPTION '%', coalesce(outcome, 'vanished') USING ERRCODE = 'DM001';
    END IF;
  END IF;

  IF keys > 0 THEN
    -- Sorted: two calls with the same keys in opposite order would otherwise wait for each other. Keys are nearly always
    -- new, and to insert them without looking first costs a quarter less; one that is known undoes the attempt.
    BEGIN
      INSERT INTO ingest_key (table_id, key_hash, payload_hash, event_id)
      SELECT p_table, h.key_hash, h.payload_hash, event
        FROM duckmesh_hashes(p_key_hashes, p_payload_hashes) h ORDER BY h.key_hash;
      inserted := keys;
    EXCEPTION WHEN unique_violation THEN
      INSERT INTO ingest_key (table_id, key_hash, payload_hash, event_id)
      SELECT p_table, h.key_hash, h.payload_hash, event
        FROM duckmesh_hashes(p_key_hashes, p_payload_hashes) h ORDER BY h.key_hash
      ON CONFLICT DO NOTHING;
      GET DIAGNOSTICS inserted = ROW_COUNT;
    END;
    IF inserted < keys THEN
      SELECT array_agg(p_ordinals[h.i] ORDER BY h.i), count(*),
             array_agg(p_ordinals[h.i] ORDER BY h.i) FILTER (WHERE k.payload_hash <> h.payload_hash),
             max(e.last_token)
        INTO duplicates, known, conflicts, covering
        FROM duckmesh_hashes(p_key_hashes, p_payload_hashes) h
        JOIN ingest_key k ON k.table_id = p_table AND k.key_hash = h.key_hash
        JOIN ingest_event e USING (event_id)
       WHERE k.event_id <> event;
      IF conflicts IS NOT NULL THEN
        RAISE EXCEPTION 'conflict' USING ERRCODE = 'DM001', DETAIL = array_to_json(conflicts)::text;
      END IF;
      -- A key was purged or discarded between the two statements: the caller tries again.
      IF known + inserted < keys THEN RAISE EXCEPTION 'vanished' USING ERRCODE = 'DM001'; END IF;
    END IF;
  END IF;

  duplicates := duplicates || p_excluded;
  kept := p_record_count - coalesce(array_length(duplicates, 1), 0);
  IF kept = 0 THEN
    -- There is no envelope that the request's key could name; a retry finds the same duplicates.
    DELETE FROM ingest_key WHERE table_id = p_table AND key_hash = p_request_key AND event_id = event;
    outcome := 'duplicate';
    RETURN;
  END IF;

  -- Before the lock, which is then held no longer for a large payload than for a small one.
  INSERT INTO ingest_payload (event_id, payload) VALUES (event, p_payload);
  PERFORM duckmesh_token_lock(p_tenant);
  -- A restore leaps over tokens: what lies below its floor does not wait.
  SELECT t.ddl_version, duckmesh_latest_token(p_tenant), greatest(c.visible_token, c.token_floor) INTO ddl, last, visible
    FROM tenant t JOIN tenant_catalog c USING (tenant_id) WHERE t.tenant_id = p_tenant;
  IF ddl <> p_ddl_version THEN RAISE EXCEPTION 'stale' USING ERRCODE = 'DM001'; END IF;
  IF last > visible AND last - visible + kept > p_max_pending THEN
    RAISE EXCEPTION 'full' USING ERRCODE = 'DM001', DETAIL = (last - visible)::text;
  END IF;
  first := last + 1;
  last := last + kept;
  INSERT INTO ingest_event (event_id, tenant_id, table_id, schema_version, first_token, last_token, record_count,
                            excluded, size_bytes, min_event_time, max_event_time, accepted_at)
  OVERRIDING SYSTEM VALUE
  VALUES (event, p_tenant, p_table, p_schema_version, first, last, kept,
          duplicates, length(p_payload), p_min_event_time, p_max_event_time, clock_timestamp());
  outcome := 'accepted';
END $$;
COMMENT ON FUNCTION duckmesh_publish IS
  'Accepts an envelope and answers accepted, duplicate or replayed; everything else is an error of class DM001, and undone.';
"""


class Migration(migrations.Migration):
    dependencies = [("ingest", "0001_initial"), ("catalog", "0002_tenant_keys_and_token_lock")]

    operations = [
        migrations.RunSQL(
            "ALTER TABLE ingest_event ADD CONSTRAINT ingest_event_table_of_tenant"
            " FOREIGN KEY (tenant_id, table_id) REFERENCES table_def (tenant_id, table_id)",
            "ALTER TABLE ingest_event DROP CONSTRAINT ingest_event_table_of_tenant",
        ),
        # Payloads are compressed already, and rows come and go: vacuum them early.
        migrations.RunSQL(
            "ALTER TABLE ingest_payload ALTER payload SET STORAGE EXTERNAL,"
            " SET (autovacuum_vacuum_threshold = 500, autovacuum_vacuum_scale_factor = 0.05,"
            " toast.autovacuum_vacuum_threshold = 2000, toast.autovacuum_vacuum_scale_factor = 0.05)",
            migrations.RunSQL.noop,
        ),
        migrations.RunSQL(LATEST_TOKEN, "DROP FUNCTION duckmesh_latest_token(text)"),
        migrations.RunSQL(FIRST_FAILURE, "DROP FUNCTION duckmesh_first_failure(text, bigint, bigint[], bigint)"),
        migrations.RunSQL(PENDING, "DROP FUNCTION duckmesh_pending(text, int)"),
        migrations.RunSQL(HASHES, "DROP FUNCTION duckmesh_hashes(bytea, bytea)"),
        migrations.RunSQL(
            PUBLISH,
            "DROP FUNCTION duckmesh_publish(text, bigint, bigint, int, int[], bytea, bytea, int, int[], uuid, uuid,"
            " timestamptz, timestamptz, bytea, bigint)",
        ),
    ]
