from django.apps import AppConfig


class MaintenanceConfig(AppConfig):
    """Keeps the lake small and true."""

    name = "maintenance"
