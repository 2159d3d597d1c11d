"""`manage.py failed_events [--tenant T] [--discard ID]`"""

from collections.abc import Mapping
from dataclasses import asdict
from itertools import chain
from typing import Any

from django.core.management.base import CommandParser

from catalog.management.base import Outcome, ServiceCommand
from duckmesh.kernel.errors import Invalid
from ingest.failed import FailedEvent, discard, list_failed
from ingest.management.tenants import declare_tenant, tenants_of

_MOST = 1_000  # of a tenant


class Command(ServiceCommand):
    """Show what failed, or give one of them up."""

    help = (
        "List the failed writes of one tenant, or of all: why, how often tried, since when; or discard one. A discarded"
        " write is gone; its idempotency keys are free, so that it can be sent again."
    )

    def declare(self, parser: CommandParser) -> None:
        declare_tenant(parser)
        parser.add_argument("--discard", metavar="ID", type=int, help="Discard this failed write of --tenant.")

    def perform(self, options: Mapping[str, Any]) -> Outcome:
        tenants = tenants_of(options)
        if options["discard"] is not None:
            return _discard(options["tenant"], options["discard"])
        pages = (list_failed(tenant_id=tenant_id, table=None, after=0, limit=_MOST) for tenant_id in tenants)
        events = list(chain.from_iterable(pages))
        lines = [_line(event) for event in events] or ["No write is failed."]
        return Outcome(document={"failed_events": [asdict(event) for event in events]}, lines=lines)


def _discard(tenant_id: str | None, event_id: int) -> Outcome:
    if tenant_id is None:
        raise Invalid("--discard needs --tenant.")
    event = discard(tenant_id=tenant_id, event_id=event_id, actor="operator")
    return Outcome(document=asdict(event), lines=[f"The failed write {event_id} is discarded."])


def _line(event: FailedEvent) -> str:
    tokens = f"{event.first_token}…{event.last_token}"
    return (
        f"{event.event_id}  {event.tenant_id}  {event.table_name}  tokens {tokens}  records {event.record_count}"
        f"  attempts {event.attempts}  {event.error}: {event.reason}"
    )
