"""How the maintenance runs stand. Read from their history, so that it is true with every worker dead."""

from collections.abc import Iterator

from prometheus_client.core import GaugeMetricFamily

from api.gauges.family import Gauge
from maintenance.history import last_successes
from maintenance.job import Kind
from maintenance.standing import standing

LIVE = Gauge(
    name="duckmesh_live_runs",
    help_text="Runs that have not ended: queued, running, or expired because their process is gone.",
    labels=("kind", "state"),
)
OLDEST = Gauge(
    name="duckmesh_oldest_queued_run_seconds",
    help_text="Age of the oldest run that waits for a worker; 0 if none does.",
    labels=("kind",),
)
FAILING = Gauge(
    name="duckmesh_failing_runs",
    help_text="Tenants and tables whose newest run of this kind has failed.",
    labels=("kind",),
)
FINDINGS = Gauge(
    name="duckmesh_integrity_findings",
    help_text="What the newest integrity runs have found, over all tenants.",
    labels=("finding",),
)
LAST_SUCCESS = Gauge(
    name="duckmesh_last_successful_run_timestamp_seconds",
    help_text="When the newest run of this kind that succeeded, dry runs aside, has ended; absent if none ever has.",
    labels=("kind",),
)
GAUGES = (LAST_SUCCESS, LIVE, OLDEST, FAILING, FINDINGS)


def read() -> Iterator[GaugeMetricFamily]:
    """Every kind of run as it stands now."""
    found = {kind: standing(kind) for kind in Kind}
    yield LAST_SUCCESS.by({(kind.value,): ended_at.timestamp() for kind, ended_at in last_successes().items()})
    yield LIVE.by(
        {
            (kind.value, state): count
            for kind, each in found.items()
            for state, count in (("queued", each.queued), ("running", each.running), ("expired", each.expired))
        }
    )
    yield OLDEST.by({(kind.value,): each.oldest_queued_seconds for kind, each in found.items()})
    yield FAILING.by({(kind.value,): each.failing for kind, each in found.items()})
    yield FINDINGS.by({(name,): count for name, count in found[Kind.INTEGRITY].findings.items()})
