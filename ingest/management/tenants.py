"""`--tenant T` of the commands that are about one tenant or all of them."""

from collections.abc import Mapping
from typing import Any

from django.core.management.base import CommandParser

from catalog.errors import TenantNotFound
from catalog.models import Tenant


def declare_tenant(parser: CommandParser) -> None:
    """The command takes `--tenant`."""
    parser.add_argument("--tenant", metavar="T", help="Only this tenant; without it, all of them.")


def tenants_of(options: Mapping[str, Any]) -> list[str]:
    """The ids of the tenants that are meant. Raises `TenantNotFound`. `Any`: the parsed arguments."""
    named = options["tenant"]
    tenants = Tenant.objects.filter(tenant_id=named) if named else Tenant.objects.all()
    found = list(tenants.order_by("tenant_id").values_list("tenant_id", flat=True))
    if named and not found:
        raise TenantNotFound(f"There is no tenant {named}.", tenant_id=named)
    return found
