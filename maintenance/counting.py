"""What the metrics hear of a run, when it ends."""

from collections.abc import Mapping

from prometheus_client import Counter

from duckmesh.kernel import metrics
from duckmesh.kernel.errors import JSON
from maintenance.job import Kind
from maintenance.models import Run

RUNS: Mapping[Kind, Counter] = {
    Kind.COMPACTION: metrics.compaction_runs,
    Kind.RETENTION: metrics.gc_runs,
    Kind.INTEGRITY: metrics.integrity_runs,
    Kind.RESTORE_DRILL: metrics.restore_drill_runs,
}
OUTCOMES = (Run.State.SUCCEEDED, Run.State.FAILED, Run.State.CANCELLED)

# Members of a run's summary that are counted as well. What compaction and retention do, they count as they do it.
_FOUND: Mapping[Kind, Mapping[str, Counter]] = {
    Kind.INTEGRITY: {
        "unique_files_checked": metrics.integrity_files_checked,
        "missing_files": metrics.integrity_missing_files,
        "size_mismatch_files": metrics.integrity_size_mismatch_files,
        "checksum_mismatch_files": metrics.integrity_checksum_mismatch_files,
        "orphan_files": metrics.integrity_orphan_files,
        "catalog_findings": metrics.integrity_catalog_findings,
    },
}


def count_end(*, kind: Kind, state: Run.State, summary: Mapping[str, JSON], seconds: float) -> None:
    """The run's end is counted by its outcome, and so is what its summary says that it has found."""
    RUNS[kind].labels(state.value).inc()
    for member, counter in _FOUND.get(kind, {}).items():
        number = summary.get(member)
        if isinstance(number, int):
            counter.inc(number)
    if kind == Kind.RESTORE_DRILL:
        metrics.restore_drill_duration.observe(seconds)
