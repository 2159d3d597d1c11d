"""Rows are seen by whoever acts for their tenant."""

from django.db import migrations

from duckmesh.postgresql.policies import tenants_rows


class Migration(migrations.Migration):
    dependencies = [("api", "0001_initial")]

    operations = tenants_rows("api_key")
