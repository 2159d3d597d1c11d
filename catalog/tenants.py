"""Tenants: created with their empty history, suspended, resumed; never deleted: their files would be orphans."""

import re

import structlog
from django.db import IntegrityError, transaction
from django.db.models import F

from catalog.errors import TenantExists, TenantNotFound
from catalog.incidents import record_incident
from catalog.models import IncidentAudit, Snapshot, Tenant, TenantCatalog
from duckmesh.kernel.errors import Invalid

log = structlog.get_logger(__name__)

TENANT_ID = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")


def create_tenant(*, tenant_id: str, name: str = "", actor: str = "operator") -> Tenant:
    """The tenant exists, with its empty snapshot 0. Raises `Invalid` or `TenantExists`."""
    if not TENANT_ID.fullmatch(tenant_id):
        raise Invalid(
            "A tenant's id is 1 to 63 lower-case letters, digits, '-' or '_' and begins with a letter or digit.",
            tenant_id=tenant_id,
        )
    if len(name) > 200:
        raise Invalid("A tenant's name has at most 200 characters.")
    try:
        with transaction.atomic():
            tenant = Tenant.objects.create(tenant_id=tenant_id, name=name or tenant_id)
            tenant.refresh_from_db()
            # One instant for both: before it there was no snapshot, after it there was always one.
            TenantCatalog.objects.create(tenant=tenant, snapshot_time=tenant.created_at)
            Snapshot.objects.create(
                tenant=tenant,
                snapshot_id=0,
                snapshot_time=tenant.created_at,
                visible_token=0,
                kind=Snapshot.Kind.CREATE,
                created_by=actor,
            )
    except IntegrityError as exc:
        raise TenantExists(f"The tenant {tenant_id} exists.", tenant_id=tenant_id) from exc
    log.info("tenant_created", tenant_id=tenant_id, actor=actor)
    return tenant


def suspend_tenant(*, tenant_id: str, reason: str, actor: str) -> None:
    """No key of the tenant opens anything, within a second and until it is resumed.

    Its data stay, and what it was acknowledged still becomes visible. Nothing changes if it is suspended already.
    """
    _set_state(tenant_id, Tenant.State.SUSPENDED, reason=reason, actor=actor)


def resume_tenant(*, tenant_id: str, reason: str, actor: str) -> None:
    """The tenant's keys open again."""
    _set_state(tenant_id, Tenant.State.ACTIVE, reason=reason, actor=actor)


@transaction.atomic
def _set_state(tenant_id: str, state: Tenant.State, *, reason: str, actor: str) -> None:
    if not Tenant.objects.filter(tenant_id=tenant_id).exclude(state=state).update(state=state):
        if not Tenant.objects.filter(tenant_id=tenant_id).exists():
            raise TenantNotFound(f"There is no tenant {tenant_id}.", tenant_id=tenant_id)
        return
    record_incident(
        tenant_id=tenant_id,
        kind="tenant_state_changed",
        severity=IncidentAudit.Severity.WARNING,
        message=f"The tenant is {state.value}.",
        context={"state": state.value, "reason": reason, "actor": actor},
    )
    transaction.on_commit(
        lambda: log.info("tenant_state_changed", tenant_id=tenant_id, state=state.value, reason=reason, actor=actor)
    )


def raise_ddl_version(*, tenant_id: str) -> None:
    """Writes in flight that were decoded under the old tables will notice. The caller holds the token lock."""
    Tenant.objects.filter(tenant_id=tenant_id).update(ddl_version=F("ddl_version") + 1)
