"""From a request's body to its answer: accepted, announced to the workers, and waited for if the request says so."""

from dataclasses import dataclass, field
from datetime import timedelta

from api.errors import AcceptedNotVisible
from api.process import Held
from catalog.errors import IngestFailed
from catalog.snapshots import first_failure, resolve
from catalog.tables import TableInfo
from duckmesh.kernel import metrics
from duckmesh.kernel.errors import DuckMeshError, Unavailable
from duckmesh.kernel.telemetry import traced
from ingest.accept import Accepted, AcceptPolicy, accept
from ingest.decode.batch import DecodedBatch, DecodeLimits
from ingest.decode.bodies import decode_body
from ingest.decode.options import BodyOptions
from ingest.decode.spool import Spool
from query.errors import ConsistencyTimeout


@dataclass(frozen=True, kw_only=True)
class IngestPolicy:
    """The bounds of one request."""

    limits: DecodeLimits
    accept: AcceptPolicy


@dataclass(frozen=True, kw_only=True)
class Ingested:
    """What the request came to. `snapshot_id` is set if it waited and its records are visible."""

    accepted: Accepted
    snapshot_id: int | None = None

    @property
    def status(self) -> str:
        """`visible` whatever was duplicate, `partial_duplicate`, or `accepted`."""
        if self.snapshot_id is not None:
            return "visible"
        return "partial_duplicate" if self.accepted.duplicate_count else "accepted"


@dataclass(frozen=True, kw_only=True)
class ReceivedBody:
    """A body as it came, and what its request says beside it. Whoever received it closes it."""

    spool: Spool
    media_type: str
    options: BodyOptions
    request_key: str | None


@dataclass
class _BodyDecoder:
    """Decodes the body for the table it is sent to, again if the table changes, and keeps what was decoded last."""

    body: ReceivedBody
    limits: DecodeLimits
    seen: list[tuple[int, DecodedBatch]] = field(default_factory=list)

    def __call__(self, table: TableInfo) -> DecodedBatch:
        batch = decode_body(
            self.body.spool,
            media_type=self.body.media_type,
            shape=table.shape,
            options=self.body.options,
            limits=self.limits,
            request_key=self.body.request_key,
        )
        self.seen[:] = [(table.table_id, batch)]
        return batch


def accept_body(*, tenant_id: str, table: str, body: ReceivedBody, policy: IngestPolicy, actor: str) -> "Durable":
    """The records of the body are durable, or none of them is."""
    decode = _BodyDecoder(body=body, limits=policy.limits)
    with traced("accept", tenant_id=tenant_id):
        accepted = accept(tenant_id=tenant_id, table=table, decode=decode, policy=policy.accept, actor=actor)
    table_id, batch = decode.seen[0]
    metrics.ingest_records.inc(0 if accepted.replayed else accepted.accepted_count)
    metrics.ingest_duplicates.inc(accepted.accepted_count if accepted.replayed else accepted.duplicate_count)
    wait = batch.visibility_timeout if batch.wait_for_visibility else None
    return Durable(tenant_id=tenant_id, table_id=table_id, accepted=accepted, wait=wait)


@dataclass(frozen=True, kw_only=True)
class Durable:
    """Records that are durable; `wait` is how long their sender wants to wait for them, if at all."""

    tenant_id: str
    table_id: int
    accepted: Accepted
    wait: timedelta | None


def announce(durable: Durable, *, held: Held) -> Ingested:
    """The workers know; if the sender waits, the records are visible or an error says that they are only accepted."""
    if durable.accepted.size_bytes:
        held.doorbell.accepted(tenant_id=durable.tenant_id, size_bytes=durable.accepted.size_bytes)
    if durable.wait is None:
        return Ingested(accepted=durable.accepted)
    return Ingested(accepted=durable.accepted, snapshot_id=_visible_in(durable, durable.wait, held))


def _visible_in(durable: Durable, wait: timedelta, held: Held) -> int:
    """A snapshot that holds the records."""
    tenant_id, token = durable.tenant_id, durable.accepted.max_visibility_token
    try:
        held.query.barrier.wait(tenant_id=tenant_id, token=token, timeout=wait.total_seconds())
    except (ConsistencyTimeout, Unavailable) as exc:
        # Whatever cut the wait short: an answer that looks like "nothing was done" would make senders send again.
        metrics.consistency_timeouts.labels("ingest").inc()
        unseen = AcceptedNotVisible(
            "The records are accepted and durable, but were not seen to be visible in time; do not send them again.",
            latest_visibility_token=exc.context.get("latest_visibility_token"),
        )
        raise _told(unseen, durable) from exc
    metrics.consistency_satisfied.labels("ingest").inc()
    failed = first_failure(tenant_id=tenant_id, token=token, table_ids=[durable.table_id])
    if failed is not None:
        failure = IngestFailed(
            "The records are accepted, but a write to their table, up to their token, could not be made visible;"
            " an operator can replay or discard it.",
            failed_event_id=failed,
        )
        raise _told(failure, durable)
    return resolve(tenant_id=tenant_id).snapshot_id


def _told(error: DuckMeshError, durable: Durable) -> DuckMeshError:
    """The error says what is durable all the same."""
    error.context |= {
        "accepted": True,
        "accepted_count": durable.accepted.accepted_count,
        "duplicate_count": durable.accepted.duplicate_count,
        "max_visibility_token": durable.accepted.max_visibility_token,
    }
    return error
