"""`/v1/metrics`: what this instance's processes counted, and what is true at the moment of the scrape.

Without tenant labels the gauges are totals over the tenants: the page needs no key.
"""

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from api.gauges import database, lag, machine, queues, runs
from api.gauges.family import Gauge
from api.gauges.reading import Reading, Server
from duckmesh.kernel import metrics as kernel
from duckmesh.kernel.queues import client
from ingest.guard import GuardPolicy
from maintenance.counting import OUTCOMES, RUNS
from maintenance.tiers import CompactionPolicy
from storage.store import ObjectStore

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
WITHIN = timedelta(seconds=4)  # below Prometheus' usual patience of 10 s
BROKER_SECONDS = 0.5

CATALOG_UP = Gauge(
    name="duckmesh_catalog_up",
    help_text="1 if the catalog answered this scrape; at 0 the gauges read from it are absent.",
)
SOURCE_UP = Gauge(
    name="duckmesh_scrape_source_up",
    help_text="1 if this source of gauges answered this scrape; at 0 its gauges are absent.",
    labels=("source",),
)
GAUGES = (*lag.GAUGES, *database.GAUGES, *runs.GAUGES, *queues.GAUGES, *machine.GAUGES, CATALOG_UP, SOURCE_UP)


@dataclass(frozen=True, kw_only=True)
class ScrapePolicy:
    """What the configuration says of what is read at a scrape."""

    tenant_labels: bool
    guard: GuardPolicy
    compaction: CompactionPolicy
    store: ObjectStore
    redis_url: str
    directories: tuple[tuple[str, Path], ...]


def reading(policy: ScrapePolicy) -> Reading:
    """All sources of gauges. One for the life of a process: it holds a thread for each server."""
    labels = policy.tenant_labels
    return Reading(
        {
            "postgresql": Server(
                readers={
                    "lag": partial(lag.read, tenant_labels=labels),
                    "claims": database.read_claims,
                    "beat": database.read_tick,
                    "mode": database.read_mode,
                    "server": database.read_server,
                    "database": database.read_room,
                    "runs": runs.read,
                    "files": partial(database.read_files, tenant_labels=labels, policy=policy.compaction),
                },
                in_database=True,
            ),
            "redis": Server(readers={"queues": partial(queues.read, client(policy.redis_url, within=BROKER_SECONDS))}),
            "machine": Server(readers={"disks": partial(machine.read_disks, dict(policy.directories))}),
            "store": Server(readers={"store": partial(machine.read_store, policy.store)}),
            "guard": Server(readers={"guard": partial(machine.read_guard, policy.guard)}),
        },
        within=WITHIN,
    )


class _Found(Collector):
    """Shows what was read."""

    def __init__(self, families: Iterable[GaugeMetricFamily]) -> None:
        self._families = list(families)

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """The families as they were read."""
        return iter(self._families)


def page(source: Reading) -> bytes:
    """The metrics of every process of this instance, and what is read now, in Prometheus' text format."""
    found = source.read()
    gauges = CollectorRegistry()
    gauges.register(_Found(itertools.chain.from_iterable(families or [] for families in found.values())))
    up: dict[tuple[str, ...], float] = {(name,): float(families is not None) for name, families in found.items()}
    gauges.register(_Found([CATALOG_UP.alone(up["lag",]), SOURCE_UP.by(up)]))
    return generate_latest(kernel.service_registry()) + generate_latest(gauges)


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


HOUSEKEEPING = ("keys", "envelopes", "staged_objects", "scratch_files", "query_audit", "running_queries", "runs")
RUNNER_ENDS = ("retired", "stopped", "died")
SOURCES = ("lag", "claims", "beat", "mode", "server", "database", "runs", "files", "queues", "disks", "store", "guard")
STATUS_CLASSES = ("2xx", "3xx", "4xx", "5xx", "timeout")


def begin_at_zero() -> None:
    """Every counter whose labels are known exists from the start of the process, in the workers too."""
    for route in ("ingest", "query"):
        for status_class in STATUS_CLASSES:
            kernel.http_responses.labels(route, status_class)
    for outcome in INGEST_OUTCOMES:
        kernel.ingest_requests.labels(outcome)
    kernel.query_requests.labels("ok")
    for waiter in ("ingest", "query"):
        kernel.consistency_timeouts.labels(waiter)
        kernel.consistency_satisfied.labels(waiter)
    for reason in CLAIM_ENDS:
        kernel.claim_retries.labels(reason)
    for reason in PUBLISH_FAILURES:
        kernel.snapshot_publish_failures.labels(reason)
    for what in ("file", "orphan"):
        kernel.gc_bytes_deleted.labels(what)
    for source in SOURCES:
        kernel.scrape_failures.labels(source)
    for kind in HOUSEKEEPING:
        kernel.housekeeping_removed.labels(kind)
    for reason in RUNNER_ENDS:
        kernel.runners_ended.labels(reason)
    for outcome in ("hit", "miss"):
        kernel.query_cache_files.labels(outcome)
        kernel.query_cache_bytes.labels(outcome)
    for reason in ("size", "checksum"):
        kernel.query_cache_damaged.labels(reason)
    for ended in RUNS.values():
        for outcome in OUTCOMES:
            ended.labels(outcome.value)
