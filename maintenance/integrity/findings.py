"""What an integrity run can find, how grave it is, which page to open, and the rows that tell it.

An *error* is something that a snapshot lacks or holds wrongly, or two records that cannot both be true. A *warning* is
something that costs room or work and no answer. An *info* is what a system at work looks like.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from uuid import UUID

import structlog
from django.db.models import Count

from duckmesh.kernel.errors import JSON
from maintenance.models import IntegrityFinding

log = structlog.get_logger(__name__)


class Severity(StrEnum):
    """How grave a finding is."""

    ERROR = "error"
    WARNING = "warning"
    INFO = "info"


class FindingKind(StrEnum):
    """What was found. docs/integrity.md says of each what it means and what to do."""

    # The store against the catalog
    MISSING_FILE = "missing_file"
    MISSING_UNREFERENCED_FILE = "missing_unreferenced_file"
    SIZE_MISMATCH = "size_mismatch"
    MISSING_STAGED_OBJECT = "missing_staged_object"
    STAGED_SIZE_MISMATCH = "staged_size_mismatch"
    ORPHAN_OBJECT = "orphan_object"
    ORPHAN_IN_GRACE = "orphan_in_grace"
    UNCHECKED_OBJECTS = "unchecked_objects"
    # The contents of files against the catalog
    CHECKSUM_MISMATCH = "checksum_mismatch"
    FOOTER_MISMATCH = "footer_mismatch"
    ROW_COUNT_MISMATCH = "row_count_mismatch"
    CONTENT_MISMATCH = "content_mismatch"
    STATS_MISMATCH = "stats_mismatch"
    TOKEN_RANGE_MISMATCH = "token_range_mismatch"  # noqa: S105 (the name of a finding, not a secret)
    PARTITION_MISMATCH = "partition_mismatch"
    # The catalog against itself
    FILE_WITHOUT_INTERVAL = "file_without_interval"
    INTERVALS_OVERLAP = "intervals_overlap"
    INTERVAL_OUTSIDE_TABLE = "interval_outside_table"
    INTERVAL_BEYOND_HEAD = "interval_beyond_head"
    INTERVAL_OF_OTHER_TABLE = "interval_of_other_table"
    NAMED_FILE_TOMBSTONED = "named_file_tombstoned"
    NAMED_FILE_MARKED = "named_file_marked"
    UNNAMED_FILE_NOT_MARKED = "unnamed_file_not_marked"
    FILE_AHEAD_OF_WATERMARK = "file_ahead_of_watermark"
    FILE_SCHEMA_UNKNOWN = "file_schema_unknown"
    MISPLACED_FILE = "misplaced_file"
    TOTALS_MISMATCH = "totals_mismatch"
    CHANGE_LOG_MISMATCH = "change_log_mismatch"
    RECORDS_MISSING = "records_missing"
    SNAPSHOT_GAP = "snapshot_gap"
    PARENT_MISMATCH = "parent_mismatch"
    WATERMARK_FELL = "watermark_fell"
    SNAPSHOT_TIME_ORDER = "snapshot_time_order"
    HEAD_MISMATCH = "head_mismatch"
    WATERMARK_BEYOND_TOKENS = "watermark_beyond_tokens"
    COUNTER_MISMATCH = "counter_mismatch"
    SCHEMA_VERSIONS_BROKEN = "schema_versions_broken"
    PENDING_BELOW_WATERMARK = "pending_below_watermark"
    PAYLOAD_MISSING = "payload_missing"
    CLAIM_OF_DONE_WRITES = "claim_of_done_writes"
    CLAIM_STALE = "claim_stale"
    KEY_WITHOUT_WRITE = "key_without_write"

    @property
    def severity(self) -> Severity:
        """How grave it is; what is not named otherwise is an error."""
        return _SEVERITIES.get(self, Severity.ERROR)

    @property
    def runbook(self) -> str:
        """The page under runbooks/ to open."""
        return "object-store-down.md" if self == FindingKind.UNCHECKED_OBJECTS else "integrity-findings.md"


_SEVERITIES = {
    FindingKind.MISSING_UNREFERENCED_FILE: Severity.WARNING,
    FindingKind.ORPHAN_OBJECT: Severity.WARNING,
    FindingKind.ORPHAN_IN_GRACE: Severity.INFO,
    FindingKind.UNCHECKED_OBJECTS: Severity.WARNING,
    FindingKind.UNNAMED_FILE_NOT_MARKED: Severity.WARNING,
    FindingKind.MISPLACED_FILE: Severity.WARNING,
    FindingKind.CLAIM_STALE: Severity.WARNING,
}


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One disagreement. `detail` says which snapshots and tables it touches, and what would bring back what is lost."""

    kind: FindingKind
    tenant_id: str | None = None
    table_id: int | None = None
    file_id: int | None = None
    object_key: str = ""
    detail: Mapping[str, JSON] = field(default_factory=dict)

    @property
    def subject(self) -> str:
        """The same for the same disagreement, whichever process finds it."""
        place = "" if self.file_id is not None or self.object_key else self.detail
        told = [self.tenant_id, self.table_id, self.file_id, self.object_key, place]
        return hashlib.sha256(json.dumps(told, sort_keys=True, default=str).encode()).hexdigest()


def record(findings: Iterable[Finding], *, run_id: UUID) -> None:
    """The findings are rows of the run, each once."""
    told = list(findings)
    IntegrityFinding.objects.bulk_create(
        (
            IntegrityFinding(
                run_id=run_id,
                kind=found.kind,
                severity=found.kind.severity,
                runbook=found.kind.runbook,
                tenant_id=found.tenant_id,
                table_id=found.table_id,
                file_id=found.file_id,
                object_key=found.object_key,
                detail=dict(found.detail),
                subject=found.subject,
            )
            for found in told
        ),
        batch_size=500,
        ignore_conflicts=True,
    )
    for (kind, tenant_id), count in Counter((found.kind, found.tenant_id) for found in told).items():
        log.warning("integrity_found", run_id=str(run_id), tenant_id=tenant_id, kind=kind.value, findings=count)


def counted(*, run_id: UUID) -> dict[FindingKind, int]:
    """How many findings of each kind the run has."""
    rows = IntegrityFinding.objects.filter(run_id=run_id).values_list("kind").annotate(Count("id"))
    return {FindingKind(kind): count for kind, count in rows.order_by("kind")}
