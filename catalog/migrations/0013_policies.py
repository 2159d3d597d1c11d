"""Rows are seen by whoever acts for their tenant."""

from django.db import migrations

from duckmesh.postgresql.policies import operators_rows, parents_rows, tenants_rows


class Migration(migrations.Migration):
    dependencies = [("catalog", "0012_incident_trace")]

    operations = [
        *tenants_rows(
            "tenant",
            "tenant_limit_change",
            "tenant_catalog",
            "table_def",
            "snapshot",
            "snapshot_table_watermark",
            "data_file",
            "snapshot_file",
            "snapshot_pin",
            "void_range",
            "incident_audit",
        ),
        parents_rows("table_schema_version", parent="table_def", key="table_id"),
        parents_rows("table_interval", parent="table_def", key="table_id"),
        *operators_rows("file_hold"),
    ]
