"""The ingest bus: claim, extend, ack, nack, requeue_expired. The truth about pending writes is here and nowhere else.

A claim takes the oldest envelopes of one tenant under one lease, and a tenant has at most one live claim: its log is
applied in token order. `hold` and `ack` run in the transaction that publishes the snapshot; they are fenced by the
claim's epoch, so that a worker whose lease was taken over rolls back whole. Lease time is the database's clock.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import structlog
from django.db import connection, transaction
from django.db.models import F
from django.db.models.functions import Least, Now

from catalog.incidents import record_incident
from catalog.models import IncidentAudit, Snapshot
from catalog.pins import RESERVED_PREFIX, release_hold
from catalog.publish import IDLE_LIMIT, publish_snapshot
from ingest.errors import LeaseLost
from ingest.models import IngestClaimBatch, IngestEvent, IngestPayload

log = structlog.get_logger(__name__)


@dataclass(frozen=True, kw_only=True)
class ClaimPolicy:
    """How much a claim takes, how long it is held, and how often an envelope that fails alone is tried.

    `retry_pause` is the wait after its first attempt, and doubles after each further one, up to `LONGEST_PAUSE`.
    """

    lease: timedelta
    max_bytes: int
    max_envelopes: int
    max_attempts: int
    attempt_limit: timedelta
    retry_pause: timedelta


LONGEST_PAUSE = timedelta(seconds=30)


@dataclass(frozen=True, kw_only=True)
class RestoreOrder:
    """The order to restore a snapshot, and who gave it."""

    snapshot_id: int
    asked_by: str


@dataclass(frozen=True, kw_only=True)
class Envelope:
    """One accepted request, as the bus holds it; `payload` is an envelope of all its rows.

    A large one lies in the object store, at `staged_path`; then `payload` is empty. One that is a `restore` has
    neither, and no table: its `table_id` is 0.
    """

    event_id: int
    table_id: int
    schema_version: int
    first_token: int
    last_token: int
    record_count: int
    excluded: tuple[int, ...]
    min_event_time: datetime | None
    max_event_time: datetime | None
    accepted_at: datetime
    attempts: int
    payload: bytes
    staged_path: str | None = None
    restore: RestoreOrder | None = None


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A live lease on consecutive envelopes of one tenant, in token order. A restore is alone in its claim."""

    batch_id: int
    tenant_id: str
    epoch: int
    envelopes: tuple[Envelope, ...]

    @property
    def last_token(self) -> int:
        """The watermark of the snapshot that applies this claim, unless all of it is replayed: it never falls."""
        return self.envelopes[-1].last_token

    @property
    def restore(self) -> RestoreOrder | None:
        """What is to be restored, if the claim is no claim of writes."""
        return self.envelopes[0].restore


# The first statement ends a lease that ran out, so that a crashed worker's tenant goes on without waiting for a sweep.
# An envelope that was alone in a claim that was never ended is held to have killed its worker: that is an attempt. The
# lease that ran out was pause enough.
_EXPIRE = """
WITH ended AS (
  UPDATE ingest_claim_batch b
     SET state = 'expired', ended_at = clock_timestamp(),
         envelope_limit = greatest(1, (SELECT count(*) FROM ingest_claim_item i WHERE i.batch_id = b.batch_id) / 2)
   WHERE batch_id IN (SELECT batch_id FROM ingest_claim_batch
                       WHERE state = 'claimed' AND lease_until <= clock_timestamp()
                         AND (%(tenant)s::text IS NULL OR tenant_id = %(tenant)s)
                         FOR UPDATE SKIP LOCKED)
  RETURNING batch_id
), alone AS (
  SELECT min(event_id) AS event_id FROM ingest_claim_item JOIN ended USING (batch_id)
   GROUP BY batch_id HAVING count(*) = 1
), blamed AS (
  UPDATE ingest_event e SET attempts = attempts + 1, retry_at = clock_timestamp()
    FROM alone WHERE e.event_id = alone.event_id AND e.state = 'pending'
)
SELECT count(*) FROM ended
"""

# Nothing is inserted while the tenant has a live claim: the partial unique index decides between two claimants. Looking
# first keeps a claimant from waiting for a publication under way, whose worker may have been stopped in the middle.
_CLAIM = """
INSERT INTO ingest_claim_batch (tenant_id, consumer_id, epoch, lease_until, state, envelope_limit)
SELECT %(tenant)s, %(consumer)s, coalesce(last.epoch, 0) + 1,
       clock_timestamp() + make_interval(secs => %(lease)s), 'claimed',
       least(%(max_envelopes)s, coalesce(last.envelope_limit, %(max_envelopes)s))
  FROM (SELECT 1) one
  LEFT JOIN LATERAL (SELECT epoch, envelope_limit FROM ingest_claim_batch WHERE tenant_id = %(tenant)s
                      ORDER BY epoch DESC LIMIT 1) last ON true
 WHERE NOT EXISTS (SELECT 1 FROM ingest_claim_batch WHERE tenant_id = %(tenant)s AND state = 'claimed')
ON CONFLICT DO NOTHING
RETURNING batch_id, epoch, envelope_limit
"""

# Each epoch is given once, so each claim is forgotten once, when that many others have followed.
KEPT_CLAIMS = 1000
_FORGET = """
WITH old AS (
  DELETE FROM ingest_claim_batch WHERE tenant_id = %(tenant)s AND epoch = %(forgotten)s AND state <> 'claimed'
  RETURNING batch_id
)
DELETE FROM ingest_claim_item i USING old WHERE i.batch_id = old.batch_id;
"""

_TAKE = """
WITH oldest AS (
  SELECT event_id, first_token, size_bytes, restores FROM duckmesh_claimable(%(tenant)s, %(limit)s)
   ORDER BY first_token LIMIT %(limit)s
), measured AS (
  SELECT event_id, row_number() OVER (ORDER BY first_token) AS place,
         sum(size_bytes) OVER (ORDER BY first_token) - size_bytes AS before,
         sum(restores::int) OVER (ORDER BY first_token) AS restores
    FROM oldest
), taken AS (
  INSERT INTO ingest_claim_item (batch_id, event_id)
  SELECT %(batch)s, event_id FROM measured WHERE before < %(max_bytes)s AND (restores = 0 OR place = 1)
  RETURNING event_id
)
SELECT e.event_id, coalesce(e.table_id, 0), e.schema_version, e.first_token, e.last_token, e.record_count, e.excluded,
       e.min_event_time, e.max_event_time, e.accepted_at, e.attempts, p.payload, s.path,
       e.restore_to, e.asked_by
  FROM taken JOIN ingest_event e USING (event_id) LEFT JOIN ingest_payload p USING (event_id)
  LEFT JOIN ingest_staged s USING (event_id)
 ORDER BY e.first_token
"""


def claim(*, tenant_id: str, consumer_id: str, policy: ClaimPolicy) -> Claim | None:
    """The tenant's oldest pending envelopes are leased to this consumer; None if there are none, or they are held.

    While the oldest waits for its next attempt, all behind it wait too: the log is applied in the order of its tokens.
    """
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(IDLE_LIMIT + _EXPIRE, {"tenant": tenant_id})
        cursor.execute(
            _CLAIM,
            {
                "tenant": tenant_id,
                "consumer": consumer_id,
                "lease": policy.lease.total_seconds(),
                "max_envelopes": policy.max_envelopes,
            },
        )
        row = cursor.fetchone()
        if row is None:
            return None
        batch_id, epoch, limit = row
        taking = {"tenant": tenant_id, "batch": batch_id, "limit": limit, "max_bytes": policy.max_bytes}
        cursor.execute(_FORGET + _TAKE, {**taking, "forgotten": epoch - KEPT_CLAIMS})
        envelopes = tuple(_envelope(row) for row in cursor.fetchall())
        if not envelopes:
            # Nothing was taken, so nothing is remembered: the epoch stays free.
            transaction.set_rollback(True)
            return None
    log.info("claim_taken", tenant_id=tenant_id, batch_id=batch_id, epoch=epoch, envelopes=len(envelopes))
    return Claim(batch_id=batch_id, tenant_id=tenant_id, epoch=epoch, envelopes=envelopes)


def _envelope(row: tuple[Any, ...]) -> Envelope:
    return Envelope(
        event_id=row[0],
        table_id=row[1],
        schema_version=row[2],
        first_token=row[3],
        last_token=row[4],
        record_count=row[5],
        excluded=tuple(row[6]),
        min_event_time=row[7],
        max_event_time=row[8],
        accepted_at=row[9],
        attempts=row[10],
        # A payload that is missing cannot be read, fails, and is set aside: it must not be passed over in silence.
        payload=bytes(row[11] or b""),
        staged_path=row[12],
        restore=None if row[13] is None else RestoreOrder(snapshot_id=row[13], asked_by=row[14]),
    )


_HELD = "batch_id = %(batch)s AND epoch = %(epoch)s AND state = 'claimed' AND lease_until > clock_timestamp()"

_EXTEND = f"""
UPDATE ingest_claim_batch
   SET lease_until = least(clock_timestamp() + make_interval(secs => %(lease)s),
                           claimed_at + make_interval(secs => %(limit)s))
 WHERE {_HELD}
"""
_HOLD = f"SELECT 1 FROM ingest_claim_batch WHERE {_HELD} FOR UPDATE"


def _held(claim: Claim) -> dict[str, Any]:
    return {"batch": claim.batch_id, "epoch": claim.epoch}


def extend(claim: Claim, *, policy: ClaimPolicy) -> None:
    """The lease runs anew from now, but never past the limit of an attempt. Raises `LeaseLost`.

    The limit is what lets the collector of orphans tell an object that is about to be named from one that never will.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            _EXTEND,
            {
                **_held(claim),
                "lease": policy.lease.total_seconds(),
                "limit": policy.attempt_limit.total_seconds(),
            },
        )
        if not cursor.rowcount:
            raise _lost(claim)


def hold(claim: Claim) -> None:
    """Until this transaction ends nobody else can take the claim over. Raises `LeaseLost`.

    The first statement of the transaction that publishes: the claim is the first lock in the order.
    """
    with connection.cursor() as cursor:
        cursor.execute(IDLE_LIMIT + _HOLD, _held(claim))
        if cursor.fetchone() is None:
            raise _lost(claim)


def ack(claim: Claim, *, snapshot_id: int, max_envelopes: int, dropped: Sequence[int] = ()) -> None:
    """The claim is done: its envelopes are in the snapshot, or gone with their table where `dropped` names them.

    Runs in the transaction that made the snapshot, after `hold`.
    """
    assert connection.in_atomic_block, "ack belongs in the transaction that publishes"
    ids = [envelope.event_id for envelope in claim.envelopes]
    gone = set(dropped)
    events = IngestEvent.objects.filter(state=IngestEvent.State.PENDING)
    done = events.filter(event_id__in=[event_id for event_id in ids if event_id not in gone])
    changed = done.update(state=IngestEvent.State.COMMITTED, snapshot_id=snapshot_id)
    if gone:
        changed += events.filter(event_id__in=gone).update(state=IngestEvent.State.DROPPED)
    if changed != len(ids):
        raise _lost(claim)
    IngestPayload.objects.filter(event_id__in=ids).delete()
    _end(
        claim,
        state=IngestClaimBatch.State.COMMITTED,
        snapshot_id=snapshot_id,
        envelope_limit=Least(F("envelope_limit") * 2, max_envelopes),
    )


@transaction.atomic
def release(claim: Claim) -> None:
    """The claim is given back as it was: what failed was not the envelopes' doing. Raises `LeaseLost`."""
    hold(claim)
    _end(claim, state=IngestClaimBatch.State.RELEASED)
    transaction.on_commit(lambda: log.info("claim_released", tenant_id=claim.tenant_id, batch_id=claim.batch_id))


@transaction.atomic
def nack(claim: Claim, *, error: str, reason: str, policy: ClaimPolicy) -> None:
    """The claim is given back because its envelopes failed. Raises `LeaseLost`.

    Of several, the next claim takes half as many: what fails is found by bisection. One that was alone has failed once
    more, and waits before it is tried again; after the last attempt it is set aside as failed, with an incident, and
    the watermark goes on past it, unless it went past it long ago and this was a replay.
    """
    hold(claim)
    _end(claim, state=IngestClaimBatch.State.RELEASED, envelope_limit=max(1, len(claim.envelopes) // 2))
    if len(claim.envelopes) > 1:
        transaction.on_commit(lambda: log.info("claim_bisected", tenant_id=claim.tenant_id, batch_id=claim.batch_id))
        return
    found = IngestEvent.objects.filter(event_id=claim.envelopes[0].event_id)
    event = found.get()
    attempts, told = event.attempts + 1, {"error": error, "reason": reason}
    if attempts < policy.max_attempts:
        pause = min(policy.retry_pause * 2 ** min(attempts - 1, 30), LONGEST_PAUSE)
        found.update(attempts=attempts, error=told, retry_at=Now() + pause)
        transaction.on_commit(
            lambda: log.info("write_postponed", tenant_id=claim.tenant_id, event_id=event.event_id, attempts=attempts)
        )
        return
    passed_in = event.passed_in
    if passed_in is None:
        passed_in = publish_snapshot(
            tenant_id=claim.tenant_id, kind=Snapshot.Kind.INGEST, actor="materializer", watermark=claim.last_token
        ).snapshot_id
    found.update(
        attempts=attempts,
        error=told,
        retry_at=None,
        state=IngestEvent.State.FAILED,
        passed_in=passed_in,
        failed_at=Now(),
    )
    if claim.restore is not None:
        release_hold(tenant_id=claim.tenant_id, name=hold_of(event.event_id))
    record_incident(
        tenant_id=claim.tenant_id,
        kind="ingest_event_failed",
        severity=IncidentAudit.Severity.ERROR,
        message=f"The envelope {event.event_id} could not be written and was set aside.",
        context={"event_id": event.event_id, "first_token": event.first_token, **told},
    )
    transaction.on_commit(
        lambda: log.error("write_failed", tenant_id=claim.tenant_id, event_id=event.event_id, attempts=attempts)
    )


def hold_of(event_id: int) -> str:
    """The name of the pin that keeps a snapshot until it is restored."""
    return f"{RESERVED_PREFIX}restore.{event_id}"


def requeue_expired() -> int:
    """Claims whose lease has run out are over, their envelopes free again; how many there were."""
    with connection.cursor() as cursor:
        cursor.execute(_EXPIRE, {"tenant": None})
        count = int(cursor.fetchone()[0])
    if count:
        log.warning("claims_expired", claims=count)
    return count


def _end(claim: Claim, *, state: IngestClaimBatch.State, **changes: Any) -> None:
    held = IngestClaimBatch.objects.filter(
        batch_id=claim.batch_id, epoch=claim.epoch, state=IngestClaimBatch.State.CLAIMED
    )
    if not held.update(state=state, ended_at=Now(), **changes):
        raise _lost(claim)


def _lost(claim: Claim) -> LeaseLost:
    return LeaseLost("Another worker has taken this claim over.", batch_id=claim.batch_id, epoch=claim.epoch)
