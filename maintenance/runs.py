"""The states of a run, and the only statements that change them: one function, one statement, by the database's clock.

    queued ─ claim ─► running ─ finish ─► succeeded | failed | cancelled
       ▲                 │  └─ claim, when its lease ran out ─► running, in another process
       └─── give_back ───┘     cancel ─► cancelled: at once if nobody computes, else when its process hears of it

Whoever has claimed a run holds its epoch, and every statement of theirs asks for it: of two processes that believe
to have the run only the later one can say anything about it.
"""

import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import structlog
from django.db import IntegrityError, connection, transaction
from psycopg2 import errorcodes

from catalog.mode import is_read_only
from duckmesh.kernel.errors import JSON
from maintenance.counting import count_end
from maintenance.errors import RunEnded, RunLost, RunWorkerLost, TooManyRuns
from maintenance.job import JobOptions, Kind, Scope
from maintenance.models import CompactionRun, GcRun, IntegrityRun, RestoreDrillRun, Run

MODELS: Mapping[Kind, type[Run]] = {
    Kind.COMPACTION: CompactionRun,
    Kind.RETENTION: GcRun,
    Kind.INTEGRITY: IntegrityRun,
    Kind.RESTORE_DRILL: RestoreDrillRun,
}
PAUSED_KINDS = frozenset({Kind.COMPACTION, Kind.RETENTION})
"""What read-only mode stops. Integrity runs and restore drills read what tenants have written, and go on."""
MOST_ATTEMPTS = 5
MOST_STEPS = 1_000

log = structlog.get_logger(__name__)


@dataclass(frozen=True, kw_only=True)
class ClaimedRun:
    """A run that a process has, as long as no other has a later epoch."""

    kind: Kind
    run_id: uuid.UUID
    epoch: int
    scope: Scope
    options: Mapping[str, JSON]
    cursor: Mapping[str, JSON]


@dataclass(frozen=True, kw_only=True)
class Poke:
    """A run that a worker should take now, with names that a person knows."""

    kind: Kind
    run_id: uuid.UUID
    tenant_id: str | None
    table_name: str | None


def table_of(kind: Kind) -> str:
    """The database's table of the runs of this kind."""
    return MODELS[kind]._meta.db_table


@transaction.atomic
def request_run(
    *,
    kind: Kind,
    scope: Scope,
    options: JobOptions,
    requested_by: str,
    reason: str = "",
    most_queued: int | None = None,
) -> uuid.UUID:
    """The run is queued, durable once the transaction commits. Whoever asked tells a worker after that.

    Raises `TooManyRuns` if `most_queued` runs of this kind already wait for the tenant.
    """
    model = MODELS[kind]
    if most_queued is not None:
        with connection.cursor() as cursor:  # requests of a tenant count one after the other
            cursor.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", [f"runs {kind} {scope.tenant_id}"])
        waiting = model._default_manager.filter(tenant_id=scope.tenant_id, state=Run.State.QUEUED).count()
        if waiting >= most_queued:
            raise TooManyRuns(f"{waiting} runs of this kind already wait for their turn.", retry_after=30)
    run = model._default_manager.create(
        tenant_id=scope.tenant_id,
        table_id=scope.table_id,
        options=options.model_dump(mode="json"),
        requested_by=requested_by,
        reason=reason,
    )
    log.info("run_requested", kind=kind.value, run_id=str(run.run_id), requested_by=requested_by)
    return run.run_id


_CLAIM = """
WITH ready AS (
    SELECT run_id, cancel_requested OR attempts >= %(most)s AS over FROM {table}
     WHERE run_id = %(run_id)s AND (state = 'queued' OR state = 'running' AND lease_until < clock_timestamp())
       AND (NOT %(only_dry)s OR coalesce((options->>'dry_run')::boolean, false))
       FOR UPDATE
)
UPDATE {table} run
   SET state = CASE WHEN NOT over THEN 'running' WHEN cancel_requested THEN 'cancelled' ELSE 'failed' END,
       epoch = epoch + 1,
       attempts = attempts + CASE WHEN over THEN 0 ELSE 1 END,
       lease_until = CASE WHEN NOT over THEN clock_timestamp() + %(lease)s END,
       heartbeat_at = CASE WHEN over THEN heartbeat_at ELSE clock_timestamp() END,
       started_at = coalesce(started_at, clock_timestamp()),
       ended_at = CASE WHEN over THEN clock_timestamp() END,
       error_code = CASE WHEN NOT over THEN '' WHEN cancel_requested THEN 'RUN_CANCELLED' ELSE %(lost_code)s END,
       error = CASE WHEN NOT over THEN '' WHEN cancel_requested THEN 'The run was cancelled.' ELSE %(lost)s END
  FROM ready WHERE run.run_id = ready.run_id
RETURNING state, epoch, tenant_id, table_id, options, cursor, error_code
"""


@dataclass(frozen=True, kw_only=True)
class Claimed:
    """What became of a claim: the run is ours, or it `ended` in this state because nobody may try it again."""

    run: ClaimedRun | None
    ended: Run.State | None = None


def claim_run(*, kind: Kind, run_id: uuid.UUID, lease: timedelta) -> Claimed:
    """The run is running here until its lease runs out, if it was queued or its last process let its lease run out.

    Neither if it has ended, runs elsewhere, or another run of its tenant and table does; nor in read-only mode, if it
    would change anything but its own records. A run whose process is gone
    ends here instead if it was cancelled, or was begun `MOST_ATTEMPTS` times without coming any further.
    """
    values: dict[str, Any] = {
        "run_id": run_id,
        "lease": lease,
        "most": MOST_ATTEMPTS,
        "only_dry": kind in PAUSED_KINDS and is_read_only(),
        "lost_code": RunWorkerLost.code,
        "lost": f"The run was begun {MOST_ATTEMPTS} times and came no further: the worker was lost each time.",
    }
    try:
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute(_CLAIM.format(table=table_of(kind)), values)
            row = cursor.fetchone()
    except IntegrityError as exc:
        if getattr(exc.__cause__, "pgcode", None) != errorcodes.UNIQUE_VIOLATION:
            raise
        return Claimed(run=None)
    if row is None:
        return Claimed(run=None)
    state, epoch, tenant_id, table_id, options, cursor_, error_code = row
    if state != Run.State.RUNNING:
        log.warning("run_ended", kind=kind.value, run_id=str(run_id), state=state, error_code=error_code)
        return Claimed(run=None, ended=Run.State(state))
    run = ClaimedRun(
        kind=kind,
        run_id=run_id,
        epoch=epoch,
        scope=Scope(tenant_id=tenant_id, table_id=table_id),
        options=_parsed(options),
        cursor=_parsed(cursor_),
    )
    log.info("run_claimed", kind=kind.value, run_id=str(run_id), epoch=epoch)
    return Claimed(run=run)


def extend_lease(run: ClaimedRun, *, lease: timedelta) -> bool:
    """The lease runs from now; whether somebody has asked for the run to stop. Raises `RunLost`."""
    return _say(run, "lease_until = clock_timestamp() + %(lease)s, heartbeat_at = clock_timestamp()", lease=lease)


def tell_phase(run: ClaimedRun, *, phase: str, done: float) -> bool:
    """The run is known to be in this phase; whether somebody has asked for it to stop. Raises `RunLost`.

    Its progress never goes back: a process that took the run over may find less to do, and reckon anew.
    """
    return _say(
        run,
        "phase = %(phase)s, progress = greatest(progress, %(done)s),"
        " attempts = CASE WHEN %(done)s > progress THEN 0 ELSE attempts END",
        phase=phase[:63],
        done=min(max(done, 0.0), 1.0),
    )


def tell_step(run: ClaimedRun, *, name: str, facts: Mapping[str, JSON]) -> bool:
    """The step is in the run's history; whether somebody has asked for it to stop. Raises `RunLost`.

    Of more than `MOST_STEPS` the oldest go.
    """
    return _say(
        run,
        "steps = CASE WHEN jsonb_array_length(steps) >= %(most)s THEN steps - 0 ELSE steps END"
        " || jsonb_build_array("
        "jsonb_build_object('name', %(name)s::text, 'at', clock_timestamp()) || %(facts)s::jsonb)",
        name=name,
        facts=json.dumps(dict(facts)),
        most=MOST_STEPS,
    )


def save_cursor(run: ClaimedRun, *, cursor: Mapping[str, JSON]) -> None:
    """A process that takes the run over goes on from here. Raises `RunLost`."""
    _say(
        run,
        "cursor = %(cursor)s::jsonb, attempts = CASE WHEN cursor <> %(cursor)s::jsonb THEN 0 ELSE attempts END",
        cursor=json.dumps(dict(cursor)),
    )


def finish_run(
    run: ClaimedRun, *, state: Run.State, summary: Mapping[str, JSON], error_code: str = "", error: str = ""
) -> None:
    """The run has ended, and says how. Raises `RunLost`."""
    _say(
        run,
        "state = %(state)s, ended_at = clock_timestamp(), lease_until = NULL, summary = %(summary)s::jsonb,"
        " progress = CASE WHEN %(state)s = 'succeeded' THEN 1 ELSE progress END,"
        " error_code = %(error_code)s, error = %(error)s",
        state=state.value,
        summary=json.dumps(dict(summary)),
        error_code=error_code,
        error=error,
    )
    log.info("run_ended", kind=run.kind.value, run_id=str(run.run_id), state=state.value, error_code=error_code)


def give_back(run: ClaimedRun) -> None:
    """The run is queued again, with its cursor, for whoever comes first. Raises `RunLost`."""
    _say(run, "state = 'queued', lease_until = NULL, poked_at = NULL")
    log.info("run_given_back", kind=run.kind.value, run_id=str(run.run_id))


_NEXT = """
SELECT run_id, tenant_id, (SELECT name FROM table_def t WHERE t.table_id = run.table_id) FROM {table} run
 WHERE state = 'queued' AND EXISTS (
       SELECT FROM {table} ended WHERE ended.run_id = %(behind)s AND ended.state <> 'running'
          AND ended.tenant_id IS NOT DISTINCT FROM run.tenant_id AND ended.table_id IS NOT DISTINCT FROM run.table_id)
 ORDER BY requested_at, run_id LIMIT 1
"""


def next_in_line(*, kind: Kind, behind: uuid.UUID) -> list[Poke]:
    """The run, if any, whose turn it is because that one runs no more."""
    with connection.cursor() as cursor:
        cursor.execute(_NEXT.format(table=table_of(kind)), {"behind": behind})
        return [
            Poke(kind=kind, run_id=run_id, tenant_id=tenant_id, table_name=table_name)
            for run_id, tenant_id, table_name in cursor.fetchall()
        ]


_CANCEL = """
UPDATE {table}
   SET cancel_requested = true,
       steps = steps || jsonb_build_array(
           jsonb_build_object('name', 'cancel_requested', 'at', clock_timestamp(), 'by', %(actor)s::text)),
       epoch = epoch + CASE WHEN {idle} THEN 1 ELSE 0 END,
       state = CASE WHEN {idle} THEN 'cancelled' ELSE state END,
       ended_at = CASE WHEN {idle} THEN clock_timestamp() END,
       error_code = CASE WHEN {idle} THEN 'RUN_CANCELLED' ELSE error_code END,
       error = CASE WHEN {idle} THEN 'The run was cancelled.' ELSE error END
 WHERE run_id = %(run_id)s AND state IN ('queued', 'running')
RETURNING state
"""
_IDLE = "(state = 'queued' OR lease_until < clock_timestamp())"


def cancel_run(*, kind: Kind, run_id: uuid.UUID, actor: str) -> Run.State:
    """The run is cancelled, or its process knows within seconds that it must stop. Raises `RunEnded`."""
    with connection.cursor() as cursor:
        cursor.execute(_CANCEL.format(table=table_of(kind), idle=_IDLE), {"run_id": run_id, "actor": actor})
        row = cursor.fetchone()
    if row is None:
        raise RunEnded("The run has ended already.", run_id=str(run_id))
    if row[0] == Run.State.CANCELLED:
        count_end(kind=kind, state=Run.State.CANCELLED, summary={}, seconds=0)
    log.info("run_cancel_requested", kind=kind.value, run_id=str(run_id), actor=actor, state=row[0])
    return Run.State(row[0])


_SAY = """
UPDATE {table} SET {said} WHERE run_id = %(run_id)s AND epoch = %(epoch)s AND state = 'running'
RETURNING cancel_requested
"""


# `Any`: the statements' values are what the driver takes.
def _say(run: ClaimedRun, said: str, **values: Any) -> bool:
    with connection.cursor() as cursor:
        cursor.execute(
            _SAY.format(table=table_of(run.kind), said=said), {"run_id": run.run_id, "epoch": run.epoch, **values}
        )
        row = cursor.fetchone()
    if row is None:
        raise RunLost("Another process has taken the run over.", run_id=str(run.run_id))
    return bool(row[0])


def _parsed(value: Any) -> Mapping[str, JSON]:  # the driver gives jsonb as text
    found: Mapping[str, JSON] = json.loads(value) if isinstance(value, str) else value
    return found
