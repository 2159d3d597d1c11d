"""A run from its request to its answer: asked for, told to the workers, waited for, and answered as it ended."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from api.keys import Principal
from api.problems import UNEXPECTED
from api.process import Held
from duckmesh.kernel.errors import JSON, DuckMeshError, Invalid
from maintenance.asking import parse_options, require_mode, scope_of
from maintenance.errors import IntegrityCheckFailed
from maintenance.history import RunInfo, find_run, finding_document, gravest_findings
from maintenance.job import Job, JobOptions
from maintenance.models import Run
from maintenance.runs import Poke, request_run
from storage.errors import InvalidKey, ObjectExists, ObjectNotFound, StoreDenied, UnwritableData

DEFAULT_SECONDS = 30.0
LONGEST_SECONDS = 300.0
FIRST_FINDINGS = 20

# About our own objects: to the caller, a fault of ours.
_OURS = (StoreDenied, ObjectNotFound, ObjectExists, InvalidKey, UnwritableData)


@dataclass(frozen=True, kw_only=True)
class RunBody:
    """What is asked for: the job's options, a table or all of the tenant's, why, and how long to wait for the end."""

    options: JobOptions
    table: str | None
    reason: str
    wait_seconds: float


def parse_run(body: Mapping[str, JSON], *, job: Job) -> RunBody:
    """The request that `body` is. Raises `Invalid`."""
    options = {name: value for name, value in body.items() if name not in ("table", "reason", "wait_seconds")}
    table, reason, wait = body.get("table"), body.get("reason", ""), body.get("wait_seconds", DEFAULT_SECONDS)
    if table is not None and (not isinstance(table, str) or "\0" in table):
        raise Invalid("table must be the name of a table.")
    if not isinstance(reason, str) or len(reason) > 200 or "\0" in reason:
        raise Invalid("reason must be a text of at most 200 characters.")
    if isinstance(wait, bool) or not isinstance(wait, int | float) or not 0 <= wait <= LONGEST_SECONDS:
        raise Invalid(f"wait_seconds must be a number from 0 to {LONGEST_SECONDS:.0f}.")
    return RunBody(options=parse_options(job, options), table=table, reason=reason, wait_seconds=float(wait))


def run(asked: RunBody, *, job: Job, who: Principal, held: Held, most_queued: int) -> tuple[UUID, RunInfo | None]:
    """The run is durable and a worker knows, or will hear of it. With it, if it ended in time, how.

    Raises what the run failed with.
    """
    scope = scope_of(tenant_id=who.tenant_id, table=asked.table)
    require_mode(job.kind, asked.options)
    run_id = request_run(
        kind=job.kind,
        scope=scope,
        options=asked.options,
        requested_by=f"key:{who.key_id}",
        reason=asked.reason,
        most_queued=most_queued,
    )
    held.runs.poke(Poke(kind=job.kind, run_id=run_id, tenant_id=who.tenant_id, table_name=asked.table))
    if not held.runs.wait(run_id, seconds=asked.wait_seconds):
        return run_id, None
    ended = find_run(run_id=run_id, tenant_id=who.tenant_id)
    if ended.state != Run.State.SUCCEEDED:
        raise failure_of(ended)
    return run_id, ended


def failure_of(run: RunInfo) -> DuckMeshError:
    """The run's failure or cancellation as the error that it ended with, of the same code and family.

    Where the error would tell of our own objects it is `INTERNAL`, as it is if nobody foresaw it.
    """
    known = next((error for error in _errors(DuckMeshError) if error.code == run.error_code), DuckMeshError)
    message = run.error
    if known is DuckMeshError or issubclass(known, _OURS):
        known, message = DuckMeshError, UNEXPECTED
    error = known.__new__(known)  # whatever its own arguments are, a run keeps its message alone
    context: dict[str, Any] = {"run_id": str(run.run_id), "state": run.state.value, "summary": dict(run.summary)}
    if known is IntegrityCheckFailed:
        grave = gravest_findings(run_id=run.run_id, limit=FIRST_FINDINGS)
        context["findings"] = [finding_document(each) for each in grave]
    DuckMeshError.__init__(error, message, **context)
    return error


def _errors(family: type[DuckMeshError]) -> Iterator[type[DuckMeshError]]:
    yield family
    for child in family.__subclasses__():
        yield from _errors(child)
