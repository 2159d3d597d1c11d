"""Tokens and claims are issued on the PostgreSQL that the catalog lives on, and on no other."""

from django.db import migrations

TRIGGERS = """
CREATE TRIGGER ingest_event_server BEFORE INSERT ON ingest_event
  FOR EACH STATEMENT EXECUTE FUNCTION duckmesh_require_server();
CREATE TRIGGER ingest_claim_batch_server BEFORE INSERT ON ingest_claim_batch
  FOR EACH STATEMENT EXECUTE FUNCTION duckmesh_require_server();
"""
NO_TRIGGERS = """
DROP TRIGGER ingest_event_server ON ingest_event;
DROP TRIGGER ingest_claim_batch_server ON ingest_claim_batch;
"""


class Migration(migrations.Migration):
    dependencies = [("ingest", "0010_forget_claims"), ("catalog", "0011_catalog_server")]

    operations = [migrations.RunSQL(TRIGGERS, NO_TRIGGERS)]
