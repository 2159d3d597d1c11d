"""Old keys are found by their envelope without slowing the insertion of new ones, and what is gone is vacuumed early."""

from django.contrib.postgres.indexes import BrinIndex
from django.contrib.postgres.operations import AddIndexConcurrently
from django.db import migrations

# The default waits until a fifth of the table is dead, which for a registry of many keys is hours of bloat and then one
# long vacuum. Vacuums after insertions alone keep the summaries of the block ranges up to date.
SETTINGS = {
    "ingest_key": (
        "autovacuum_vacuum_threshold = 5000, autovacuum_vacuum_scale_factor = 0.05,"
        " autovacuum_vacuum_insert_threshold = 50000, autovacuum_vacuum_insert_scale_factor = 0.05"
    ),
    "ingest_event": "autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_scale_factor = 0.05",
    "ingest_claim_batch": "autovacuum_vacuum_threshold = 500, autovacuum_vacuum_scale_factor = 0.05",
    "ingest_claim_item": "autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_scale_factor = 0.05",
}


def _names(settings: str) -> str:
    return ", ".join(setting.split(" = ")[0].strip() for setting in settings.split(","))


class Migration(migrations.Migration):
    atomic = False
    dependencies = [("ingest", "0006_publish_in_parts")]

    operations = [
        AddIndexConcurrently(
            "ingestkey",
            BrinIndex(
                fields=["event_id"],
                name="ingest_key_event",
                opclasses=["int8_minmax_multi_ops"],
                autosummarize=True,
                pages_per_range=128,
            ),
        ),
        *(
            migrations.RunSQL(
                f"ALTER TABLE {table} SET ({settings})", f"ALTER TABLE {table} RESET ({_names(settings)})"
            )
            for table, settings in SETTINGS.items()
        ),
    ]
