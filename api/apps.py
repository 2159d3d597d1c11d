import logging

from django.apps import AppConfig


class ApiConfig(AppConfig):
    """HTTP."""

    name = "api"

    def ready(self) -> None:
        """Counters of known labels begin at zero, and what a problem says is not logged a second time by Django."""
        from api import metrics  # the planes' models exist only now

        metrics.begin_at_zero()
        logging.getLogger("django.request").setLevel(logging.CRITICAL)
