"""Ids, texts and retention of audit rows, and the rows of queries that run."""

import django.db.models.deletion
from django.db import migrations, models
from django.db.models.functions import Now


class Migration(migrations.Migration):
    dependencies = [
        ("catalog", "0003_limits_growth_and_folds"),
        ("query", "0001_initial"),
    ]

    operations = [
        migrations.AddField(
            model_name="queryaudit", name="query_id", field=models.CharField(db_default="", max_length=32)
        ),
        migrations.AddField(model_name="queryaudit", name="sql_text", field=models.TextField(null=True)),
        migrations.AddField(
            model_name="queryaudit", name="written_at", field=models.DateTimeField(db_default=Now())
        ),
        migrations.CreateModel(
            name="RunningQuery",
            fields=[
                ("query_id", models.CharField(max_length=32, primary_key=True, serialize=False)),
                ("key_id", models.CharField(max_length=64)),
                ("sql_hash", models.CharField(max_length=64)),
                ("sql_text", models.TextField()),
                ("started_at", models.DateTimeField()),
                ("seen_at", models.DateTimeField()),
                ("cancel_requested_at", models.DateTimeField(null=True)),
                ("tenant", models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, to="catalog.tenant")),
            ],
            options={"db_table": "query_running"},
        ),
    ]
