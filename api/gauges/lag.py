"""How far what is visible is behind what was accepted."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from prometheus_client.core import GaugeMetricFamily

from api.gauges.family import Gauge
from catalog.models import Tenant
from ingest.backlog import Lag, lags


@dataclass(frozen=True, kw_only=True)
class LagGauge(Gauge):
    """A gauge over the tenants' lag; `total` is what it shows without tenant labels."""

    labels: tuple[str, ...] = ("tenant",)
    value: Callable[[Lag], int]
    total: Callable[[Iterable[int]], int] = sum


GAUGES = (
    LagGauge(
        name="duckmesh_ingest_lag_events",
        help_text="Records accepted and not yet visible.",
        value=lambda lag: lag.pending_events,
    ),
    LagGauge(
        name="duckmesh_ingest_failed_events",
        help_text="Records set aside as failed, until they are replayed or discarded.",
        value=lambda lag: lag.failed_events,
    ),
    LagGauge(
        name="duckmesh_visibility_lag_ms",
        help_text="Age of the oldest record that is not yet visible; the greatest of all tenants.",
        value=lambda lag: lag.oldest_pending_lag_ms,
        total=max,
    ),
    LagGauge(
        name="duckmesh_latest_visibility_token",
        help_text="Every write up to this token is visible. Without tenant labels, their sum.",
        value=lambda lag: lag.latest_visibility_token,
    ),
    LagGauge(
        name="duckmesh_latest_issued_token",
        help_text="Greatest token issued. Without tenant labels, their sum.",
        value=lambda lag: lag.latest_issued_token,
    ),
)


def read(*, tenant_labels: bool) -> Iterator[GaugeMetricFamily]:
    """The lag of every tenant now."""
    found = lags(tenant_ids=list(Tenant.objects.values_list("tenant_id", flat=True)))
    for gauge in GAUGES:
        if tenant_labels:
            yield gauge.by({(lag.tenant_id,): gauge.value(lag) for lag in found})
        else:
            yield gauge.alone(gauge.total([0, *(gauge.value(lag) for lag in found)]))
