"""Integrity runs for tests: a run as any other, in this process, and what it found."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any
from uuid import UUID

from maintenance.executing import Executor, execute
from maintenance.integrity.job import IntegrityLimits, IntegrityOptions, perform
from maintenance.job import Job, Kind, Scope, Workplace
from maintenance.models import IntegrityFinding, IntegrityRun
from maintenance.runs import request_run
from storage.store import ObjectStore
from tests.factories import make_table, make_tenant
from tests.lake import Lake, write_ids

LIMITS = IntegrityLimits(
    bytes_per_second=0, orphan_grace=timedelta(hours=1), memory_bytes=2**28, retry_pause=timedelta(milliseconds=10)
)


@dataclass(frozen=True, kw_only=True)
class Checked:
    """How a run ended, and what it found."""

    run: IntegrityRun
    findings: list[IntegrityFinding]

    @property
    def kinds(self) -> set[str]:
        """What was found, but for what is under way."""
        return {found.kind for found in self.findings if found.severity != "info"}

    @property
    def summary(self) -> Mapping[str, Any]:
        """The run's summary."""
        return self.run.summary

    def one(self, kind: str) -> IntegrityFinding:
        """The only finding of this kind."""
        (found,) = (found for found in self.findings if found.kind == kind)
        return found


def three_files(lake: Lake) -> str:
    """A tenant with three files of one table, each of one row."""
    tenant_id = make_tenant()
    make_table(tenant_id=tenant_id)
    for identity in "abc":
        write_ids(tenant_id, identity)
        assert lake.materialize(tenant_id) == 1
    return tenant_id


def integrity_job(limits: IntegrityLimits = LIMITS) -> Job:
    """The job within these limits."""
    return Job(kind=Kind.INTEGRITY, options=IntegrityOptions, perform=partial(perform, limits=limits))


def ask(tenant_id: str | None, *, table_id: int | None = None, **options: Any) -> UUID:
    """An integrity run is queued."""
    scope = Scope(tenant_id=tenant_id, table_id=table_id)
    return request_run(kind=Kind.INTEGRITY, scope=scope, options=IntegrityOptions(**options), requested_by="test")


def run_here(
    lake: Lake, run_id: UUID, *, store: ObjectStore | None = None, limits: IntegrityLimits = LIMITS
) -> Checked:
    """The run has been computed in this thread."""
    place = Workplace(store=store or lake.store, scratch=lake.root / "scratch")
    execute(job=integrity_job(limits), run_id=run_id, place=place, executor=Executor(lease=timedelta(seconds=30)))
    return outcome(run_id)


def outcome(run_id: UUID) -> Checked:
    """The run as it is now, with its findings."""
    findings = IntegrityFinding.objects.filter(run_id=run_id).order_by("kind", "object_key", "id")
    return Checked(run=IntegrityRun.objects.get(run_id=run_id), findings=list(findings))


def check(
    lake: Lake,
    tenant_id: str | None,
    *,
    table_id: int | None = None,
    store: ObjectStore | None = None,
    limits: IntegrityLimits = LIMITS,
    **options: Any,
) -> Checked:
    """What a run over the tenant, or its table, finds."""
    return run_here(lake, ask(tenant_id, table_id=table_id, **options), store=store, limits=limits)
