"""A table that was dropped can come back: the snapshots in which it existed before are intervals of their own."""

import django.db.models.deletion
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("catalog", "0004_tenant_limit_change")]

    operations = [
        migrations.CreateModel(
            name="TableInterval",
            fields=[
                (
                    "pk",
                    models.CompositePrimaryKey(
                        "table_id", "created_in", blank=True, editable=False, primary_key=True, serialize=False
                    ),
                ),
                ("created_in", models.BigIntegerField()),
                ("dropped_in", models.BigIntegerField()),
                (
                    "table",
                    models.ForeignKey(
                        db_index=False,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="intervals",
                        to="catalog.tabledef",
                    ),
                ),
            ],
            options={
                "db_table": "table_interval",
                "constraints": [
                    models.CheckConstraint(
                        condition=models.Q(("dropped_in__gt", models.F("created_in"))), name="table_interval_not_empty"
                    )
                ],
            },
        ),
    ]
