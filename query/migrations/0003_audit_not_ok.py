"""Queries that did not end well are found without reading those that did."""

from django.contrib.postgres.operations import AddIndexConcurrently
from django.db import migrations, models


class Migration(migrations.Migration):
    atomic = False
    dependencies = [("query", "0002_audit_text_and_running")]

    operations = [
        AddIndexConcurrently(
            model_name="queryaudit",
            index=models.Index(
                condition=models.Q(("outcome", "ok"), _negated=True),
                fields=["tenant", "at"],
                name="query_audit_not_ok",
            ),
        ),
    ]
