"""Celery's door to the materialiser: pokes that may come twice, late or never."""

import functools
import os
import socket
import time

from celery import shared_task
from django.conf import settings
from kombu import Producer

from catalog.mode import is_read_only
from duckmesh.kernel.broker import impatient_producer
from duckmesh.kernel.config import Config
from ingest import bus, housekeeping
from ingest.backlog import FlushPolicy, due_tenants
from ingest.bus import ClaimPolicy
from ingest.housekeeping import HousekeepingPolicy
from ingest.materializer import MaterializePolicy, materialize_tenant
from ingest.tick import tick
from ingest.writing import WritePolicy
from storage.factory import StoreSettings, open_store
from storage.store import ObjectStore

# A task gives its worker back after this many seconds, so that no tenant keeps the others waiting; the next ring or
# sweep goes on.
_SLICE = 2.0
_RING_EXPIRES = 5.0
_HOUSEKEEPING_SLICE = 55.0  # nearly all of the minute until the next; half of it is pauses


def flush_policy(config: Config) -> FlushPolicy:
    """When pending writes are published although nobody waits."""
    return FlushPolicy(interval=config.flush_interval, size_bytes=config.flush_bytes)


def materialize_policy(config: Config) -> MaterializePolicy:
    """What the configuration says of claims and flushes."""
    return MaterializePolicy(
        flush=flush_policy(config),
        claim=ClaimPolicy(
            lease=config.lease,
            max_bytes=config.claim_max_bytes,
            max_envelopes=config.claim_max_envelopes,
            max_attempts=config.max_attempts,
            attempt_limit=config.attempt_limit,
            retry_pause=config.retry_pause,
        ),
        write=WritePolicy(
            scratch=config.home / "scratch",
            slice_bytes=config.slice_bytes,
            max_partitions=config.max_partitions_per_claim,
        ),
    )


def housekeeping_policy(config: Config) -> HousekeepingPolicy:
    """What the configuration says of how long things are kept."""
    return HousekeepingPolicy(
        window=config.idempotency_window,
        unnamed_for=config.attempt_limit + config.orphan_grace,
        scratch=config.home / "scratch",
    )


@functools.cache
def _store() -> ObjectStore:
    return open_store(StoreSettings.of(settings.DUCKMESH))


@shared_task(name="ingest.tasks.materialize")
def materialize(tenant_id: str, wanted: int = 0) -> None:
    """Publish the tenant's due writes; somebody may be waiting for the token `wanted`."""
    materialize_tenant(
        tenant_id=tenant_id,
        wanted=wanted,
        store=_store(),
        policy=materialize_policy(settings.DUCKMESH),
        consumer_id=f"{socket.gethostname()}:{os.getpid()}",
        until=time.monotonic() + _SLICE,
    )


@shared_task(name="ingest.tasks.sweep")
def sweep() -> None:
    """End leases that ran out, and poke for every tenant whose writes a lost message left behind. Beat lives."""
    tick()
    bus.requeue_expired()
    for tenant_id in due_tenants(policy=flush_policy(settings.DUCKMESH)):
        materialize.apply_async(args=(tenant_id,), expires=_RING_EXPIRES, retry=False)


@shared_task(name="ingest.tasks.keep_house")
def keep_house() -> None:
    """Remove what the bus no longer needs, as far as one run comes; not in read-only mode."""
    if is_read_only():
        return
    policy = housekeeping_policy(settings.DUCKMESH)
    housekeeping.keep_house(store=_store(), policy=policy, seconds=_HOUSEKEEPING_SLICE)


@functools.cache
def _producer() -> Producer:
    """The doorbell's own."""
    return impatient_producer(settings.DUCKMESH.redis_url)


def ring(tenant_id: str, wanted: int) -> None:
    """Send the poke, or raise within a fraction of a second."""
    materialize.apply_async(args=(tenant_id, wanted), producer=_producer(), retry=False, expires=_RING_EXPIRES)
