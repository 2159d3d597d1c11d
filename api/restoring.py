"""A restore from its request to its answer: ordered, announced to the workers, and waited for if so asked."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

from api.errors import AcceptedNotVisible
from api.parsers import require_members
from api.process import Held
from api.snapshot_ids import id_in_body
from catalog.errors import IngestFailed
from duckmesh.kernel.errors import JSON, DuckMeshError, Invalid, Unavailable
from ingest.restores import Ordered, has_failed, order_restore, restored_in
from query.errors import ConsistencyTimeout

_DEFAULT_MS = 5_000


@dataclass(frozen=True, kw_only=True)
class RestoreBody:
    """What is asked for: a snapshot, and how long to wait until it is restored, if at all."""

    snapshot_id: int
    wait: timedelta | None


@dataclass(frozen=True, kw_only=True)
class Restored:
    """A restore that is durable, and the snapshot that it has become if that was waited for."""

    token: int
    snapshot_id: int | None


def parse_restore(body: Mapping[str, JSON], *, longest: timedelta) -> RestoreBody:
    """The request that `body` is. Raises `Invalid`."""
    require_members(body, "snapshot_id", "wait_for_visibility", "visibility_timeout_ms")
    snapshot_id, wait = id_in_body(body.get("snapshot_id")), body.get("wait_for_visibility", True)
    most, within = int(longest.total_seconds() * 1_000), body.get("visibility_timeout_ms", _DEFAULT_MS)
    if not isinstance(wait, bool):
        raise Invalid("wait_for_visibility must be true or false.")
    if type(within) is not int or not 0 <= within <= most:
        raise Invalid(f"visibility_timeout_ms must be an integer from 0 to {most}.")
    return RestoreBody(snapshot_id=snapshot_id, wait=timedelta(milliseconds=within) if wait else None)


def restore(asked: RestoreBody, *, tenant_id: str, actor: str, held: Held) -> Restored:
    """The restore is durable and the workers know; if it is waited for, it is applied, or an error says what it is."""
    ordered = order_restore(tenant_id=tenant_id, snapshot_id=asked.snapshot_id, actor=actor)
    if asked.wait is None:
        held.doorbell.awaited(tenant_id=tenant_id, token=ordered.token)
        return Restored(token=ordered.token, snapshot_id=None)
    try:
        held.query.barrier.wait(tenant_id=tenant_id, token=ordered.token, timeout=asked.wait.total_seconds())
    except (ConsistencyTimeout, Unavailable) as exc:
        held.doorbell.awaited(tenant_id=tenant_id, token=ordered.token)
        unseen = AcceptedNotVisible(
            "The restore is accepted and will be applied, but was not seen to be in time; do not ask for it again.",
            latest_visibility_token=exc.context.get("latest_visibility_token"),
        )
        raise _told(unseen, ordered) from exc
    if has_failed(ordered):
        failure = IngestFailed(
            "The snapshot could not be restored; the reason stands with the failed events.",
            failed_event_id=ordered.event_id,
        )
        raise _told(failure, ordered)
    return Restored(token=ordered.token, snapshot_id=restored_in(ordered))


def _told(error: DuckMeshError, ordered: Ordered) -> DuckMeshError:
    """The error says what is durable all the same."""
    error.context |= {"accepted": True, "max_visibility_token": ordered.token}
    return error
