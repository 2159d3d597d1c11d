"""What a restored catalog does with the claims of the one that it was copied from."""

from django.db import migrations

# A worker that outlived the lost catalog may still hold a claim that is not in the dump: its number and its epoch must
# never be given again. So must the ids of envelopes and of staged payloads that requests in flight hold.
FORGET_CLAIMS = """
CREATE FUNCTION duckmesh_forget_claims(p_leap bigint) RETURNS void LANGUAGE plpgsql VOLATILE AS $$
DECLARE
  last bigint := coalesce(pg_sequence_last_value(pg_get_serial_sequence('ingest_claim_batch', 'batch_id')), 0);
BEGIN
  PERFORM setval(pg_get_serial_sequence('ingest_claim_batch', 'batch_id'), last + p_leap),
          setval(pg_get_serial_sequence('ingest_event', 'event_id'),
                 coalesce(pg_sequence_last_value(pg_get_serial_sequence('ingest_event', 'event_id')), 0) + p_leap),
          setval(pg_get_serial_sequence('ingest_staged', 'staged_id'),
                 coalesce(pg_sequence_last_value(pg_get_serial_sequence('ingest_staged', 'staged_id')), 0) + p_leap);
  DELETE FROM ingest_claim_item;
  INSERT INTO ingest_claim_batch (tenant_id, consumer_id, epoch, lease_until, state, envelope_limit, claimed_at, ended_at)
  SELECT t.tenant_id, 'restore', coalesce(b.epoch, 0) + p_leap, clock_timestamp(), 'released',
         coalesce(b.envelope_limit, 2147483647), clock_timestamp(), clock_timestamp()
    FROM tenant t
    LEFT JOIN LATERAL (SELECT i.epoch, i.envelope_limit FROM ingest_claim_batch i WHERE i.tenant_id = t.tenant_id
                        ORDER BY i.epoch DESC LIMIT 1) b ON true;
  DELETE FROM ingest_claim_batch WHERE batch_id <= last;
END $$;
COMMENT ON FUNCTION duckmesh_forget_claims IS
  'No envelope is claimed. The numbers of claims, envelopes and staged payloads, and each tenant''s epoch, have leapt.';
"""


class Migration(migrations.Migration):
    dependencies = [("ingest", "0009_beat_tick")]

    operations = [migrations.RunSQL(FORGET_CLAIMS, "DROP FUNCTION duckmesh_forget_claims(bigint)")]
