"""`manage.py migrate`: Django's, as the owner of the tables, who then lets the programs use what is new."""

from typing import Any

from django.conf import settings
from django.core.management.commands import migrate

from duckmesh.postgresql.address import parts
from duckmesh.postgresql.roles import as_owner, grant


class Command(migrate.Command):
    """Migrate, and grant."""

    # `Any`: Django's signature.
    def handle(self, *args: Any, **options: Any) -> None:
        """The schema is current, and the role of DUCKMESH_DATABASE_URL may use it."""
        config = settings.DUCKMESH
        with as_owner(config.owner_database_url):
            super().handle(*args, **options)
            if config.owner_database_url is not None:
                grant(application=parts(config.database_url)["USER"])
