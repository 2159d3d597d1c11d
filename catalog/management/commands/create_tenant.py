"""`manage.py create_tenant ID --name NAME`"""

from collections.abc import Mapping
from typing import Any

from django.core.management.base import CommandParser

from catalog.management.base import Outcome, ServiceCommand
from catalog.tenants import create_tenant


class Command(ServiceCommand):
    """Make a tenant."""

    help = "Create a tenant with its empty snapshot 0."

    def declare(self, parser: CommandParser) -> None:
        parser.add_argument("tenant_id", metavar="ID", help="Lower-case letters, digits, '-' and '_'; at most 63.")
        parser.add_argument("--name", default="", help="What people call it. Default: its id.")

    def perform(self, options: Mapping[str, Any]) -> Outcome:
        tenant = create_tenant(tenant_id=options["tenant_id"], name=options["name"])
        document = {"tenant_id": tenant.tenant_id, "name": tenant.name, "state": tenant.state}
        return Outcome(document=document, lines=[f"Tenant {tenant.tenant_id} is created."])
