"""Rows are seen by whoever acts for their tenant."""

from django.db import migrations

from duckmesh.postgresql.policies import tenants_rows


class Migration(migrations.Migration):
    dependencies = [("query", "0003_audit_not_ok")]

    operations = tenants_rows("query_audit", "query_running")
