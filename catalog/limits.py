"""What a tenant may use, and what it uses: rates of writing, records that are not yet visible, storage.

The limits stand in the tenant's row, which the statement that accepts a write reads: a change holds from the next
write on, in every process.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Self

import structlog
from django.db import connection, transaction

from catalog.errors import TenantNotFound
from catalog.models import Tenant, TenantLimitChange
from catalog.models.tenant import LIMITS
from duckmesh.kernel.config import Config
from duckmesh.kernel.errors import Invalid

GREATEST = 2**63 - 1
MEANINGS = {
    "max_records_per_second": "Records a second that the tenant may write.",
    "max_bytes_per_second": "Bytes a second that the tenant may write, decoded and compressed.",
    "max_pending_records": "Accepted records that it may have and that are not yet visible.",
    "max_stored_bytes": "Bytes of data files that it may have, those of old snapshots too.",
    "max_stored_files": "Data files that it may have, those of old snapshots too.",
}

log = structlog.get_logger(__name__)


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The bounds of one tenant; 0 is no bound."""

    max_records_per_second: int = 0
    max_bytes_per_second: int = 0
    max_pending_records: int = 0
    max_stored_bytes: int = 0
    max_stored_files: int = 0

    @classmethod
    def of(cls, config: Config) -> Self:
        """Those of a tenant that has none of its own."""
        return cls(**{name: getattr(config, name) for name in LIMITS})


@dataclass(frozen=True, kw_only=True)
class Usage:
    """What a tenant uses at this moment.

    `stored_bytes` and `stored_files` are of all data files that are kept, those of old snapshots too. At its rates the
    tenant has written as much as it may up to `records_ahead_ms` and `bytes_ahead_ms` from now; a quiet tenant has 0.
    """

    stored_bytes: int
    stored_files: int
    pending_records: int
    records_ahead_ms: int
    bytes_ahead_ms: int


def own_limits(*, tenant_id: str) -> dict[str, int | None]:
    """The limits that were set for the tenant; None where the default holds. Raises `TenantNotFound`."""
    row = Tenant.objects.filter(tenant_id=tenant_id).values(*LIMITS).first()
    if row is None:
        raise _not_found(tenant_id)
    return {name: row[name] for name in LIMITS}


def effective_limits(*, tenant_id: str, defaults: Limits) -> Limits:
    """The tenant's own limits, and the defaults where it has none. Raises `TenantNotFound`."""
    own = {name: value for name, value in own_limits(tenant_id=tenant_id).items() if value is not None}
    return Limits(**{**asdict(defaults), **own})


def set_limits(*, tenant_id: str, changes: Mapping[str, int | None], actor: str) -> None:
    """The limits named in `changes` hold from the tenant's next write on, and it is on record who set them.

    None goes back to the default, 0 is no bound. Raises `Invalid` or `TenantNotFound`.
    """
    for name, value in changes.items():
        if name not in LIMITS:
            raise Invalid(f"There is no limit {name}; the limits are {', '.join(LIMITS)}.")
        if value is not None and not 0 <= value <= GREATEST:
            raise Invalid(f"{name} must be between 0 (no bound) and {GREATEST}, not {value}.")
    with transaction.atomic():
        tenant = Tenant.objects.select_for_update(no_key=True).filter(tenant_id=tenant_id).first()
        if tenant is None:
            raise _not_found(tenant_id)
        before = {name: getattr(tenant, name) for name in changes}
        changed = {name: [before[name], value] for name, value in changes.items() if before[name] != value}
        if not changed:
            return
        Tenant.objects.filter(tenant_id=tenant_id).update(**{name: changes[name] for name in changed})
        TenantLimitChange.objects.create(tenant=tenant, changes=changed, changed_by=actor)
    log.info("limits_changed", tenant_id=tenant_id, changes=changed, actor=actor)


# What is pending is told by the tokens, as the statement that accepts a write tells it. The newest envelope knows until
# when everything up to it is paid for.
_USAGE = """
SELECT c.stored_bytes, c.stored_files,
       greatest(0, duckmesh_latest_token(c.tenant_id) - greatest(c.visible_token, c.token_floor)),
       coalesce(greatest(0, ceil(extract(epoch FROM e.records_paid_at - clock_timestamp()) * 1000)), 0)::bigint,
       coalesce(greatest(0, ceil(extract(epoch FROM e.bytes_paid_at - clock_timestamp()) * 1000)), 0)::bigint
  FROM tenant_catalog c
  LEFT JOIN LATERAL (SELECT records_paid_at, bytes_paid_at FROM ingest_event
                      WHERE tenant_id = c.tenant_id ORDER BY last_token DESC LIMIT 1) e ON true
 WHERE c.tenant_id = %s
"""


def usage(*, tenant_id: str) -> Usage:
    """What the tenant uses now. Raises `TenantNotFound`."""
    with connection.cursor() as cursor:
        cursor.execute(_USAGE, [tenant_id])
        row = cursor.fetchone()
    if row is None:
        raise _not_found(tenant_id)
    stored_bytes, stored_files, pending_records, records_ahead_ms, bytes_ahead_ms = row
    return Usage(
        stored_bytes=stored_bytes,
        stored_files=stored_files,
        pending_records=pending_records,
        records_ahead_ms=records_ahead_ms,
        bytes_ahead_ms=bytes_ahead_ms,
    )


def _not_found(tenant_id: str) -> TenantNotFound:
    return TenantNotFound(f"There is no tenant {tenant_id}.", tenant_id=tenant_id)
