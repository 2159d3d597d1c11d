"""What the query plane tells humans of, beside its answers."""

import structlog

from catalog.incidents import record_incident
from catalog.models import IncidentAudit
from catalog.readset import ReadFile

log = structlog.get_logger(__name__)


def record_damage(tenant_id: str, file: ReadFile, reason: str) -> None:
    """It is recorded that this machine's copy of the file had gone bad; it has been fetched anew."""
    log.warning("cached_file_damaged", tenant_id=tenant_id, path=file.path, reason=reason)
    record_incident(
        tenant_id=tenant_id,
        kind="cached_file_damaged",
        severity=IncidentAudit.Severity.WARNING,
        message="A file in the local cache was no longer what had been written; it was fetched anew.",
        context={"path": file.path, "reason": reason, "size_bytes": file.size_bytes},
    )
