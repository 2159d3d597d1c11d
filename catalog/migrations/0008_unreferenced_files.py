"""Files that no snapshot names are found without reading those that are named."""

from django.contrib.postgres.operations import AddIndexConcurrently
from django.db import migrations, models


class Migration(migrations.Migration):
    atomic = False
    dependencies = [("catalog", "0007_files_in_the_order_of_the_store")]

    operations = [
        AddIndexConcurrently(
            "datafile",
            models.Index(
                fields=["tenant", "unreferenced_since"],
                condition=models.Q(("unreferenced_since__isnull", False)),
                name="data_file_unreferenced",
            ),
        ),
    ]
