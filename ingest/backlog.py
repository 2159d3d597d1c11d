"""What is accepted but not yet visible, read from the catalog: true also when every worker is dead."""

from dataclasses import dataclass
from datetime import timedelta

from django.db import connection

from catalog.errors import TenantNotFound


@dataclass(frozen=True, kw_only=True)
class TableLag:
    """Records of one table that wait, and for how long the oldest has."""

    table_name: str
    pending_events: int
    failed_events: int
    oldest_pending_lag_ms: int


@dataclass(frozen=True, kw_only=True)
class Lag:
    """How far a tenant's visible state is behind its accepted writes. Counts are records.

    `accepted_events` wait for a claim, `claimed_events` are in a live claim, `pending_events` are both together.
    """

    tenant_id: str
    accepted_events: int
    claimed_events: int
    failed_events: int
    pending_events: int
    oldest_pending_lag_ms: int
    token_lag: int
    latest_visibility_token: int
    latest_issued_token: int
    latest_snapshot_id: int
    snapshot_age_ms: int
    tables: tuple[TableLag, ...]


# One statement, so that its figures are of one instant. Pending and failed rows have partial indexes of their own.
_LAG = """
WITH waiting AS (
  SELECT e.tenant_id, e.table_id, e.record_count, e.state, e.accepted_at,
         EXISTS (SELECT 1 FROM ingest_claim_item i JOIN ingest_claim_batch b USING (batch_id)
                  WHERE i.event_id = e.event_id AND b.state = 'claimed'
                    AND b.lease_until > clock_timestamp()) AS claimed
    FROM ingest_event e WHERE e.tenant_id = ANY (%(tenants)s) AND e.state IN ('pending', 'failed')
), by_table AS (
  SELECT tenant_id, table_id,
         coalesce(sum(record_count) FILTER (WHERE state = 'pending' AND NOT claimed), 0)::bigint AS accepted,
         coalesce(sum(record_count) FILTER (WHERE state = 'pending' AND claimed), 0)::bigint AS claimed,
         coalesce(sum(record_count) FILTER (WHERE state = 'failed'), 0)::bigint AS failed,
         min(accepted_at) FILTER (WHERE state = 'pending') AS oldest
    FROM waiting GROUP BY tenant_id, table_id
)
SELECT c.tenant_id, c.visible_token, duckmesh_latest_token(c.tenant_id), c.snapshot_seq,
       greatest(0, extract(epoch FROM clock_timestamp() - c.snapshot_time) * 1000)::bigint,
       t.name, b.accepted, b.claimed, b.failed,
       coalesce(greatest(0, extract(epoch FROM clock_timestamp() - b.oldest) * 1000), 0)::bigint
  FROM tenant_catalog c
  LEFT JOIN by_table b USING (tenant_id)
  LEFT JOIN table_def t ON t.table_id = b.table_id
 WHERE c.tenant_id = ANY (%(tenants)s)
 ORDER BY c.tenant_id, t.name
"""


def lag(*, tenant_id: str) -> Lag:
    """The tenant's lag now. Raises `TenantNotFound`."""
    found = lags(tenant_ids=[tenant_id])
    if not found:
        raise TenantNotFound(f"There is no tenant {tenant_id}.", tenant_id=tenant_id)
    return found[0]


def lags(*, tenant_ids: list[str]) -> list[Lag]:
    """The lag of each of these tenants now, in the order of their ids."""
    with connection.cursor() as cursor:
        cursor.execute(_LAG, {"tenants": tenant_ids})
        rows = cursor.fetchall()
    grouped: dict[str, list[tuple[int, ...]]] = {}
    for row in rows:
        grouped.setdefault(row[0], []).append(row)
    return [_lag(tenant_id, group) for tenant_id, group in grouped.items()]


def _lag(tenant_id: str, rows: list[tuple[int, ...]]) -> Lag:
    _, visible, issued, snapshot_id, age = rows[0][:5]
    waiting = [row[5:] for row in rows if row[6] is not None]
    accepted = sum(row[1] for row in waiting)
    claimed = sum(row[2] for row in waiting)
    return Lag(
        tenant_id=tenant_id,
        accepted_events=accepted,
        claimed_events=claimed,
        failed_events=sum(row[3] for row in waiting),
        pending_events=accepted + claimed,
        oldest_pending_lag_ms=max((row[4] for row in waiting), default=0),
        token_lag=max(0, issued - visible),
        latest_visibility_token=visible,
        latest_issued_token=issued,
        latest_snapshot_id=snapshot_id,
        snapshot_age_ms=age,
        tables=tuple(
            TableLag(table_name=str(name), pending_events=a + c, failed_events=failed, oldest_pending_lag_ms=oldest)
            for name, a, c, failed, oldest in waiting
        ),
    )


_DUE = """
SELECT tenant_id FROM ingest_event WHERE state = 'pending'
 GROUP BY tenant_id HAVING min(accepted_at) <= clock_timestamp() - make_interval(secs => %s)
"""

_IS_DUE = """
SELECT c.visible_token < %(wanted)s OR p.oldest <= clock_timestamp() - make_interval(secs => %(interval)s)
       OR p.size_bytes >= %(bytes)s
  FROM tenant_catalog c
 CROSS JOIN LATERAL (SELECT min(accepted_at) AS oldest, sum(size_bytes) AS size_bytes
                       FROM (SELECT accepted_at, size_bytes FROM ingest_event
                              WHERE tenant_id = %(tenant)s AND state = 'pending'
                              ORDER BY first_token LIMIT 1000) e) p
 WHERE c.tenant_id = %(tenant)s AND p.oldest IS NOT NULL
"""


@dataclass(frozen=True, kw_only=True)
class FlushPolicy:
    """When pending writes are published although nobody waits for them: by age, or by size in bytes."""

    interval: timedelta
    size_bytes: int


def due_tenants(*, policy: FlushPolicy) -> list[str]:
    """The tenants whose oldest pending write is older than the policy lets it become."""
    with connection.cursor() as cursor:
        cursor.execute(_DUE, [policy.interval.total_seconds()])
        return [row[0] for row in cursor.fetchall()]


def is_due(*, tenant_id: str, wanted: int, policy: FlushPolicy) -> bool:
    """Whether the tenant has pending writes that should be published now; somebody waits for the token `wanted`."""
    with connection.cursor() as cursor:
        cursor.execute(
            _IS_DUE,
            {
                "tenant": tenant_id,
                "wanted": wanted,
                "interval": policy.interval.total_seconds(),
                "bytes": policy.size_bytes,
            },
        )
        row = cursor.fetchone()
    return row is not None and bool(row[0])
