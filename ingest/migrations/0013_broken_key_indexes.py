"""Who keeps house need not own the table to rid it of what a broken rebuilding has left."""

from django.db import migrations

# One at a time, and briefly waited for: this locks writers out for as long as it takes to forget an index.
DROP_BROKEN = """
CREATE FUNCTION duckmesh_drop_broken_key_indexes() RETURNS void LANGUAGE plpgsql VOLATILE
SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp SET lock_timeout = '1s' AS $$
DECLARE
  broken regclass;
BEGIN
  FOR broken IN
    SELECT c.oid FROM pg_index x JOIN pg_class c ON c.oid = x.indexrelid
     WHERE x.indrelid = 'ingest_key'::regclass AND NOT x.indisvalid AND c.relname ~ '_ccnew[0-9]*$|_ccold[0-9]*$'
  LOOP
    EXECUTE format('DROP INDEX %s', broken);
  END LOOP;
END $$;
COMMENT ON FUNCTION duckmesh_drop_broken_key_indexes IS
  'Indexes of the keys that a broken-off REINDEX CONCURRENTLY has left are gone. Only for who holds the lock of rebuilding.';
REVOKE EXECUTE ON FUNCTION duckmesh_drop_broken_key_indexes() FROM PUBLIC;
"""


class Migration(migrations.Migration):
    dependencies = [("ingest", "0012_policies")]

    operations = [migrations.RunSQL(DROP_BROKEN, "DROP FUNCTION duckmesh_drop_broken_key_indexes()")]
