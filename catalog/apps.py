from django.apps import AppConfig


class CatalogConfig(AppConfig):
    """What exists and since when."""

    name = "catalog"
