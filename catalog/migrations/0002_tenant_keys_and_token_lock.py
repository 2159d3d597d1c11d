"""Composite keys that carry the tenant, so that no row can name another tenant's, and the token lock."""

from django.db import migrations

FOREIGN_KEYS = [
    ("data_file", "data_file_table_of_tenant", "(tenant_id, table_id)", "table_def (tenant_id, table_id)"),
    ("snapshot_file", "snapshot_file_file_of_tenant", "(tenant_id, file_id)", "data_file (tenant_id, file_id)"),
    ("snapshot_file", "snapshot_file_table_of_tenant", "(tenant_id, table_id)", "table_def (tenant_id, table_id)"),
    ("snapshot_table_watermark", "snapshot_table_watermark_table_of_tenant", "(tenant_id, table_id)", "table_def (tenant_id, table_id)"),
    # A pin and the expiry of its snapshot cannot both commit.
    ("snapshot_pin", "snapshot_pin_of_snapshot", "(tenant_id, snapshot_id)", "snapshot (tenant_id, snapshot_id)"),
]

TOKEN_LOCK = """
CREATE FUNCTION duckmesh_token_lock(p_tenant text) RETURNS void LANGUAGE sql VOLATILE AS $$
  SELECT pg_advisory_xact_lock(hashtextextended('duckmesh.token/' || p_tenant, 0))
$$;
COMMENT ON FUNCTION duckmesh_token_lock IS
  'Held to the end of the transaction: lock order is token order is commit order. Read what it guards in the next statement.';
"""


class Migration(migrations.Migration):
    dependencies = [("catalog", "0001_initial")]

    operations = [
        *(
            migrations.RunSQL(
                f"ALTER TABLE {table} ADD CONSTRAINT {name} FOREIGN KEY {columns} REFERENCES {target}",
                f"ALTER TABLE {table} DROP CONSTRAINT {name}",
            )
            for table, name, columns, target in FOREIGN_KEYS
        ),
        migrations.RunSQL(TOKEN_LOCK, "DROP FUNCTION duckmesh_token_lock(text)"),
        # The head row changes with every snapshot: room on its page keeps those updates off the index.
        migrations.RunSQL(
            "ALTER TABLE tenant_catalog SET (fillfactor = 20, autovacuum_vacuum_threshold = 200, autovacuum_vacuum_scale_factor = 0)",
            "ALTER TABLE tenant_catalog RESET (fillfactor, autovacuum_vacuum_threshold, autovacuum_vacuum_scale_factor)",
        ),
    ]
