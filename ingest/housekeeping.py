"""The bus stays small: what it no longer needs goes, beside the traffic, in short transactions with pauses between."""

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path

import structlog

from catalog.identity import own_store
from duckmesh.kernel import metrics
from duckmesh.kernel.errors import Denied, Unavailable
from ingest.key_index import rebuild_if_bloated
from ingest.litter import remove_scratch, remove_staged
from ingest.purge import Purged, purge_slice
from storage.store import ObjectStore

log = structlog.get_logger(__name__)


@dataclass(frozen=True, kw_only=True)
class HousekeepingPolicy:
    """How long keys are remembered, when a staged object that nothing names is abandoned, and how much goes at once."""

    window: timedelta
    unnamed_for: timedelta
    scratch: Path
    keys_per_slice: int = 20_000
    least_index_bytes: int = 2**26


@dataclass(frozen=True, kw_only=True)
class Kept:
    """What one run removed. `finished` is False if more was left than its time allowed."""

    keys: int
    envelopes: int
    staged_objects: int
    scratch_files: int
    index_rebuilt: bool
    finished: bool


def keep_house(*, store: ObjectStore, policy: HousekeepingPolicy, seconds: float) -> Kept:
    """Keys past their window are gone with their envelopes, and so is what requests and workers left behind.

    As far as it comes in this time; the next run goes on. It may run twice at once, and be killed at any moment.
    """
    until = time.monotonic() + seconds
    scratch_files = remove_scratch(policy.scratch)
    staged_objects = _remove_staged(store, unnamed_for=policy.unnamed_for)
    purged = list(_purge(policy, until=until))
    finished = bool(purged) and purged[-1].after is None
    kept = Kept(
        keys=sum(each.keys for each in purged),
        envelopes=sum(each.envelopes for each in purged),
        staged_objects=staged_objects,
        scratch_files=scratch_files,
        index_rebuilt=finished and rebuild_if_bloated(least_bytes=policy.least_index_bytes),
        finished=finished,
    )
    for kind in ("keys", "envelopes", "staged_objects", "scratch_files"):
        metrics.housekeeping_removed.labels(kind).inc(getattr(kept, kind))
    log.info("house_kept", **asdict(kept))
    return kept


def _remove_staged(store: ObjectStore, *, unnamed_for: timedelta) -> int:
    try:
        # Also when there is nothing to delete: who comes first owns the store, and that should be known early.
        own_store(store)
        return remove_staged(store=store, unnamed_for=unnamed_for)
    except (Denied, Unavailable) as exc:
        # The store's matter: the keys are purged all the same.
        log.error("staged_objects_stay", error_code=exc.code, reason=exc.message)
        return 0


def _purge(policy: HousekeepingPolicy, *, until: float) -> Iterator[Purged]:
    """Slice after slice, each followed by a pause as long as it took: half of the time is for the traffic."""
    after = 0
    while time.monotonic() < until:
        started = time.monotonic()
        purged = purge_slice(after=after, window=policy.window, most_keys=policy.keys_per_slice)
        if purged is None:
            return
        yield purged
        if purged.after is None:
            return
        after = purged.after
        time.sleep(time.monotonic() - started)
