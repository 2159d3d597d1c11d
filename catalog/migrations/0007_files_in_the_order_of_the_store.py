"""Data files can be walked through in the order in which a store lists its objects, whatever the database's collation."""

from django.contrib.postgres.operations import AddIndexConcurrently
from django.db import migrations, models
from django.db.models.functions import Collate


class Migration(migrations.Migration):
    atomic = False
    dependencies = [("catalog", "0006_file_holds_and_identity")]

    operations = [
        AddIndexConcurrently("datafile", models.Index(Collate("path", "C"), name="data_file_path_bytes")),
    ]
