from django.apps import AppConfig


class QueryConfig(AppConfig):
    """SQL to rows."""

    name = "query"
