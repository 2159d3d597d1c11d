"""What the views of one process share. Made when the first request needs it, hence after any fork."""

from dataclasses import dataclass
from functools import cache, partial
from threading import Lock

from django.conf import settings

from api.metrics import ScrapePolicy
from api.run_line import RunLine
from duckmesh.kernel.config import Config
from ingest.accept import AcceptPolicy, Staging
from ingest.doorbell import Doorbell
from ingest.guard import Guard, GuardPolicy, shortages
from ingest.publishing import WriteLimits
from ingest.tasks import flush_policy, ring
from maintenance.compaction import CompactionSettings
from maintenance.tasks import poke
from query.service import QueryPlane
from query.setup import build, close
from storage.factory import StoreSettings, local_root, open_store
from storage.store import ObjectStore

_making = Lock()


@dataclass(frozen=True, kw_only=True)
class Held:
    """The wake-up line to the workers, the query plane with the barrier that reads and writes both wait at, what
    refuses writes while the service is short of room, and the line to the workers that compute runs."""

    doorbell: Doorbell
    query: QueryPlane
    guard: Guard
    runs: RunLine


def held() -> Held:
    """This process's own; every caller gets the same."""
    with _making:  # two first requests must not start two pools of runners
        return _held()


@cache
def _held() -> Held:
    config = settings.DUCKMESH
    doorbell = Doorbell(send=ring, policy=flush_policy(config))
    plane = build(config, on_wait=lambda tenant_id, token: doorbell.awaited(tenant_id=tenant_id, token=token))
    return Held(
        doorbell=doorbell,
        query=plane,
        guard=Guard(partial(shortages, guard_policy())),
        runs=RunLine(send=poke, place=plane.barrier.place),
    )


def guard_policy() -> GuardPolicy:
    """The configuration's bounds on what the service itself uses."""
    config = settings.DUCKMESH
    objects = local_root(StoreSettings.of(config))
    return GuardPolicy(
        directories=(config.home / "scratch", *([objects] if objects else [])),
        min_free_disk_bytes=config.min_free_disk_bytes,
        max_bus_bytes=config.max_bus_bytes,
        max_database_bytes=config.max_database_bytes,
    )


def scrape_policy() -> ScrapePolicy:
    """What the metrics page shows beside the counters."""
    config = settings.DUCKMESH
    objects = local_root(StoreSettings.of(config))
    return ScrapePolicy(
        tenant_labels=config.metrics_tenant_labels,
        guard=guard_policy(),
        compaction=CompactionSettings.of(config).policy,
        store=object_store(),
        redis_url=config.redis_url,
        directories=(("scratch", config.home / "scratch"), *([("objects", objects)] if objects else [])),
    )


@cache
def object_store() -> ObjectStore:
    """The store that readiness asks, and that large payloads wait in."""
    return open_store(StoreSettings.of(settings.DUCKMESH))


def accept_policy(config: Config) -> AcceptPolicy:
    """What the configuration says of writes: the limits of tenants without their own, and where large payloads go."""
    staging = Staging(store=object_store(), above_bytes=config.stage_bytes)
    return AcceptPolicy(limits=WriteLimits.of(config), staging=staging)


def stop_waiting() -> None:
    """Whoever waits in this process for visibility, or for a run, has its answer now, as when the wait runs out."""
    with _making:
        if _held.cache_info().currsize:
            _held().query.barrier.close()
            _held().runs.stop_waiting()


def release() -> None:
    """What was held has ended, with its threads and connections; the next request makes it anew."""
    with _making:
        if _held.cache_info().currsize:
            _held().guard.close()
            _held().runs.close()
            close(_held().query)
            _held.cache_clear()
