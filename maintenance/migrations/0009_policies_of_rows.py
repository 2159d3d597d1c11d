"""Rows are seen by whoever acts for their tenant."""

from django.db import migrations

from duckmesh.postgresql.policies import operators_rows, tenants_rows


class Migration(migrations.Migration):
    dependencies = [("maintenance", "0008_policies_hold_no_table")]

    operations = [
        *tenants_rows(
            "compaction_run",
            "gc_run",
            "integrity_run",
            "integrity_finding",
            "restore_drill_run",
            "maintenance_policy",
            "maintenance_schedule",
            "orphan_sighting",
            "orphan_sweep",
        ),
        *operators_rows("backup"),
    ]
