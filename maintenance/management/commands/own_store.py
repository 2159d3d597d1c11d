"""`manage.py own_store`"""

from collections.abc import Mapping
from typing import Any

from django.conf import settings
from django.core.management.base import CommandParser

from catalog.identity import identity, take_over
from catalog.management.base import Outcome, ServiceCommand
from storage.factory import StoreSettings, open_store


class Command(ServiceCommand):
    """Take the object store over."""

    help = (
        "The configured catalog owns the object store from now on, whoever owned it before, and may delete in it."
        " For a catalog that was restored from a backup, when the one it was copied from is stopped for good."
    )

    def declare(self, parser: CommandParser) -> None:
        """It has no arguments of its own."""

    def perform(self, options: Mapping[str, Any]) -> Outcome:  # noqa: ARG002 - every command's signature
        take_over(open_store(StoreSettings.of(settings.DUCKMESH)))
        ours = identity()
        document = {"catalog_id": str(ours.catalog_id), "incarnation": ours.incarnation}
        return Outcome(document=document, lines=["The object store belongs to this catalog now."])
