"""A staged object that is to be deleted is marked first: what publishes it meanwhile finds the mark, or is found."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("ingest", "0003_staged_rates_and_retries")]

    operations = [
        migrations.AddField(model_name="ingeststaged", name="doomed_at", field=models.DateTimeField(null=True)),
    ]
