"""Pending envelopes become Parquet objects and one snapshot: claim, write, put, then publish and ack together.

A crash leaves, by the step it comes after: a claim that runs out (`after_claim`), objects that no row names
(`after_put`), a transaction that never was (`before_commit`), or nothing to do (`after_commit`).
"""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import copy_context
from dataclasses import dataclass

import structlog
from django.db import DatabaseError, InterfaceError, InternalError, OperationalError, connection, transaction

from catalog.models import Snapshot, TableDef
from catalog.publish import lock_head, publish_snapshot
from catalog.snapshots import SnapshotInfo
from catalog.tables import live_tables
from duckmesh.kernel import metrics
from duckmesh.kernel.errors import Denied, OutcomeUnknown, Unavailable
from duckmesh.kernel.failpoints import failpoint
from duckmesh.kernel.telemetry import traced
from ingest import bus
from ingest.backlog import FlushPolicy, is_due
from ingest.bus import Claim, ClaimPolicy
from ingest.errors import LeaseLost
from ingest.reasons import reason_of
from ingest.restores import apply_restore
from ingest.writing import WritePolicy, write_files
from storage.store import ObjectStore

log = structlog.get_logger(__name__)

_ACTOR = "materializer"
_SHORTEST_POLL = 0.005
_LONGEST_POLL = 0.08
_PATIENCE = 1.0

# The store, the database or this machine failed: no envelope is to blame, however often it happens.
_THE_DATABASE = (OperationalError, InterfaceError, InternalError)
_NOT_THE_ENVELOPES = (Unavailable, OutcomeUnknown, Denied, OSError, *_THE_DATABASE)


@dataclass(frozen=True, kw_only=True)
class MaterializePolicy:
    """When to publish, how much a claim takes, and how its rows become files."""

    flush: FlushPolicy
    claim: ClaimPolicy
    write: WritePolicy


def materialize_tenant(
    *, tenant_id: str, wanted: int, store: ObjectStore, policy: MaterializePolicy, consumer_id: str, until: float
) -> int:
    """The tenant's due writes are visible, or its claim is somebody else's, or the monotonic time `until` has come.

    While the token `wanted` is not visible, pending writes are due at once. Returns how many claims came to something.
    What fails is given back: for the store's or the database's sake uncounted, else by `bus.nack`.
    """
    published, pause, waited = 0, _SHORTEST_POLL, 0.0
    while time.monotonic() < until and is_due(tenant_id=tenant_id, wanted=wanted, policy=policy.flush):
        claim = bus.claim(tenant_id=tenant_id, consumer_id=consumer_id, policy=policy.claim)
        if claim is None:
            # Another worker is publishing. Its claim may have been taken before the awaited write was accepted, and
            # it need not come back for it: stay until the token is visible or the claim is ours. But not for long,
            # nor with many questions: the other may have died, and there are other tenants.
            if not wanted or waited >= _PATIENCE:
                break
            time.sleep(pause)
            pause, waited = min(2 * pause, _LONGEST_POLL), waited + pause
            continue
        if not _attempt(claim, store=store, policy=policy):
            break
        published, pause, waited = published + 1, _SHORTEST_POLL, 0.0
    return published


def _attempt(claim: Claim, *, store: ObjectStore, policy: MaterializePolicy) -> bool:
    """Whether the claim was published or bisected, so that it is worth going on at once."""
    started = time.monotonic()
    metrics.claim_batch_size.observe(len(claim.envelopes))
    failpoint("materialize.after_claim")
    alone = claim.envelopes[0] if len(claim.envelopes) == 1 else None
    try:
        if alone is not None and alone.attempts >= policy.claim.max_attempts:
            # Its workers died with it and could not say why.
            raise RuntimeError("every worker that took the envelope stopped before its lease ran out")
        with traced("materialise", tenant_id=claim.tenant_id, envelopes=len(claim.envelopes)):
            snapshot = _publish(claim, store=store, policy=policy)
    except LeaseLost:
        metrics.claim_retries.labels("lease_lost").inc()
        log.warning("lease_lost", tenant_id=claim.tenant_id, batch_id=claim.batch_id)
        return True
    except _NOT_THE_ENVELOPES as exc:
        metrics.claim_retries.labels("unavailable").inc()
        metrics.snapshot_publish_failures.labels("unavailable").inc()
        log.warning("publish_postponed", tenant_id=claim.tenant_id, error=type(exc).__name__)
        if isinstance(exc, InternalError):
            connection.close()  # to a server that was demoted, it may be
        _give_back(claim)
        return False
    except Exception as exc:  # noqa: BLE001 - any error of an envelope is the envelope's: it is recorded and set aside
        metrics.claim_retries.labels("failed").inc()
        metrics.snapshot_publish_failures.labels("failed").inc()
        error, reason = type(exc).__name__, reason_of(exc)
        log.warning(
            "publish_failed", tenant_id=claim.tenant_id, envelopes=len(claim.envelopes), error=error, reason=reason
        )
        return _set_aside(claim, error=error, reason=reason, policy=policy.claim)
    failpoint("materialize.after_commit")
    metrics.commit_batch_latency.observe((time.monotonic() - started) * 1000)
    for envelope in claim.envelopes:
        visible_after = (snapshot.snapshot_time - envelope.accepted_at).total_seconds()
        metrics.write_to_visible_latency.observe(max(0.0, visible_after * 1000))
    log.info(
        "snapshot_published",
        tenant_id=claim.tenant_id,
        snapshot_id=snapshot.snapshot_id,
        envelopes=len(claim.envelopes),
        watermark=snapshot.visible_token,
        restored_from=None if claim.restore is None else claim.restore.snapshot_id,
    )
    return True


def _set_aside(claim: Claim, *, error: str, reason: str, policy: ClaimPolicy) -> bool:
    """Whether the claim was bisected, so that it is worth going on at once."""
    try:
        bus.nack(claim, error=error, reason=reason, policy=policy)
    except (*_THE_DATABASE, LeaseLost):
        log.warning("nack_failed", tenant_id=claim.tenant_id, batch_id=claim.batch_id)
        return False
    return len(claim.envelopes) > 1


def _give_back(claim: Claim) -> None:
    try:
        bus.release(claim)
    except (DatabaseError, InterfaceError, LeaseLost):
        # The database is away, or the lease is over already: it ends by itself.
        log.warning("release_failed", tenant_id=claim.tenant_id, batch_id=claim.batch_id)


def _publish(claim: Claim, *, store: ObjectStore, policy: MaterializePolicy) -> SnapshotInfo:
    if claim.restore is not None:
        with transaction.atomic():
            bus.hold(claim)
            snapshot = apply_restore(claim, claim.restore)
            bus.ack(claim, snapshot_id=snapshot.snapshot_id, max_envelopes=policy.claim.max_envelopes)
            failpoint("materialize.before_commit")
        return snapshot
    tables = {table.table_id: table for table in live_tables(tenant_id=claim.tenant_id).tables.values()}
    with _kept(claim, policy=policy.claim):
        files = write_files(claim, tables=tables, store=store, policy=policy.write)
    failpoint("materialize.after_put")
    with transaction.atomic():
        bus.hold(claim)
        head = lock_head(tenant_id=claim.tenant_id)
        live = _still_live(claim)
        snapshot = publish_snapshot(
            tenant_id=claim.tenant_id,
            kind=Snapshot.Kind.INGEST,
            actor=_ACTOR,
            added=[file for file in files if file.table_id in live],
            watermark=max(head.visible_token, claim.last_token),
        )
        dropped = [envelope.event_id for envelope in claim.envelopes if envelope.table_id not in live]
        bus.ack(claim, snapshot_id=snapshot.snapshot_id, max_envelopes=policy.claim.max_envelopes, dropped=dropped)
        failpoint("materialize.before_commit")
    return snapshot


@contextmanager
def _kept(claim: Claim, *, policy: ClaimPolicy) -> Iterator[None]:
    """While the block runs the lease is extended, as far as an attempt may last: a slow store is no dead worker.

    Without it the next worker would be as slow, and an envelope alone in such claims would be blamed for it.
    """
    over = threading.Event()

    def extend() -> None:
        try:
            while not over.wait(policy.lease.total_seconds() / 3):
                try:
                    bus.extend(claim, policy=policy)
                except _THE_DATABASE:
                    # It may be back before the lease is over.
                    connection.close()
        except LeaseLost:
            log.warning("extend_failed", tenant_id=claim.tenant_id, batch_id=claim.batch_id)
        finally:
            connection.close()

    thread = threading.Thread(target=copy_context().run, args=(extend,), name="lease", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _still_live(claim: Claim) -> set[int]:
    """The claim's tables that are not dropped; behind the head's lock that stays so until the commit."""
    ids = {envelope.table_id for envelope in claim.envelopes}
    live = TableDef.objects.filter(tenant_id=claim.tenant_id, table_id__in=ids, dropped_in=None)
    return set(live.values_list("table_id", flat=True))
