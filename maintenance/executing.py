"""A run that is claimed, computed and ended in this process, whichever door it came through."""

import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import copy_context
from dataclasses import dataclass, field
from datetime import timedelta
from time import monotonic

import structlog
from django.db import DatabaseError, InterfaceError, OperationalError, close_old_connections, connection

from catalog.mode import is_read_only
from duckmesh.kernel.errors import JSON, DuckMeshError
from duckmesh.kernel.failpoints import failpoint
from duckmesh.kernel.telemetry import traced
from maintenance.counting import count_end
from maintenance.errors import FoundProblems, RunCancelled, RunLost, RunPaused
from maintenance.job import Job, Kind, Workplace
from maintenance.models import Run
from maintenance.runs import (
    PAUSED_KINDS,
    ClaimedRun,
    claim_run,
    extend_lease,
    finish_run,
    give_back,
    save_cursor,
    tell_phase,
    tell_step,
)

UNEXPECTED = "Something failed here that should not have; the operator finds it in the log by the run's id."

log = structlog.get_logger(__name__)


def _unheard(_phase: str, _done: float) -> None:
    """Nobody looks on."""


def _untold(_name: str, _facts: Mapping[str, JSON]) -> None:
    """Nobody asks what was done."""


@dataclass(frozen=True, kw_only=True)
class Executor:
    """How runs are computed in this process.

    A run is given back at the first `at` or `step` after `seconds`, if there are any, and when an error of
    `out_of_time` interrupts it. `watch` hears each phase, `told` each step.
    """

    lease: timedelta
    seconds: float | None = None
    out_of_time: tuple[type[Exception], ...] = ()
    watch: Callable[[str, float], None] = _unheard
    told: Callable[[str, Mapping[str, JSON]], None] = _untold


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How a run has ended."""

    kind: Kind
    run_id: uuid.UUID
    state: Run.State
    summary: Mapping[str, JSON] = field(default_factory=dict)
    error_code: str = ""
    error: str = ""


def execute(*, job: Job, run_id: uuid.UUID, place: Workplace, executor: Executor) -> Ended | None:
    """The run is computed here to its end, if it can be claimed; None if not, or if it goes on elsewhere later."""
    claimed = claim_run(kind=job.kind, run_id=run_id, lease=executor.lease)
    if claimed.ended is not None:
        count_end(kind=job.kind, state=claimed.ended, summary={}, seconds=0)
        return Ended(kind=job.kind, run_id=run_id, state=claimed.ended)
    if claimed.run is None:
        return None
    run, began = claimed.run, monotonic()
    failpoint("run.after_claim")
    with structlog.contextvars.bound_contextvars(run_id=str(run_id)), suppress(RunLost):
        try:
            with traced("run", kind=job.kind.value, run_id=str(run_id)):
                ended = _computed(job, run, place, executor)
        except (OperationalError, InterfaceError) as exc:
            # It is away, or has stopped a statement. What the run has done is in it, and another attempt goes on.
            log.warning("run_lost_its_database", reason=type(exc).__name__)
            close_old_connections()
            _try_to_give_back(run)
            return None
        except BaseException:  # the process is to end, or its time is up at an awkward place
            _try_to_give_back(run)
            raise
        failpoint("run.before_finish")
        if ended is None:
            give_back(run)
            return None
        finish_run(run, state=ended.state, summary=ended.summary, error_code=ended.error_code, error=ended.error)
        failpoint("run.after_finish")
        count_end(kind=job.kind, state=ended.state, summary=ended.summary, seconds=monotonic() - began)
        return ended
    log.warning("run_lost", kind=job.kind.value, run_id=str(run_id), epoch=run.epoch)
    return None


def _computed(job: Job, run: ClaimedRun, place: Workplace, executor: Executor) -> Ended | None:
    """How the run ends; None if it must be given back."""

    def ended(state: Run.State, summary: Mapping[str, JSON], code: str = "", error: str = "") -> Ended:
        return Ended(kind=job.kind, run_id=run.run_id, state=state, summary=summary, error_code=code, error=error)

    paused: tuple[type[Exception], ...] = (RunPaused, *executor.out_of_time)
    try:
        with _heartbeat(run, lease=executor.lease) as stopped:
            progress = LeasedProgress(run=run, executor=executor, stopped=stopped)
            options = job.options.model_validate(dict(run.options))
            summary = job.perform(scope=run.scope, options=options, place=place, progress=progress)
            return ended(Run.State.SUCCEEDED, summary)
    except paused:
        return None
    except (RunLost, OperationalError, InterfaceError):
        raise
    except RunCancelled:
        return ended(Run.State.CANCELLED, {}, RunCancelled.code, "The run was cancelled.")
    except FoundProblems as exc:
        return ended(Run.State.FAILED, exc.summary, exc.code, exc.message)
    except DuckMeshError as exc:
        log.warning("run_failed", error_code=exc.code)
        return ended(Run.State.FAILED, {}, exc.code, exc.message)
    except Exception as exc:
        log.error("run_broke", error_code=DuckMeshError.code, exc_info=exc)
        return ended(Run.State.FAILED, {}, DuckMeshError.code, UNEXPECTED)


def _try_to_give_back(run: ClaimedRun) -> None:
    """If the database still is away the lease runs out, which comes to the same, later."""
    with suppress(DatabaseError, InterfaceError, RunLost):
        give_back(run)


@dataclass(kw_only=True)
class LeasedProgress:
    """The `Progress` of a run that this process has claimed."""

    run: ClaimedRun
    executor: Executor
    stopped: threading.Event
    _cursor: Mapping[str, JSON] = field(init=False)
    _until: float = field(init=False)

    def __post_init__(self) -> None:
        self._cursor = self.run.cursor
        self._until = monotonic() + (self.executor.seconds if self.executor.seconds is not None else float("inf"))

    @property
    def run_id(self) -> uuid.UUID:
        """See `Progress`."""
        return self.run.run_id

    @property
    def cursor(self) -> Mapping[str, JSON]:
        """See `Progress`."""
        return self._cursor

    def at(self, phase: str, done: float) -> None:
        """See `Progress`."""
        self.executor.watch(phase, done)
        self._go_on(tell_phase(self.run, phase=phase, done=done))

    def step(self, name: str, **facts: JSON) -> None:
        """See `Progress`."""
        self.executor.told(name, facts)
        self._go_on(tell_step(self.run, name=name, facts=facts))

    def save(self, cursor: Mapping[str, JSON]) -> None:
        """See `Progress`."""
        save_cursor(self.run, cursor=cursor)
        self._cursor = dict(cursor)

    def _go_on(self, cancelled: bool) -> None:
        if cancelled:
            raise RunCancelled("The run was cancelled.", run_id=str(self.run.run_id))
        if self.stopped.is_set():
            raise RunLost("Another process has taken the run over.", run_id=str(self.run.run_id))
        if monotonic() > self._until:
            raise RunPaused("The process gives its time back.", run_id=str(self.run.run_id))
        if self.run.kind in PAUSED_KINDS and not self.run.options.get("dry_run") and is_read_only():
            raise RunPaused("The service is in read-only mode.", run_id=str(self.run.run_id))


@contextmanager
def _heartbeat(run: ClaimedRun, *, lease: timedelta) -> Iterator[threading.Event]:
    """The lease is extended from a thread of its own for as long as the block takes.

    The event says that this has ended because another process has the run.
    """
    over, lost = threading.Event(), threading.Event()

    def beat() -> None:
        try:
            while not over.wait(lease.total_seconds() / 3):
                try:
                    extend_lease(run, lease=lease)
                except RunLost:
                    lost.set()
                    return
                except (DatabaseError, InterfaceError) as exc:
                    log.warning("run_heartbeat_failed", run_id=str(run.run_id), reason=type(exc).__name__)
                    connection.close()
        finally:
            connection.close()

    thread = threading.Thread(target=copy_context().run, args=(beat,), name="run-heartbeat", daemon=True)
    thread.start()
    try:
        yield lost
    finally:
        over.set()
        thread.join()
