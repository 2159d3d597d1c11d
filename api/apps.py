from django.apps import AppConfig


class ApiConfig(AppConfig):
    """HTTP."""

    name = "api"

    def ready(self) -> None:
        """Counters whose labels are known begin at zero: a scrape tells "none yet" from "unknown"."""
        from api import metrics  # the planes' models exist only now

        metrics.begin_at_zero()
