"""Findings stand on their own: a file that is deleted takes none with it, and a run that is taken over repeats none.

Nothing has written findings before.
"""

import django.db.models.deletion
import django.db.models.functions.datetime
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("catalog", "0005_table_intervals"), ("maintenance", "0001_initial")]

    operations = [
        migrations.DeleteModel("IntegrityFinding"),
        migrations.CreateModel(
            name="IntegrityFinding",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("kind", models.CharField(max_length=63)),
                ("severity", models.CharField(max_length=16)),
                ("runbook", models.CharField(max_length=100)),
                ("table_id", models.BigIntegerField(null=True)),
                ("file_id", models.BigIntegerField(null=True)),
                ("object_key", models.CharField(default="", max_length=1000)),
                ("detail", models.JSONField(default=dict)),
                ("subject", models.CharField(max_length=64)),
                ("found_at", models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
                (
                    "run",
                    models.ForeignKey(
                        db_index=False,
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="findings",
                        to="maintenance.integrityrun",
                    ),
                ),
                (
                    "tenant",
                    models.ForeignKey(
                        db_index=False,
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="+",
                        to="catalog.tenant",
                    ),
                ),
            ],
            options={
                "db_table": "integrity_finding",
                "constraints": [
                    models.CheckConstraint(
                        condition=models.Q(("severity__in", ["info", "warning", "error"])),
                        name="integrity_finding_severity",
                    ),
                    models.UniqueConstraint(fields=("run", "kind", "subject"), name="integrity_finding_once"),
                ],
            },
        ),
    ]
