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
    retrying_events: int
    failed_events: int
    oldest_pending_lag_ms: int


@dataclass(frozen=True, kw_only=True)
class Lag:
    """How far a tenant's visible state is behind its accepted writes. Counts are records; a restore is none.

    `accepted_events` wait for a claim, `claimed_events` are in a live claim, `pending_events` are both together, and
    `retrying_events` are those of them that failed before and are tried again.
    `token_lag` is what was issued and is not visible, without the tokens that a restore has leapt over.
    """

    tenant_id: str
    accepted_events: int
    claimed_events: int
    failed_events: int
    pending_events: int
    retrying_events: int
    oldest_pending_lag_ms: int
    token_lag: int
    latest_visibility_token: int
    latest_issued_token: int
    latest_snapshot_id: int
    snapshot_age_ms: int
    tables: tuple[TableLag, ...]


# One statement, so that its figures are of one instant. What waits and what failed have indexes of their own.
_LAG = """
SELECT c.tenant_id, c.visible_token, duckmesh_latest_token(c.tenant_id), greatest(c.visible_token, c.token_floor),
       c.snapshot_seq, greatest(0, extract(epoch FROM clock_timestamp() - c.snapshot_time) * 1000)::bigint,
       t.name, b.accepted, b.claimed, b.failed, b.retrying,
       coalesce(greatest(0, extract(epoch FROM clock_timestamp() - b.oldest) * 1000), 0)::bigint
  FROM tenant_catalog c
  LEFT JOIN LATERAL (
    SELECT table_id,
           coalesce(sum(record_count) FILTER (WHERE NOT failed AND NOT claimed), 0)::bigint AS accepted,
           coalesce(sum(record_count) FILTER (WHERE NOT failed AND claimed), 0)::bigint AS claimed,
           coalesce(sum(record_count) FILTER (WHERE failed), 0)::bigint AS failed,
           coalesce(sum(record_count) FILTER (WHERE retried), 0)::bigint AS retrying,
           min(accepted_at) FILTER (WHERE NOT failed) AS oldest
      FROM (SELECT p.table_id, p.record_count, p.accepted_at, false AS failed, i.event_id IS NOT NULL AS claimed,
                   p.retry_at IS NOT NULL AS retried
              FROM duckmesh_pending(c.tenant_id, NULL) p
              LEFT JOIN (SELECT event_id FROM ingest_claim_batch JOIN ingest_claim_item USING (batch_id)
                          WHERE tenant_id = c.tenant_id AND state = 'claimed' AND lease_until > clock_timestamp()
                        ) i USING (event_id)
             WHERE p.table_id IS NOT NULL
            UNION ALL
            SELECT table_id, record_count, accepted_at, true, false, false FROM ingest_event
             WHERE tenant_id = c.tenant_id AND state = 'failed' AND passed_in IS NOT NULL
               AND table_id IS NOT NULL) waiting
     GROUP BY table_id) b ON true
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
    _, visible, issued, leapt, snapshot_id, age = rows[0][:6]
    waiting = [row[6:] for row in rows if row[7] is not None]
    accepted = sum(row[1] for row in waiting)
    claimed = sum(row[2] for row in waiting)
    return Lag(
        tenant_id=tenant_id,
        accepted_events=accepted,
        claimed_events=claimed,
        failed_events=sum(row[3] for row in waiting),
        pending_events=accepted + claimed,
        retrying_events=sum(row[4] for row in waiting),
        oldest_pending_lag_ms=max((row[5] for row in waiting), default=0),
        token_lag=max(0, issued - leapt),
        latest_visibility_token=visible,
        latest_issued_token=issued,
        latest_snapshot_id=snapshot_id,
        snapshot_age_ms=age,
        tables=tuple(
            TableLag(
                table_name=str(row[0]),
                pending_events=row[1] + row[2],
                failed_events=row[3],
                retrying_events=row[4],
                oldest_pending_lag_ms=row[5],
            )
            for row in waiting
        ),
    )


@dataclass(frozen=True, kw_only=True)
class Claims:
    """Claims whose lease ran out and that nobody has ended, and the age of the oldest that is at work."""

    expired: int
    oldest_seconds: float


_CLAIMS = """
SELECT count(*) FILTER (WHERE lease_until <= clock_timestamp()),
       coalesce(extract(epoch FROM clock_timestamp() - min(claimed_at))::float, 0)
  FROM ingest_claim_batch WHERE state = 'claimed'
"""


def claims() -> Claims:
    """The claims of all tenants that have not ended."""
    with connection.cursor() as cursor:
        cursor.execute(_CLAIMS)
        expired, oldest = cursor.fetchone()
    return Claims(expired=expired, oldest_seconds=oldest)


# Tokens are given in the order of time: the oldest is the first.
_DUE = """
SELECT c.tenant_id
  FROM tenant_catalog c
 CROSS JOIN LATERAL (SELECT accepted_at FROM duckmesh_claimable(c.tenant_id, 1) ORDER BY first_token LIMIT 1) oldest
 WHERE oldest.accepted_at <= clock_timestamp() - make_interval(secs => %s)
"""

_IS_DUE = """
SELECT c.visible_token < %(wanted)s OR p.oldest <= clock_timestamp() - make_interval(secs => %(interval)s)
       OR p.size_bytes >= %(bytes)s
  FROM tenant_catalog c
 CROSS JOIN (SELECT min(accepted_at) AS oldest, sum(size_bytes) AS size_bytes
               FROM (SELECT accepted_at, size_bytes FROM duckmesh_claimable(%(tenant)s, 1000)
                      ORDER BY first_token LIMIT 1000) e) p
 WHERE c.tenant_id = %(tenant)s AND p.oldest IS NOT NULL
"""


@dataclass(frozen=True, kw_only=True)
class FlushPolicy:
    """When pending writes are published although nobody waits for them: by age, or by size in bytes."""

    interval: timedelta
    size_bytes: int


def due_tenants(*, policy: FlushPolicy) -> list[str]:
    """The tenants whose oldest pending write is older than the policy lets it become and that do not back off."""
    with connection.cursor() as cursor:
        cursor.execute(_DUE, [policy.interval.total_seconds()])
        return [row[0] for row in cursor.fetchall()]


def is_due(*, tenant_id: str, wanted: int, policy: FlushPolicy) -> bool:
    """Whether the tenant has pending writes that should be published now; somebody waits for the token `wanted`.

    Nothing is due behind a write that waits for its next attempt.
    """
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
