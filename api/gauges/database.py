"""What else PostgreSQL knows: claims, beat's last tick, and its own room."""

from collections.abc import Iterator

from django.db import connection
from prometheus_client.core import GaugeMetricFamily

from api.gauges.family import Gauge
from catalog.mode import service_mode
from catalog.server import Standing, standing
from ingest.backlog import claims
from ingest.tick import last_tick
from maintenance.tiers import CompactionPolicy
from maintenance.waiting import files_waiting

EXPIRED_CLAIMS = Gauge(
    name="duckmesh_expired_claims", help_text="Claims whose lease has run out and that nobody has ended yet."
)
OLDEST_CLAIM = Gauge(name="duckmesh_oldest_claim_age_seconds", help_text="Age of the oldest claim that is at work.")
LAST_TICK = Gauge(
    name="duckmesh_beat_last_tick_timestamp_seconds",
    help_text="When a worker last did what beat sends every second; 0: never.",
)
CONNECTIONS = Gauge(name="duckmesh_database_connections", help_text="Connections of clients to PostgreSQL.")
CONNECTIONS_LIMIT = Gauge(
    name="duckmesh_database_connections_limit", help_text="Most connections that PostgreSQL gives to clients."
)
DATABASE_BYTES = Gauge(name="duckmesh_database_bytes", help_text="Size of PostgreSQL's database on its disk.")
FILES_WAITING = Gauge(
    name="duckmesh_compaction_files_waiting",
    help_text="About how many live data files a compaction would rewrite now.",
    labels=("tenant",),
)
READ_ONLY = Gauge(name="duckmesh_read_only", help_text="1 while an operator has the service in read-only mode.")
SERVER_CHANGED = Gauge(
    name="duckmesh_catalog_server_changed",
    help_text="1 while PostgreSQL is not the server that the catalog was last known on, or takes no writes.",
)
GAUGES = (
    EXPIRED_CLAIMS,
    OLDEST_CLAIM,
    LAST_TICK,
    CONNECTIONS,
    CONNECTIONS_LIMIT,
    DATABASE_BYTES,
    FILES_WAITING,
    READ_ONLY,
    SERVER_CHANGED,
)

# A plain role sees that others' sessions are there, though not what they do.
_ROOM = """
SELECT (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'),
       (SELECT sum(CASE name WHEN 'max_connections' THEN setting::int ELSE -setting::int END) FROM pg_settings
         WHERE name IN ('max_connections', 'superuser_reserved_connections', 'reserved_connections')),
       pg_database_size(current_database())
"""


def read_claims() -> Iterator[GaugeMetricFamily]:
    """The claims that are at work or should not be there any more."""
    found = claims()
    yield EXPIRED_CLAIMS.alone(found.expired)
    yield OLDEST_CLAIM.alone(found.oldest_seconds)


def read_tick() -> Iterator[GaugeMetricFamily]:
    """When beat was last heard of."""
    tick = last_tick()
    yield LAST_TICK.alone(tick.timestamp() if tick else 0)


def read_mode() -> Iterator[GaugeMetricFamily]:
    """Whether writes are refused by an operator."""
    yield READ_ONLY.alone(service_mode().read_only)


def read_server() -> Iterator[GaugeMetricFamily]:
    """Whether writes are refused because of whom they would go to."""
    yield SERVER_CHANGED.alone(standing() != Standing.KNOWN)


def read_room() -> Iterator[GaugeMetricFamily]:
    """The room in PostgreSQL."""
    with connection.cursor() as cursor:
        cursor.execute(_ROOM)
        used, limit, size_bytes = cursor.fetchone()
    yield CONNECTIONS.alone(used)
    yield CONNECTIONS_LIMIT.alone(float(limit))
    yield DATABASE_BYTES.alone(size_bytes)


def read_files(*, tenant_labels: bool, policy: CompactionPolicy) -> Iterator[GaugeMetricFamily]:
    """The files that compaction has yet to rewrite."""
    found = files_waiting(policy)
    if tenant_labels:
        yield FILES_WAITING.by({(tenant_id,): count for tenant_id, count in found.items()})
    else:
        yield FILES_WAITING.alone(sum(found.values()))
