from django.apps import AppConfig


class IngestConfig(AppConfig):
    """Request to data file."""

    name = "ingest"
