"""`manage.py lag [TENANT]`"""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from django.core.management.base import CommandParser

from catalog.management.base import Outcome, ServiceCommand
from catalog.models import Tenant
from ingest.backlog import lag, lags


class Command(ServiceCommand):
    """Show the lag."""

    help = "Show how far visibility is behind acceptance, of one tenant or of all. Counts are records."

    def declare(self, parser: CommandParser) -> None:
        parser.add_argument("tenant_id", metavar="TENANT", nargs="?")

    def perform(self, options: Mapping[str, Any]) -> Outcome:
        if options["tenant_id"]:
            one = lag(tenant_id=options["tenant_id"])
            return Outcome(document=asdict(one), lines=[_HEAD, _line(asdict(one))])
        ids = Tenant.objects.values_list("tenant_id", flat=True)
        found = [asdict(each) for each in lags(tenant_ids=list(ids))]
        return Outcome(document={"tenants": found}, lines=[_HEAD, *map(_line, found)])


_COLUMNS = {
    "tenant_id": 20,
    "accepted_events": 15,
    "claimed_events": 14,
    "failed_events": 13,
    "oldest_pending_lag_ms": 21,
    "token_lag": 9,
    "latest_snapshot_id": 18,
}
_HEAD = "  ".join(f"{name:>{width}}" for name, width in _COLUMNS.items())


def _line(values: Mapping[str, Any]) -> str:
    return "  ".join(f"{values[name]!s:>{width}}" for name, width in _COLUMNS.items())
