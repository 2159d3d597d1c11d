"""`manage.py suspend_tenant ID [--lift] [--reason TEXT]`"""

from collections.abc import Mapping
from typing import Any

from django.core.management.base import CommandParser

from catalog.management.base import Outcome, ServiceCommand
from catalog.models import Tenant
from catalog.tenants import resume_tenant, suspend_tenant
from duckmesh.kernel.errors import Invalid


class Command(ServiceCommand):
    """Stop every request of a tenant, or take that back."""

    help = (
        "Suspend a tenant: within a second every request with a key of it is answered 403 TENANT_SUSPENDED, in every"
        " process. Nothing of it is deleted, what it was acknowledged still becomes visible, and statements and runs"
        " that are at work end by themselves. --lift: its keys open again."
    )

    def declare(self, parser: CommandParser) -> None:
        parser.add_argument("tenant_id", metavar="ID")
        parser.add_argument("--lift", action="store_true", help="Take the suspension back.")
        parser.add_argument("--reason", default="", metavar="TEXT", help="Why; it stays on record.")

    def perform(self, options: Mapping[str, Any]) -> Outcome:
        tenant_id, reason = options["tenant_id"], options["reason"]
        if len(reason) > 200:
            raise Invalid("A reason has at most 200 characters.")
        if options["lift"]:
            resume_tenant(tenant_id=tenant_id, reason=reason, actor="operator")
            state, said = Tenant.State.ACTIVE, f"Tenant {tenant_id} is active: its keys open again."
        else:
            suspend_tenant(tenant_id=tenant_id, reason=reason, actor="operator")
            state, said = Tenant.State.SUSPENDED, f"Tenant {tenant_id} is suspended: its keys open nothing."
        return Outcome(document={"tenant_id": tenant_id, "state": state.value}, lines=[said])
