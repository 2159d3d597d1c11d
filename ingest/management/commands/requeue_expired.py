"""`manage.py requeue_expired`"""

from collections.abc import Mapping
from typing import Any

from django.core.management.base import CommandParser

from catalog.management.base import Outcome, ServiceCommand
from ingest.bus import requeue_expired


class Command(ServiceCommand):
    """Free what dead workers hold."""

    help = "End the claims whose lease has run out, so that their records can be claimed again. Runs by itself too."

    def declare(self, parser: CommandParser) -> None:
        pass

    def perform(self, _options: Mapping[str, Any]) -> Outcome:
        count = requeue_expired()
        return Outcome(document={"requeued_claims": count}, lines=[f"Claims requeued: {count}."])
