"""What a run came to: its summary, and whether all is well."""

from collections.abc import Mapping
from uuid import UUID

from duckmesh.kernel.errors import JSON
from maintenance.errors import IntegrityCheckFailed, IntegrityUnfinished
from maintenance.integrity.findings import FindingKind, Severity, counted
from maintenance.integrity.plan import Plan

_OF_CONTENTS = (
    FindingKind.CHECKSUM_MISMATCH,
    FindingKind.FOOTER_MISMATCH,
    FindingKind.ROW_COUNT_MISMATCH,
    FindingKind.CONTENT_MISMATCH,
)
_OF_STORE = (
    *_OF_CONTENTS,
    FindingKind.MISSING_FILE,
    FindingKind.MISSING_UNREFERENCED_FILE,
    FindingKind.MISSING_STAGED_OBJECT,
    FindingKind.SIZE_MISMATCH,
    FindingKind.STAGED_SIZE_MISMATCH,
    FindingKind.ORPHAN_OBJECT,
    FindingKind.ORPHAN_IN_GRACE,
    FindingKind.UNCHECKED_OBJECTS,
)


def conclude(*, run_id: UUID, plan: Plan, mode: str, counts: Mapping[str, int]) -> Mapping[str, JSON]:
    """The summary of a run that found no error. Raises `IntegrityCheckFailed` or `IntegrityUnfinished` with it."""
    found = counted(run_id=run_id)
    by_severity = {
        severity: sum(count for kind, count in found.items() if kind.severity == severity) for severity in Severity
    }
    failures = counts.get("operational_failures", 0)
    summary: dict[str, JSON] = {
        "mode": mode,
        "tenants_scanned": len(plan.tenant_ids),
        "snapshots_scanned": plan.snapshots,
        "referenced_files": counts.get("references", 0),
        "unique_files_checked": counts.get("files", 0),
        "missing_files": found.get(FindingKind.MISSING_FILE, 0),
        "size_mismatch_files": found.get(FindingKind.SIZE_MISMATCH, 0),
        "checksum_mismatch_files": sum(found.get(kind, 0) for kind in _OF_CONTENTS),
        "orphan_files": found.get(FindingKind.ORPHAN_OBJECT, 0) + found.get(FindingKind.ORPHAN_IN_GRACE, 0),
        "orphan_files_in_grace": found.get(FindingKind.ORPHAN_IN_GRACE, 0),
        "operational_failures": failures,
        "catalog_findings": sum(count for kind, count in found.items() if kind not in _OF_STORE),
        "staged_objects_checked": counts.get("staged", 0),
        "objects_listed": counts.get("objects", 0),
        "files_read": counts.get("read_files", 0),
        "bytes_read": counts.get("read_bytes", 0),
        "rows_read": counts.get("read_rows", 0),
        "findings": {kind.value: count for kind, count in found.items()},
        "errors": by_severity[Severity.ERROR],
        "warnings": by_severity[Severity.WARNING],
        "infos": by_severity[Severity.INFO],
    }
    if not by_severity[Severity.ERROR] and not failures:
        return summary
    if not by_severity[Severity.ERROR]:
        raise IntegrityUnfinished(
            f"The object store did not answer for {failures} of what was to be checked; nothing else is wrong.",
            summary=summary,
        )
    kinds = ", ".join(f"{count} {kind.value}" for kind, count in found.items() if kind.severity == Severity.ERROR)
    raise IntegrityCheckFailed(f"Catalog and object store disagree: {kinds}.", summary=summary)
