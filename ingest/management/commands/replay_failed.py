"""`manage.py replay_failed [--tenant T]`"""

from collections.abc import Mapping
from typing import Any

from django.core.management.base import CommandParser

from catalog.management.base import Outcome, ServiceCommand
from ingest.failed import replay_all
from ingest.management.tenants import declare_tenant, tenants_of


class Command(ServiceCommand):
    """Try again what failed."""

    help = "Make the failed writes of one tenant, or of all, pending again. The workers find them within a second."

    def declare(self, parser: CommandParser) -> None:
        declare_tenant(parser)

    def perform(self, options: Mapping[str, Any]) -> Outcome:
        replayed = replay_all(tenant_ids=tenants_of(options), actor="operator")
        document = {"replayed": len(replayed), "failed_event_ids": [event.event_id for event in replayed]}
        return Outcome(document=document, lines=[f"Failed writes replayed: {len(replayed)}."])
