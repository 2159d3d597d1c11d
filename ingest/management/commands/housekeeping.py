"""`manage.py housekeeping`"""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from django.conf import settings
from django.core.management.base import CommandParser

from catalog.management.base import Outcome, ServiceCommand
from catalog.mode import require_writable
from ingest.housekeeping import keep_house
from ingest.tasks import housekeeping_policy
from storage.factory import StoreSettings, open_store

_SECONDS = 3600.0


class Command(ServiceCommand):
    """Remove what the bus no longer needs."""

    help = (
        "Remove idempotency keys past their window with their envelopes, staged objects and scratch files that nothing"
        " needs, and rebuild the index of the keys if it is bloated. Runs by itself each minute too."
    )

    def declare(self, parser: CommandParser) -> None:
        parser.add_argument("--seconds", type=float, default=_SECONDS, help="Stop after this time; the next goes on.")

    def perform(self, options: Mapping[str, Any]) -> Outcome:
        require_writable()
        store = open_store(StoreSettings.of(settings.DUCKMESH))
        policy = housekeeping_policy(settings.DUCKMESH)
        done = asdict(keep_house(store=store, policy=policy, seconds=options["seconds"]))
        return Outcome(document=done, lines=[f"{name.replace('_', ' ')}: {value}" for name, value in done.items()])
