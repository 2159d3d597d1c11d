"""How the runs stand now, over all tenants: what the metrics show of them, true with every worker dead."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from django.db import connection

from maintenance.job import Kind
from maintenance.runs import table_of

# Members of an integrity run's summary that say what is wrong.
FINDINGS = (
    *("missing_files", "size_mismatch_files", "checksum_mismatch_files"),
    *("orphan_files", "orphan_files_in_grace", "operational_failures"),
)

_LIVE = """
SELECT count(*) FILTER (WHERE state = 'queued'),
       count(*) FILTER (WHERE state = 'running' AND lease_until >= clock_timestamp()),
       count(*) FILTER (WHERE state = 'running' AND lease_until < clock_timestamp()),
       coalesce(extract(epoch FROM clock_timestamp() - min(requested_at) FILTER (WHERE state = 'queued'))::float, 0)
  FROM {table} WHERE state IN ('queued', 'running')
"""

_SUMS = ", ".join(f"coalesce(sum((summary->>'{name}')::bigint), 0)" for name in FINDINGS)

# By mode as well: a quick look that finds nothing takes nothing back of what a deep one has found.
_NEWEST = """
SELECT count(*) FILTER (WHERE state = 'failed'), {sums} FROM (
SELECT DISTINCT ON (tenant_id, table_id, options->>'mode') state, summary
  FROM {table}
 WHERE ended_at > clock_timestamp() - %s::interval AND state IN ('succeeded', 'failed')
   AND NOT coalesce((options->>'dry_run')::boolean, false)
 ORDER BY tenant_id, table_id, options->>'mode', ended_at DESC) newest
"""
# Longer than the longest usual interval; a table that is gone is forgotten after it.
_WITHIN: Mapping[Kind, str] = {
    Kind.COMPACTION: "6 hours",
    Kind.RETENTION: "6 hours",
    Kind.INTEGRITY: "8 days",
    Kind.RESTORE_DRILL: "8 days",
}


@dataclass(frozen=True, kw_only=True)
class Standing:
    """Runs of a kind that wait, compute, or lost their process, and how many subjects' newest run has failed.

    `findings` adds up what the newest runs have found, by the member of their summary.
    """

    queued: int
    running: int
    expired: int
    oldest_queued_seconds: float
    failing: int
    findings: Mapping[str, int] = field(default_factory=dict)


def standing(kind: Kind) -> Standing:
    """How the runs of this kind stand. A subject is a tenant, a table, or everything, and a mode."""
    with connection.cursor() as cursor:
        cursor.execute(_LIVE.format(table=table_of(kind)))
        queued, running, expired, oldest = cursor.fetchone()
        cursor.execute(_NEWEST.format(table=table_of(kind), sums=_SUMS), [_WITHIN[kind]])
        failing, *sums = cursor.fetchone()
    findings = dict(zip(FINDINGS, map(int, sums), strict=True))
    # A summary counts among the orphans those that a write under way may have put there.
    findings["orphan_files"] -= findings["orphan_files_in_grace"]
    return Standing(
        queued=queued,
        running=running,
        expired=expired,
        oldest_queued_seconds=oldest,
        failing=failing,
        findings=findings,
    )
