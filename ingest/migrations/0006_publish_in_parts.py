"""Publishing in parts: keys, admission under the token lock, envelope. Alone, with growth between them, or as a group."""

from importlib import import_module

from django.db import migrations

PUBLISH_OF_0002 = import_module("ingest.migrations.0002_publish").PUBLISH

DROP_OLD = (
    "DROP FUNCTION duckmesh_publish(text, bigint, bigint, int, int[], bytea, bytea, int, int[], uuid, uuid,"
    " timestamptz, timestamptz, bytea, bigint)"
)

# plpgsql in READ COMMITTED takes a new snapshot for each statement: the look-up of duplicates sees the writer that the
# INSERT waited for.
TAKE_KEYS = """
CREATE FUNCTION duckmesh_take_keys(
  p_table bigint, p_event bigint, p_ordinals int[], p_key_hashes bytea, p_payload_hashes bytea,
  p_request_key uuid, p_request_hash uuid, OUT duplicates int[], OUT covering bigint, OUT replayed bigint
) LANGUAGE plpgsql VOLATILE AS $$
DECLARE
  conflicts int[];
  keys int := coalesce(array_length(p_ordinals, 1), 0);
  inserted int;
  known int;
  same boolean;
BEGIN
  duplicates := '{}';
  covering := 0;
  IF p_request_key IS NOT NULL THEN
    INSERT INTO ingest_key (table_id, key_hash, payload_hash, event_id)
    VALUES (p_table, p_request_key, p_request_hash, p_event) ON CONFLICT DO NOTHING;
    IF NOT FOUND THEN
      SELECT k.event_id, k.payload_hash = p_request_hash INTO replayed, same
        FROM ingest_key k JOIN ingest_event e USING (event_id)
       WHERE k.table_id = p_table AND k.key_hash = p_request_key;
      IF same THEN RETURN; END IF;
      RAISE EXCEPTION '%', CASE WHEN same IS NULL THEN 'vanished' ELSE 'conflict' END USING ERRCODE = 'DM001';
    END IF;
  END IF;
  IF keys = 0 THEN RETURN; END IF;
  -- Sorted: two calls with the same keys in opposite order would otherwise wait for each other. Keys are nearly always
  -- new, and to insert them without looking first costs a quarter less; one that is known undoes the attempt.
  BEGIN
    INSERT INTO ingest_key (table_id, key_hash, payload_hash, event_id)
    SELECT p_table, h.key_hash, h.payload_hash, p_event
      FROM duckmesh_hashes(p_key_hashes, p_payload_hashes) h ORDER BY h.key_hash;
    RETURN;
  EXCEPTION WHEN unique_violation THEN
    INSERT INTO ingest_key (table_id, key_hash, payload_hash, event_id)
    SELECT p_table, h.key_hash, h.payload_hash, p_event
      FROM duckmesh_hashes(p_key_hashes, p_payload_hashes) h ORDER BY h.key_hash
    ON CONFLICT DO NOTHING;
    GET DIAGNOSTICS inserted = ROW_COUNT;
  END;
  IF inserted = keys THEN RETURN; END IF;
  SELECT array_agg(p_ordinals[h.i] ORDER BY h.i), count(*),
         array_agg(p_ordinals[h.i] ORDER BY h.i) FILTER (WHERE k.payload_hash <> h.payload_hash),
         max(e.last_token)
    INTO duplicates, known, conflicts, covering
    FROM duckmesh_hashes(p_key_hashes, p_payload_hashes) h
    JOIN ingest_key k ON k.table_id = p_table AND k.key_hash = h.key_hash
    JOIN ingest_event e USING (event_id)
   WHERE k.event_id <> p_event;
  IF conflicts IS NOT NULL THEN
    RAISE EXCEPTION 'conflict' USING ERRCODE = 'DM001', DETAIL = array_to_json(conflicts)::text;
  END IF;
  -- A key was purged or discarded between the two statements: the caller tries again.
  IF known + inserted < keys THEN RAISE EXCEPTION 'vanished' USING ERRCODE = 'DM001'; END IF;
END $$;
COMMENT ON FUNCTION duckmesh_take_keys IS
  'The keys are this event''s, but for the duplicates, which an earlier envelope holds; or the request is a replay.';
"""

# The generic cell rate algorithm (ITU-T I.371): an envelope says until when what was accepted up to it is paid for. It
# stands on the newest envelope, which is read here anyway: exact across processes, and no row of counters to bloat.
PAID = """
CREATE FUNCTION duckmesh_paid(
  p_unit text, p_paid_at timestamptz, p_amount bigint, p_rate bigint, p_burst double precision, p_requests int,
  p_now timestamptz
) RETURNS timestamptz LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
  debt double precision := greatest(0, coalesce(extract(epoch FROM p_paid_at - p_now), 0));
  cost double precision := p_amount::double precision / p_rate;
  -- One request that is larger than the whole burst passes when nothing is owed, and is paid off afterwards.
  wait double precision := debt + cost - CASE p_requests WHEN 1 THEN greatest(p_burst, cost) ELSE p_burst END;
BEGIN
  IF wait > 0 THEN
    RAISE EXCEPTION 'rate' USING ERRCODE = 'DM001',
      DETAIL = json_build_object('unit', p_unit, 'limit', p_rate, 'retry_after', wait)::text;
  END IF;
  RETURN p_now + make_interval(secs => debt + cost);
END $$;
COMMENT ON FUNCTION duckmesh_paid IS 'When this amount is paid for too; or an error that says when there is room for it.';
"""

# Read behind the lock, in the next statement, so that it is what the previous holder of the lock committed.
ADMIT = """
CREATE FUNCTION duckmesh_admit(
  p_tenant text, p_ddl_version bigint, p_requests int, p_records bigint, p_bytes bigint,
  p_limits bigint[], p_burst double precision,
  OUT last bigint, OUT records_paid_at timestamptz, OUT bytes_paid_at timestamptz,
  OUT records_rate bigint, OUT bytes_rate bigint
) LANGUAGE plpgsql VOLATILE AS $$
DECLARE
  ddl bigint;
  visible bigint;
  most_pending bigint;
  most_bytes bigint;
  most_files bigint;
  stored_bytes bigint;
  stored_files bigint;
BEGIN
  PERFORM duckmesh_token_lock(p_tenant);
  -- A restore leaps over tokens: what lies below its floor does not wait.
  SELECT t.ddl_version, greatest(coalesce(e.last_token, 0), c.token_floor), greatest(c.visible_token, c.token_floor),
         e.records_paid_at, e.bytes_paid_at, coalesce(t.max_pending_records, p_limits[1]),
         coalesce(t.max_records_per_second, p_limits[2]), coalesce(t.max_bytes_per_second, p_limits[3]),
         coalesce(t.max_stored_bytes, p_limits[4]), coalesce(t.max_stored_files, p_limits[5]),
         c.stored_bytes, c.stored_files
    INTO ddl, last, visible, records_paid_at, bytes_paid_at, most_pending, records_rate, bytes_rate,
         most_bytes, most_files, stored_bytes, stored_files
    FROM tenant t JOIN tenant_catalog c USING (tenant_id)
    LEFT JOIN LATERAL (SELECT i.last_token, i.records_paid_at, i.bytes_paid_at FROM ingest_event i
                        WHERE i.tenant_id = p_tenant ORDER BY i.last_token DESC LIMIT 1) e ON true
   WHERE t.tenant_id = p_tenant;
  IF ddl IS DISTINCT FROM p_ddl_version THEN RAISE EXCEPTION 'stale' USING ERRCODE = 'DM001'; END IF;
  IF most_pending > 0 AND last > visible AND last - visible + p_records > most_pending THEN
    RAISE EXCEPTION 'full' USING ERRCODE = 'DM001',
      DETAIL = json_build_object('pending_records', last - visible, 'limit', most_pending)::text;
  END IF;
  IF most_bytes > 0 AND stored_bytes >= most_bytes OR most_files > 0 AND stored_files >= most_files THEN
    RAISE EXCEPTION 'quota' USING ERRCODE = 'DM001',
      DETAIL = json_build_object('stored_bytes', stored_bytes, 'max_stored_bytes', most_bytes,
                                 'stored_files', stored_files, 'max_stored_files', most_files)::text;
  END IF;
  IF records_rate > 0 THEN
    records_paid_at := duckmesh_paid('records', records_paid_at, p_records, records_rate, p_burst, p_requests,
                                     clock_timestamp());
  END IF;
  IF bytes_rate > 0 THEN
    bytes_paid_at := duckmesh_paid('bytes', bytes_paid_at, p_bytes, bytes_rate, p_burst, p_requests,
                                   clock_timestamp());
  END IF;
END $$;
COMMENT ON FUNCTION duckmesh_admit IS
  'The token lock is held, and the tenant may write this much under these limits, each of which its row can replace; 0 is none.';
"""

APPEND = """
CREATE FUNCTION duckmesh_append(
  p_tenant text, p_event bigint, p_table bigint, p_ddl_version bigint, p_schema_version int,
  p_record_count int, p_excluded int[], p_min_event_time timestamptz, p_max_event_time timestamptz,
  p_payload bytea, p_staged bigint, p_size_bytes bigint, p_limits bigint[], p_burst double precision,
  OUT first bigint, OUT last bigint, OUT records_paid_at timestamptz, OUT bytes_paid_at timestamptz,
  OUT records_rate bigint, OUT bytes_rate bigint
) LANGUAGE plpgsql VOLATILE AS $$
BEGIN
  -- Before the lock, which is then held no longer for a large payload than for a small one.
  IF p_staged IS NULL THEN
    INSERT INTO ingest_payload (event_id, payload) VALUES (p_event, p_payload);
  ELSE
    UPDATE ingest_staged SET event_id = p_event
     WHERE staged_id = p_staged AND tenant_id = p_tenant AND event_id IS NULL AND doomed_at IS NULL;
    IF NOT FOUND THEN RAISE EXCEPTION 'vanished' USING ERRCODE = 'DM001'; END IF;
  END IF;
  SELECT a.* INTO last, records_paid_at, bytes_paid_at, records_rate, bytes_rate
    FROM duckmesh_admit(p_tenant, p_ddl_version, 1, p_record_count, p_size_bytes, p_limits, p_burst) a;
  first := last + 1;
  last := last + p_record_count;
  INSERT INTO ingest_event (event_id, tenant_id, table_id, schema_version, first_token, last_token, record_count,
                            excluded, size_bytes, min_event_time, max_event_time, accepted_at,
                            records_paid_at, bytes_paid_at)
  OVERRIDING SYSTEM VALUE
  VALUES (p_event, p_tenant, p_table, p_schema_version, first, last, p_record_count, p_excluded, p_size_bytes,
          p_min_event_time, p_max_event_time, clock_timestamp(), records_paid_at, bytes_paid_at);
END $$;
COMMENT ON FUNCTION duckmesh_append IS 'The envelope is the last of the tenant''s log, and the token lock is held.';
"""

PUBLISH = """
CREATE FUNCTION duckmesh_publish(
  p_tenant text, p_table bigint, p_ddl_version bigint, p_schema_version int,
  p_ordinals int[], p_key_hashes bytea, p_payload_hashes bytea,
  p_record_count int, p_excluded int[], p_request_key uuid, p_request_hash uuid,
  p_min_event_time timestamptz, p_max_event_time timestamptz, p_payload bytea, p_staged bigint, p_size_bytes bigint,
  p_limits bigint[], p_burst double precision,
  OUT outcome text, OUT first bigint, OUT last bigint, OUT duplicates int[], OUT covering bigint,
  OUT records_paid_at timestamptz, OUT bytes_paid_at timestamptz, OUT records_rate bigint, OUT bytes_rate bigint
) LANGUAGE plpgsql VOLATILE AS $$
DECLARE
  event bigint;
  replayed bigint;
  ddl bigint;
  kept int;
BEGIN
  -- Without the lock, so that an answer of duplicates alone is never about a table that is gone.
  SELECT t.ddl_version INTO ddl FROM tenant t WHERE t.tenant_id = p_tenant;
  IF ddl IS DISTINCT FROM p_ddl_version THEN RAISE EXCEPTION 'stale' USING ERRCODE = 'DM001'; END IF;

  event := nextval(pg_get_serial_sequence('ingest_event', 'event_id'));
  SELECT k.duplicates, k.covering, k.replayed INTO duplicates, covering, replayed
    FROM duckmesh_take_keys(
      p_table, event, p_ordinals, p_key_hashes, p_payload_hashes, p_request_key, p_request_hash) k;
  IF replayed IS NOT NULL THEN
    SELECT 'replayed', e.first_token, e.last_token, e.excluded INTO outcome, first, last, duplicates
      FROM ingest_event e WHERE e.event_id = replayed;
    -- It was purged between the two statements: the caller tries again.
    IF NOT FOUND THEN RAISE EXCEPTION 'vanished' USING ERRCODE = 'DM001'; END IF;
    RETURN;
  END IF;
  duplicates := duplicates || p_excluded;
  kept := p_record_count - coalesce(array_length(duplicates, 1), 0);
  IF kept = 0 THEN
    -- There is no envelope that the request's key could name; a retry finds the same duplicates.
    DELETE FROM ingest_key WHERE table_id = p_table AND key_hash = p_request_key AND event_id = event;
    outcome := 'duplicate';
    RETURN;
  END IF;
  SELECT a.* INTO first, last, records_paid_at, bytes_paid_at, records_rate, bytes_rate
    FROM duckmesh_append(
      p_tenant, event, p_table, p_ddl_version, p_schema_version, kept, duplicates, p_min_event_time, p_max_event_time,
      p_payload, p_staged, p_size_bytes, p_limits, p_burst) a;
  outcome := 'accepted';
END $$;
COMMENT ON FUNCTION duckmesh_publish IS
  'Accepts an envelope and answers accepted, duplicate or replayed; everything else is an error of class DM001, and undone.';
"""

# All keys of the group in one sorted INSERT: sorted request by request, two groups would wait for each other. What
# nearly never happens, a key that is known, is no business of a group: it fails, and each request tries alone.
PUBLISH_GROUP = """
CREATE FUNCTION duckmesh_publish_group(
  p_tenant text, p_ddl_version bigint, p_tables bigint[], p_schema_versions int[], p_record_counts int[],
  p_key_counts int[], p_key_hashes bytea, p_payload_hashes bytea, p_request_keys uuid[], p_request_hashes uuid[],
  p_min_event_times timestamptz[], p_max_event_times timestamptz[], p_payloads bytea[], p_size_bytes bigint[],
  p_limits bigint[], p_burst double precision,
  OUT firsts bigint[], OUT records_paid_at timestamptz, OUT bytes_paid_at timestamptz,
  OUT records_rate bigint, OUT bytes_rate bigint
) LANGUAGE plpgsql VOLATILE AS $$
DECLARE
  requests int := array_length(p_tables, 1);
  events bigint[];
  owners int[];
  last bigint;
BEGIN
  SELECT array_agg(nextval(pg_get_serial_sequence('ingest_event', 'event_id'))) INTO events
    FROM generate_series(1, requests);
  SELECT array_agg(r) INTO owners FROM generate_series(1, requests) r, generate_series(1, p_key_counts[r]);
  INSERT INTO ingest_key (table_id, key_hash, payload_hash, event_id)
  SELECT p_tables[k.r], k.key_hash, k.payload_hash, events[k.r]
    FROM (SELECT owners[h.i] AS r, h.key_hash, h.payload_hash FROM duckmesh_hashes(p_key_hashes, p_payload_hashes) h
          UNION ALL
          SELECT r, p_request_keys[r], p_request_hashes[r] FROM generate_series(1, requests) r
           WHERE p_request_keys[r] IS NOT NULL) k
   ORDER BY p_tables[k.r], k.key_hash;
  INSERT INTO ingest_payload (event_id, payload) SELECT events[r], p_payloads[r] FROM generate_series(1, requests) r;
  SELECT a.* INTO last, records_paid_at, bytes_paid_at, records_rate, bytes_rate
    FROM duckmesh_admit(p_tenant, p_ddl_version, requests, (SELECT sum(n) FROM unnest(p_record_counts) n),
                        (SELECT sum(n) FROM unnest(p_size_bytes) n)::bigint, p_limits, p_burst) a;
  SELECT array_agg(before.first ORDER BY before.r) INTO firsts
    FROM (SELECT r, last + 1 + sum(p_record_counts[r]) OVER (ORDER BY r) - p_record_counts[r] AS first
            FROM generate_series(1, requests) r) before;
  INSERT INTO ingest_event (event_id, tenant_id, table_id, schema_version, first_token, last_token, record_count,
                            excluded, size_bytes, min_event_time, max_event_time, accepted_at,
                            records_paid_at, bytes_paid_at)
  OVERRIDING SYSTEM VALUE
  SELECT events[r], p_tenant, p_tables[r], p_schema_versions[r], firsts[r], firsts[r] + p_record_counts[r] - 1,
         p_record_counts[r], '{}', p_size_bytes[r], p_min_event_times[r], p_max_event_times[r], clock_timestamp(),
         duckmesh_publish_group.records_paid_at, duckmesh_publish_group.bytes_paid_at
    FROM generate_series(1, requests) r;
END $$;
COMMENT ON FUNCTION duckmesh_publish_group IS
  'Accepts envelopes of one tenant whose keys are all new, with consecutive tokens, or fails and does nothing.';
"""


class Migration(migrations.Migration):
    dependencies = [("ingest", "0005_back_off"), ("catalog", "0003_limits_growth_and_folds")]

    operations = [
        migrations.RunSQL(DROP_OLD, PUBLISH_OF_0002),
        migrations.RunSQL(
            TAKE_KEYS, "DROP FUNCTION duckmesh_take_keys(bigint, bigint, int[], bytea, bytea, uuid, uuid)"
        ),
        migrations.RunSQL(
            PAID, "DROP FUNCTION duckmesh_paid(text, timestamptz, bigint, bigint, double precision, int, timestamptz)"
        ),
        migrations.RunSQL(
            ADMIT, "DROP FUNCTION duckmesh_admit(text, bigint, int, bigint, bigint, bigint[], double precision)"
        ),
        migrations.RunSQL(
            APPEND,
            "DROP FUNCTION duckmesh_append(text, bigint, bigint, bigint, int, int, int[], timestamptz, timestamptz,"
            " bytea, bigint, bigint, bigint[], double precision)",
        ),
        migrations.RunSQL(
            PUBLISH,
            "DROP FUNCTION duckmesh_publish(text, bigint, bigint, int, int[], bytea, bytea, int, int[], uuid, uuid,"
            " timestamptz, timestamptz, bytea, bigint, bigint, bigint[], double precision)",
        ),
        migrations.RunSQL(
            PUBLISH_GROUP,
            "DROP FUNCTION duckmesh_publish_group(text, bigint, bigint[], int[], int[], int[], bytea, bytea, uuid[],"
            " uuid[], timestamptz[], timestamptz[], bytea[], bigint[], bigint[], double precision)",
        ),
    ]
