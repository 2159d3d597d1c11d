"""`/v1/metrics`: what this instance's processes counted, and what the catalog says at the moment of the scrape.

The catalog's gauges are read from PostgreSQL, so they are true with every worker dead. Without tenant labels they are
totals over the tenants: the page needs no key.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import structlog
from django.db import DatabaseError, InterfaceError, connection, transaction
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from catalog.models import Tenant
from duckmesh.kernel import metrics as kernel
from ingest.backlog import Lag, lags
from ingest.guard import GuardPolicy, Shortage, shortages

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


@dataclass(frozen=True, kw_only=True)
class LagGauge:
    """A gauge over the tenants' lag; `total` is what it shows without tenant labels."""

    help_text: str
    value: Callable[[Lag], int]
    total: Callable[[Iterable[int]], int] = sum


GAUGES = {
    "duckmesh_ingest_lag_events": LagGauge(
        help_text="Records accepted and not yet visible.", value=lambda lag: lag.pending_events
    ),
    "duckmesh_ingest_failed_events": LagGauge(
        help_text="Records set aside as failed, until they are replayed or discarded.",
        value=lambda lag: lag.failed_events,
    ),
    "duckmesh_visibility_lag_ms": LagGauge(
        help_text="Age of the oldest record that is not yet visible; the greatest of all tenants.",
        value=lambda lag: lag.oldest_pending_lag_ms,
        total=max,
    ),
    "duckmesh_latest_visibility_token": LagGauge(
        help_text="Every write up to this token is visible. Without tenant labels, their sum.",
        value=lambda lag: lag.latest_visibility_token,
    ),
    "duckmesh_latest_issued_token": LagGauge(
        help_text="Greatest token issued. Without tenant labels, their sum.", value=lambda lag: lag.latest_issued_token
    ),
}
CATALOG_UP = "duckmesh_catalog_up"
CATALOG_UP_HELP = "1 if the catalog answered this scrape; at 0 the gauges read from it are absent."

GUARD = "duckmesh_writes_refused"
GUARD_HELP = "1 while writes are refused because the service is short of this."

log = structlog.get_logger(__name__)


class CatalogCollector(Collector):
    """Reads the lag of every tenant when it is collected."""

    def __init__(self, *, tenant_labels: bool) -> None:
        self._tenant_labels = tenant_labels

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """The gauges, or only that the catalog is down: a scrape must tell that too."""
        try:
            found = _read_lags()
        except (DatabaseError, InterfaceError) as exc:
            log.warning("metrics_without_catalog", reason=str(exc))
            yield GaugeMetricFamily(CATALOG_UP, CATALOG_UP_HELP, value=0)
            return
        yield GaugeMetricFamily(CATALOG_UP, CATALOG_UP_HELP, value=1)
        for name, gauge in GAUGES.items():
            if self._tenant_labels:
                family = GaugeMetricFamily(name, gauge.help_text, labels=["tenant"])
                for lag in found:
                    family.add_metric([lag.tenant_id], gauge.value(lag))
                yield family
            else:
                total = gauge.total([0, *(gauge.value(lag) for lag in found)])
                yield GaugeMetricFamily(name, gauge.help_text, value=total)


class GuardCollector(Collector):
    """Looks for shortages when it is collected, so that it is true with nobody writing."""

    def __init__(self, policy: GuardPolicy) -> None:
        self._policy = policy

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """1 for each shortage that there is, 0 for the others."""
        found = shortages(self._policy)
        family = GaugeMetricFamily(GUARD, GUARD_HELP, labels=["short_of"])
        for shortage in Shortage:
            family.add_metric([shortage.value], shortage in found)
        yield family


def _read_lags() -> list[Lag]:
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SET LOCAL statement_timeout = '2s'")  # a scrape that waits is a scrape that tells nothing
        return lags(tenant_ids=list(Tenant.objects.values_list("tenant_id", flat=True)))


def page(*, tenant_labels: bool, guard: GuardPolicy) -> bytes:
    """The metrics of every process of this instance, and what is read now, in Prometheus' text format."""
    catalog = CollectorRegistry()
    catalog.register(CatalogCollector(tenant_labels=tenant_labels))
    catalog.register(GuardCollector(guard))
    return generate_latest(kernel.service_registry()) + generate_latest(catalog)


INGEST_OUTCOMES = (
    "accepted",
    "visible",
    "partial_duplicate",
    "refused",
    "throttled",
    "failed",
    "consistency_timeout",
)


CLAIM_ENDS = ("lease_lost", "unavailable", "failed")
PUBLISH_FAILURES = ("unavailable", "failed")


def begin_at_zero() -> None:
    """Every counter whose labels are known exists from the start of the process, in the workers too."""
    for outcome in INGEST_OUTCOMES:
        kernel.ingest_requests.labels(outcome)
    kernel.query_requests.labels("ok")
    for waiter in ("ingest", "query"):
        kernel.consistency_timeouts.labels(waiter)
    for reason in CLAIM_ENDS:
        kernel.claim_retries.labels(reason)
    for reason in PUBLISH_FAILURES:
        kernel.snapshot_publish_failures.labels(reason)
