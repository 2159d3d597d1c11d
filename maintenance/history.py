"""What runs there are and were: read over the tables of all kinds as if they were one."""

import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db.models import Case, F, Q, Value, When

from duckmesh.kernel import clock
from duckmesh.kernel.errors import JSON
from maintenance.errors import RunNotFound
from maintenance.job import Kind
from maintenance.models import IntegrityFinding, Run
from maintenance.runs import MODELS


@dataclass(frozen=True, kw_only=True)
class RunInfo:
    """A run as it is now."""

    kind: Kind
    run_id: uuid.UUID
    tenant_id: str | None
    table_name: str | None
    state: Run.State
    progress: float
    phase: str
    attempts: int
    cancel_requested: bool
    options: Mapping[str, JSON]
    steps: Sequence[JSON]
    summary: Mapping[str, JSON]
    error_code: str
    error: str
    requested_by: str
    reason: str
    requested_at: datetime
    started_at: datetime | None
    ended_at: datetime | None

    @property
    def live(self) -> bool:
        """Whether it has not ended."""
        return self.ended_at is None


@dataclass(frozen=True, kw_only=True)
class Position:
    """Where a page of the history begins: behind the run that was asked for then and has this id."""

    requested_at: datetime
    run_id: uuid.UUID


def document_of(run: RunInfo) -> dict[str, Any]:
    """The run as JSON shows it, to clients and on the command line. `Any`: the last edge before JSON."""
    return {
        "run_id": str(run.run_id),
        "kind": run.kind.value,
        "state": run.state.value,
        "tenant_id": run.tenant_id,
        "table_name": run.table_name,
        "progress": run.progress,
        "phase": run.phase,
        "attempts": run.attempts,
        "cancel_requested": run.cancel_requested,
        "options": run.options,
        "steps": run.steps,
        "summary": run.summary,
        "error_code": run.error_code or None,
        "error": run.error or None,
        "requested_by": run.requested_by,
        "reason": run.reason,
        "requested_at": clock.rfc3339(run.requested_at),
        "started_at": clock.rfc3339(run.started_at) if run.started_at else None,
        "ended_at": clock.rfc3339(run.ended_at) if run.ended_at else None,
    }


def finding_document(finding: IntegrityFinding) -> dict[str, Any]:
    """The finding as JSON shows it. `Any`: the last edge before JSON."""
    return {
        "kind": finding.kind,
        "severity": finding.severity,
        "runbook": finding.runbook,
        "table_id": finding.table_id,
        "file_id": finding.file_id,
        "object_key": finding.object_key,
        "detail": finding.detail,
        "found_at": clock.rfc3339(finding.found_at),
    }


# Runs that succeeded and did what they were for.
SUCCESSES = Q(state=Run.State.SUCCEEDED) & ~Q(options__contains={"dry_run": True})

_SHOWN = (
    "run_id",
    "tenant_id",
    "table__name",
    "state",
    "progress",
    "phase",
    "attempts",
    "cancel_requested",
    "options",
    "steps",
    "summary",
    "error_code",
    "error",
    "requested_by",
    "reason",
    "requested_at",
    "started_at",
    "ended_at",
)


def find_run(*, run_id: uuid.UUID, tenant_id: str | None = None) -> RunInfo:
    """The run with this id; only if it is the tenant's, where one is named. Raises `RunNotFound`."""
    owned = Q() if tenant_id is None else Q(tenant_id=tenant_id)
    for kind, model in MODELS.items():
        row = model._default_manager.filter(owned, run_id=run_id).values(*_SHOWN).first()
        if row is not None:
            return _info(kind, row)
    raise RunNotFound("There is no such run.")


def list_runs(
    *,
    tenant_id: str | None = None,
    kinds: Iterable[Kind] = Kind,
    states: Iterable[Run.State] = Run.State,
    behind: Position | None = None,
    limit: int,
) -> list[RunInfo]:
    """So many runs of these kinds and states, the newest first; only the tenant's, where one is named."""
    wanted = Q(state__in=list(states))
    if tenant_id is not None:
        wanted &= Q(tenant_id=tenant_id)
    if behind is not None:
        wanted &= Q(requested_at__lt=behind.requested_at) | Q(
            requested_at=behind.requested_at, run_id__lt=behind.run_id
        )
    found = [
        _info(kind, row)
        for kind in kinds
        for row in MODELS[kind]
        ._default_manager.filter(wanted)
        .order_by(F("requested_at").desc(), F("run_id").desc())
        .values(*_SHOWN)[:limit]
    ]
    return sorted(found, key=lambda run: (run.requested_at, run.run_id), reverse=True)[:limit]


def ended_runs(run_ids: Iterable[uuid.UUID]) -> set[uuid.UUID]:
    """Those of the runs that have ended, or whose history is gone."""
    wanted = set(run_ids)
    live = [
        model._default_manager.filter(run_id__in=wanted, ended_at=None).values_list("run_id", flat=True)
        for model in MODELS.values()
    ]
    return wanted - set(live[0].union(*live[1:], all=True))


def findings_of(*, run_id: uuid.UUID, after: int = 0, limit: int) -> list[IntegrityFinding]:
    """So many findings of an integrity run, in the order in which they were made, those behind `after`."""
    return list(IntegrityFinding.objects.filter(run_id=run_id, id__gt=after).order_by("id")[:limit])


def last_successes() -> Mapping[Kind, datetime]:
    """When the newest run that succeeded, dry runs aside, has ended, of each kind that has one."""
    newest = {
        kind: model._default_manager.filter(SUCCESSES).order_by("-ended_at").values_list("ended_at", flat=True).first()
        for kind, model in MODELS.items()
    }
    return {kind: ended_at for kind, ended_at in newest.items() if ended_at is not None}


def gravest_findings(*, run_id: uuid.UUID, limit: int) -> list[IntegrityFinding]:
    """So many findings of an integrity run, the errors first, then the warnings."""
    grave = Case(When(severity="error", then=Value(0)), When(severity="warning", then=Value(1)), default=Value(2))
    return list(IntegrityFinding.objects.filter(run_id=run_id).order_by(grave, "id")[:limit])


def _info(kind: Kind, row: Mapping[str, Any]) -> RunInfo:  # `Any`: what the columns hold
    values = {name: value for name, value in row.items() if name != "table__name"}
    return RunInfo(**{**values, "kind": kind, "table_name": row["table__name"], "state": Run.State(row["state"])})
