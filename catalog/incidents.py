"""What went wrong, or was done by hand, and a human should know of: rows of `incident_audit`."""

from collections.abc import Mapping
from typing import Any

from catalog.models import IncidentAudit
from duckmesh.kernel.traces import current_trace


def record_incident(
    *,
    tenant_id: str | None,
    kind: str,
    severity: IncidentAudit.Severity,
    message: str,
    context: Mapping[str, Any],
) -> None:
    """It is on record, in the caller's transaction, with the trace that this thread works for.

    `Any`: what the context holds is JSON, each kind's own.
    """
    IncidentAudit.objects.create(
        tenant_id=tenant_id,
        kind=kind,
        severity=severity,
        message=message,
        context=dict(context),
        trace_id=current_trace() or "",
    )
