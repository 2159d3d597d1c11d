"""Runs for tests: jobs of a test's own behind the real machinery, and a clock that can be moved in the database."""

import threading
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

from django.db.models import F
from pydantic import ConfigDict

from duckmesh.kernel.errors import JSON
from maintenance.executing import Ended, Executor, execute
from maintenance.job import Job, JobOptions, Kind, Progress, Scope, Workplace
from maintenance.models import Run
from maintenance.runs import MODELS, ClaimedRun, claim_run, request_run
from storage.local import LocalStore

LEASE = timedelta(seconds=30)
Work = Callable[[Progress], Mapping[str, JSON]]


class TestOptions(JobOptions):
    """Options of a job of a test."""

    __test__ = False

    size: int = 1
    secret: bool = False


class AnyOptions(JobOptions):
    """Whatever options a run was asked for with."""

    model_config = ConfigDict(frozen=True, extra="ignore")


def nothing(_progress: Progress) -> Mapping[str, JSON]:
    """A job that has nothing to do."""
    return {"done": True}


def job(work: Work = nothing, *, kind: Kind = Kind.COMPACTION, options: type[JobOptions] = TestOptions) -> Job:
    """A job that does this."""

    def perform(*, scope: Scope, options: JobOptions, place: Workplace, progress: Progress) -> Mapping[str, JSON]:
        return work(progress)

    return Job(kind=kind, options=options, perform=perform, command_only=frozenset({"secret"}))


def ask(tenant_id: str | None = None, *, table_id: int | None = None, kind: Kind = Kind.COMPACTION) -> uuid.UUID:
    """A run is queued."""
    scope = Scope(tenant_id=tenant_id, table_id=table_id)
    return request_run(kind=kind, scope=scope, options=TestOptions(), requested_by="test")


def run_here(
    run_id: uuid.UUID, work: Work = nothing, *, kind: Kind = Kind.COMPACTION, executor: Executor | None = None
) -> Ended | None:
    """The run is computed in this thread, if it can be claimed."""
    place = Workplace(store=LocalStore(root=Path("/nonexistent")), scratch=Path("/nonexistent"))
    lenient = job(work, kind=kind, options=AnyOptions)
    return execute(job=lenient, run_id=run_id, place=place, executor=executor or Executor(lease=LEASE))


def claimed(run_id: uuid.UUID, *, kind: Kind = Kind.COMPACTION) -> ClaimedRun:
    """The run, claimed, and nobody extends its lease."""
    run = claim_run(kind=kind, run_id=run_id, lease=LEASE).run
    assert run is not None
    return run


def row(run_id: uuid.UUID, *, kind: Kind = Kind.COMPACTION) -> Run:
    """The run as the database has it."""
    return MODELS[kind]._default_manager.get(run_id=run_id)


def let_lease_run_out(run_id: uuid.UUID, *, kind: Kind = Kind.COMPACTION) -> None:
    """As if its process had died a while ago."""
    MODELS[kind]._default_manager.filter(run_id=run_id).update(lease_until=F("lease_until") - timedelta(hours=1))


@dataclass
class Gate:
    """Where a job stands still until the test lets it go on."""

    reached: threading.Event = field(default_factory=threading.Event)
    opened: threading.Event = field(default_factory=threading.Event)

    def wait(self) -> None:
        """Called by the job."""
        self.reached.set()
        assert self.opened.wait(20)
