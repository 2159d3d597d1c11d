from django.apps import AppConfig


class DuckMeshConfig(AppConfig):
    """What holds the planes together: its checks."""

    name = "duckmesh"

    def ready(self) -> None:
        """`manage.py check` asks ours too."""
        from duckmesh import checks  # noqa: F401 - registers them; models exist only now
