"""Rows are seen by whoever acts for their tenant.

Keys are the one thing that is written by the thousand in a request's way, and to ask for each whose it is would cost a
third of its insertion. So the functions that take keys are the owner's, and ask once a table.
"""

from importlib import import_module

from django.db import migrations

from duckmesh.postgresql.policies import later_parents_rows, parents_rows, tenants_rows

FORMER = import_module("ingest.migrations.0006_publish_in_parts")

_OWNERS = "LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS"
_TAKE_KEYS = "duckmesh_take_keys(bigint, bigint, int[], bytea, bytea, uuid, uuid)"
_TAKE_GROUP = "duckmesh_take_keys_of_group(bigint[], bigint[], int[], bytea, bytea, uuid[], uuid[])"

# In a function of the owner's, who has logged in is still `session_user`. Who owns the tables needs no setting.
REQUIRE_OWN = """
CREATE FUNCTION duckmesh_require_own(p_tables bigint[]) RETURNS void LANGUAGE plpgsql STABLE AS $$
DECLARE
  acting text := current_setting('duckmesh.tenant', true);
BEGIN
  IF acting = '*' OR pg_has_role(session_user, current_user, 'USAGE') THEN RETURN; END IF;
  IF EXISTS (SELECT FROM unnest(p_tables) i LEFT JOIN table_def t ON t.table_id = i AND t.tenant_id = acting
              WHERE t.table_id IS NULL) THEN
    -- As if they were gone.
    RAISE EXCEPTION 'stale' USING ERRCODE = 'DM001';
  END IF;
END $$;
COMMENT ON FUNCTION duckmesh_require_own IS
  'For functions of the owner''s: the session acts for the tenant of these tables, or the error is that of a stale one.';
"""

TAKE_KEYS = (
    FORMER.TAKE_KEYS.replace("CREATE FUNCTION", "CREATE OR REPLACE FUNCTION")
    .replace("LANGUAGE plpgsql VOLATILE AS", _OWNERS)
    .replace("\nBEGIN\n", "\nBEGIN\n  PERFORM duckmesh_require_own(ARRAY[p_table]);\n", 1)
)
FORMER_TAKE_KEYS = FORMER.TAKE_KEYS.replace("CREATE FUNCTION", "CREATE OR REPLACE FUNCTION")

_KEYS_OF_GROUP = FORMER.PUBLISH_GROUP[
    FORMER.PUBLISH_GROUP.index("  SELECT array_agg(r) INTO owners") : FORMER.PUBLISH_GROUP.index(
        "  INSERT INTO ingest_payload"
    )
]

TAKE_KEYS_OF_GROUP = f"""
CREATE FUNCTION duckmesh_take_keys_of_group(
  p_tables bigint[], p_events bigint[], p_key_counts int[], p_key_hashes bytea, p_payload_hashes bytea,
  p_request_keys uuid[], p_request_hashes uuid[]
) RETURNS void {_OWNERS} $$
DECLARE
  requests int := array_length(p_tables, 1);
  owners int[];
BEGIN
  PERFORM duckmesh_require_own(p_tables);
{_KEYS_OF_GROUP.replace("events[k.r]", "p_events[k.r]")}END $$;
COMMENT ON FUNCTION duckmesh_take_keys_of_group IS 'The keys, all of them new, are these events''.';
"""

PUBLISH_GROUP = (
    FORMER.PUBLISH_GROUP.replace("CREATE FUNCTION", "CREATE OR REPLACE FUNCTION")
    .replace("  owners int[];\n", "")
    .replace(
        _KEYS_OF_GROUP,
        "  PERFORM duckmesh_take_keys_of_group(\n"
        "    p_tables, events, p_key_counts, p_key_hashes, p_payload_hashes, p_request_keys, p_request_hashes);\n",
    )
)
FORMER_PUBLISH_GROUP = FORMER.PUBLISH_GROUP.replace("CREATE FUNCTION", "CREATE OR REPLACE FUNCTION")


class Migration(migrations.Migration):
    dependencies = [("ingest", "0011_on_the_catalogs_server"), ("catalog", "0013_policies")]

    operations = [
        *tenants_rows("ingest_event", "ingest_staged", "ingest_claim_batch"),
        parents_rows("ingest_claim_item", parent="ingest_claim_batch", key="batch_id"),
        parents_rows("ingest_key", parent="table_def", key="table_id"),
        later_parents_rows("ingest_payload", parent="ingest_event", key="event_id"),
        migrations.RunSQL(REQUIRE_OWN, "DROP FUNCTION duckmesh_require_own(bigint[])"),
        migrations.RunSQL(TAKE_KEYS, FORMER_TAKE_KEYS),
        migrations.RunSQL(TAKE_KEYS_OF_GROUP, f"DROP FUNCTION {_TAKE_GROUP}"),
        migrations.RunSQL(PUBLISH_GROUP, FORMER_PUBLISH_GROUP),
        migrations.RunSQL(
            f"REVOKE EXECUTE ON FUNCTION {_TAKE_KEYS}, {_TAKE_GROUP} FROM PUBLIC",
            f"GRANT EXECUTE ON FUNCTION {_TAKE_KEYS}, {_TAKE_GROUP} TO PUBLIC",
        ),
    ]
