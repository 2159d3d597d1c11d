"""A query from its request to its answer: gate, barrier, snapshot, plan, runner, JSON. In this order.

The gate comes first, so that a statement that may not run waits for nothing. The snapshot is chosen after the barrier,
once, and everything the statement reads is of it. A statement that waits for its token holds no runner.
"""

import hashlib
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from pathlib import Path

import msgspec
import structlog

from catalog.readset import ReadSet, read_set
from catalog.snapshots import resolve
from duckmesh.kernel import metrics
from duckmesh.kernel.clock import rfc3339
from duckmesh.kernel.errors import DuckMeshError, Unavailable
from duckmesh.kernel.telemetry import timed, traced
from query import planner
from query.audit import AuditEntry, AuditLog
from query.barrier import Barrier
from query.body import QueryRequest
from query.cache import FileSource
from query.cancel import Cancellation
from query.errors import (
    ClientGone,
    ConsistencyTimeout,
    QueryCancelled,
    SqlUnsealed,
    TokenScopeMismatch,
    VisibilityTokenInvalid,
)
from query.exchange import failed
from query.gate import Verdict
from query.incoming import Incoming
from query.inflight import Flight, Inflight
from query.limits import sealing
from query.pool import Pool
from query.request import RunRequest
from query.results import json_rows
from query.running import Running

log = structlog.get_logger(__name__)

OK = "ok"
JSON_ROWS = 10_000
PATIENCE = 0.2  # seconds between looks at whether somebody still waits


@dataclass(frozen=True, kw_only=True)
class QueryPolicy:
    """What the operator allows."""

    result_bytes: int = 64 * 2**20
    stream_bytes: int = 8 * 2**30
    scratch: str | None = None  # where answers wait that must be whole before they begin; none: the system's place
    allow_unsealed: bool = False
    keep_text: bool = False  # statements may be kept, with the data in them


@dataclass(frozen=True, kw_only=True)
class QueryPlane:
    """What queries of one process share."""

    pool: Pool
    barrier: Barrier
    source: FileSource
    audit: AuditLog
    policy: QueryPolicy
    inflight: Inflight = field(default_factory=Inflight)


@dataclass(frozen=True, kw_only=True)
class Asker:
    """Whose query it is, and its name."""

    tenant_id: str
    key_id: str
    query_id: str = field(default_factory=lambda: secrets.token_hex(16))


@dataclass(frozen=True, kw_only=True)
class Line:
    """What can be known of whoever waits for the answer."""

    gone: Callable[[], bool] = lambda: False  # they have hung up; asked a few times a second at most
    begun: Callable[[], None] = lambda: None  # called when the first bytes are about to be theirs
    over: Callable[[], None] = lambda: None  # called, perhaps in another thread, when the rest will not come


NOBODY = Line()


@dataclass(frozen=True, kw_only=True)
class QueryResult:
    """The answer: `body` is the JSON document of the contract, the rest is of use beside it."""

    body: bytes
    snapshot_id: int
    visible_token: int
    row_count: int


@dataclass
class Course:
    """How far the query has come, for its statistics and its audit row, whatever becomes of it."""

    now: datetime
    cancellation: Cancellation
    started: float = field(default_factory=time.perf_counter)
    outcome: str = "INTERNAL"
    queue_ms: float = 0.0
    barrier_seconds: float = 0.0
    snapshot_id: int | None = None
    row_count: int = 0
    size_bytes: int = 0

    @property
    def milliseconds(self) -> float:
        return (time.perf_counter() - self.started) * 1_000


@dataclass(frozen=True, kw_only=True)
class Query:
    """A statement that runs on what it may read."""

    read: ReadSet
    plan: planner.Plan
    running: Running
    deadline: float


def execute(
    request: QueryRequest, *, asker: Asker, plane: QueryPlane, now: datetime, line: Line = NOBODY
) -> QueryResult:
    """The rows of the statement in one snapshot, or an error that says why there are none; `now` is for the audit."""
    limit = JSON_ROWS if request.row_limit is None else request.row_limit
    with (
        observed(request, asker, plane, now, line) as course,
        running_query(request, asker, plane, course, row_limit=limit, max_bytes=plane.policy.result_bytes) as query,
    ):
        incoming = Incoming(query.running)
        rows = []
        for batch in incoming.batches(PATIENCE):
            if batch is not None:
                rows.append(json_rows(batch, column_types=query.running.column_types))
            elif line.gone():
                raise ClientGone("The client has hung up.")
        answer = _plan_member(rows) if request.explain else _row_members(rows, incoming.schema.names, query.running)
        body = _document(answer, query, course)
        course.row_count, course.size_bytes = query.running.row_count, len(body)
        return QueryResult(
            body=body,
            snapshot_id=query.read.snapshot_id,
            visible_token=query.read.visible_token,
            row_count=query.running.row_count,
        )


@contextmanager
def observed(request: QueryRequest, asker: Asker, plane: QueryPlane, now: datetime, line: Line) -> Iterator[Course]:
    """The query can be seen and cancelled during the block; its end is counted and recorded."""
    flight = Flight(
        query_id=asker.query_id,
        tenant_id=asker.tenant_id,
        key_id=asker.key_id,
        sql_hash=hashlib.sha256(request.sql.encode()).hexdigest(),
        sql=request.sql if plane.policy.keep_text else "",
        at=now,
        cancellation=Cancellation(gone=line.gone),
    )
    course = Course(now=now, cancellation=flight.cancellation)
    try:
        with plane.inflight.holding(flight), _cancelled_if_asked(flight):
            yield course
        course.outcome = OK
    except GeneratorExit:
        course.outcome = ClientGone.code
        raise
    except ConsistencyTimeout:
        course.outcome = ConsistencyTimeout.code
        metrics.consistency_timeouts.labels(waiter="query").inc()
        raise
    except DuckMeshError as exc:
        course.outcome = exc.code
        raise
    finally:
        metrics.query_requests.labels(outcome=course.outcome).inc()
        metrics.query_latency.observe(course.milliseconds)
        log.info(
            "query_ended",
            tenant_id=asker.tenant_id,
            query_id=asker.query_id,
            error_code=None if course.outcome == OK else course.outcome,
            snapshot_id=course.snapshot_id,
            duration_ms=round(course.milliseconds, 3),
            row_count=course.row_count,
        )
        plane.audit.record(
            AuditEntry(
                tenant_id=asker.tenant_id,
                key_id=asker.key_id,
                query_id=asker.query_id,
                snapshot_id=course.snapshot_id,
                sql_hash=flight.sql_hash,
                sql_text=flight.sql or None,
                outcome=course.outcome,
                duration_ms=round(course.milliseconds, 3),
                row_count=course.row_count,
                size_bytes=course.size_bytes,
                at=now,
            )
        )


@contextmanager
def _cancelled_if_asked(flight: Flight) -> Iterator[None]:
    """What fails after somebody has cancelled the query fails for that."""
    try:
        yield
    except DuckMeshError:
        if not flight.cancellation.asked:
            raise
        if flight.cancellation.deserted:
            raise ClientGone("The client has hung up.") from None
        raise QueryCancelled("The query was cancelled.", query_id=flight.query_id) from None


@contextmanager
def running_query(
    request: QueryRequest, asker: Asker, plane: QueryPlane, course: Course, *, row_limit: int | None, max_bytes: int
) -> Iterator[Query]:
    """The statement runs while the block does."""
    if not (plane.policy.allow_unsealed or sealing().sealed):
        raise SqlUnsealed(f"{sealing().describe()} The operator can allow SQL all the same.")
    timeout = time.monotonic() + request.timeout_ms / 1_000
    tenant_dir = Path(plane.source.tenant_dir(tenant_id=asker.tenant_id))
    session_of = partial(
        plane.pool.session, tenant_id=asker.tenant_id, tenant_dir=tenant_dir, cancellation=course.cancellation
    )
    with session_of(deadline=timeout) as session:
        with traced("gate", tenant_id=asker.tenant_id):
            verdict = session.inspect(request.sql)
        course.queue_ms = session.queue_ms
    read = _settle(request, asker.tenant_id, verdict, plane.barrier, course)
    course.snapshot_id = read.snapshot_id
    # The wait for the token has a timeout of its own.
    deadline = timeout + course.barrier_seconds
    with traced("plan", tenant_id=asker.tenant_id):
        plan = planner.plan(
            read,
            tenant_id=asker.tenant_id,
            source=plane.source,
            uses=verdict.uses,
            params=request.params,
            now=course.now,
            deadline=deadline,
        )
    with session_of(deadline=deadline) as session:
        asked = RunRequest(
            sql=request.sql,
            params=request.params,
            views=plan.views,
            row_limit=row_limit,
            max_bytes=max_bytes,
            explain=request.explain,
        )
        with timed("runner", tenant_id=asker.tenant_id), closing(session.start(asked)) as running:
            yield Query(read=read, plan=plan, running=running, deadline=deadline)
    metrics.query_scanned_files.observe(plan.files)
    metrics.query_scanned_bytes.observe(plan.size_bytes)


def _settle(request: QueryRequest, tenant_id: str, verdict: Verdict, barrier: Barrier, course: Course) -> ReadSet:
    """What the statement reads, in the snapshot that was asked for, with every write that the token covers."""
    snapshot_id, token = request.snapshot_id, request.min_visibility_token
    if request.snapshot_time is not None:
        snapshot_id = resolve(tenant_id=tenant_id, snapshot_time=request.snapshot_time).snapshot_id
    read = _read(tenant_id, verdict, snapshot_id, token)
    if read.token_is_void:
        raise TokenScopeMismatch(
            f"The token {token} is of a history that a restore of the catalog has replaced; the write may be lost."
            " Send it again with the same keys.",
            min_visibility_token=token,
            snapshot_visibility_token=read.visible_token,
        )
    if token is None or token <= read.visible_token:
        planner.check(read, names=verdict.tables)
        if token is not None:
            metrics.consistency_satisfied.labels("query").inc()
        return read
    if read.issued_token is not None and token > read.issued_token:
        raise VisibilityTokenInvalid(
            f"No write was ever acknowledged with the token {token}.",
            min_visibility_token=token,
            latest_issued_token=read.issued_token,
        )
    if snapshot_id is not None:
        raise TokenScopeMismatch(
            f"The snapshot {snapshot_id} reaches to the token {read.visible_token}, not to {token}.",
            snapshot_id=snapshot_id,
            min_visibility_token=token,
            snapshot_visibility_token=read.visible_token,
        )
    planner.check(read, names=verdict.tables)  # what is wrong now needs no waiting for
    began = time.perf_counter()
    try:
        with traced("barrier", tenant_id=tenant_id):
            barrier.wait(
                tenant_id=tenant_id,
                token=token,
                timeout=request.consistency_timeout_ms / 1_000,
                cancellation=course.cancellation,
            )
    finally:
        course.barrier_seconds = time.perf_counter() - began
    read = _read(tenant_id, verdict, None, token)
    planner.check(read, names=verdict.tables)
    if read.visible_token < token:
        raise Unavailable("The catalog's history has changed meanwhile; try again.", retry_after=1)
    metrics.consistency_satisfied.labels("query").inc()
    return read


def _read(tenant_id: str, verdict: Verdict, snapshot_id: int | None, token: int | None) -> ReadSet:
    read = read_set(
        tenant_id=tenant_id,
        names=verdict.tables,
        snapshot_id=snapshot_id,
        token=token,
        bounded=planner.bounded_columns(verdict.uses),
    )
    if read is None:
        resolve(tenant_id=tenant_id, snapshot_id=snapshot_id)  # says why
        raise Unavailable("The snapshot was being changed; try again.", retry_after=1)
    return read


def _document(answer: bytes, query: Query, course: Course) -> bytes:
    read, plan, running = query.read, query.plan, query.running
    end = msgspec.json.encode(
        {
            "snapshot_id": read.snapshot_id,
            "snapshot_time": rfc3339(read.snapshot_time),
            "max_visibility_token": read.visible_token,
            "truncated": running.truncated,
            "stats": {
                "duration_ms": round(course.milliseconds, 3),
                "queue_ms": round(course.queue_ms + running.queue_ms, 3),
                "barrier_ms": round(course.barrier_seconds * 1_000, 3),
                "scanned_files": plan.files,
                "pruned_files": query.plan.pruned_files,
                "scanned_bytes": plan.size_bytes,
                "cache_hit_bytes": plan.hit_bytes,
            },
        }
    )
    return answer[:-1] + b"," + end[1:]


def _row_members(rows: list[bytes], columns: list[str], running: Running) -> bytes:
    begin = msgspec.json.encode({"columns": columns, "column_types": running.column_types})
    return b"".join((begin[:-1], b',"rows":[', b",".join(rows), b"]}"))


def _plan_member(rows: list[bytes]) -> bytes:
    try:
        return b'{"plan":' + msgspec.json.decode(rows[0], type=list[msgspec.Raw])[0] + b"}"
    except (IndexError, msgspec.DecodeError):
        raise failed() from None
