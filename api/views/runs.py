"""Maintenance over HTTP: runs asked for, waited for, listed, shown with what they found, and cancelled."""

from collections.abc import Iterable, Mapping
from typing import Any, TypeVar
from uuid import UUID

from django.conf import settings
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.reverse import reverse

from api import paging
from api import run_serializers as serializers
from api.auth import principal_of
from api.models import Role
from api.parsers import optional_body
from api.process import held
from api.running import parse_run, run
from api.views.base import Endpoint
from duckmesh.kernel import clock
from duckmesh.kernel.errors import Invalid
from maintenance.errors import RunNotFound
from maintenance.history import (
    Position,
    RunInfo,
    document_of,
    find_run,
    finding_document,
    findings_of,
    list_runs,
)
from maintenance.job import Job, Kind
from maintenance.models import Run
from maintenance.runs import cancel_run

_OPERATORS = frozenset({Role.OPS_ADMIN})
_BAD_CURSOR = "cursor must be the next_cursor of an earlier page."
_NAMES = {
    Kind.COMPACTION: "Rewrite small files into fewer",
    Kind.RETENTION: "Expire snapshots and delete what nothing names",
    Kind.INTEGRITY: "Hold the catalog against the object store",
    Kind.RESTORE_DRILL: "Restore a backup into a scratch database and prove it",
}


def new_run_view(job: Job) -> type[Endpoint]:
    """The view that asks for runs of this job."""

    class NewRun(Endpoint):
        """A run of this kind."""

        required_roles = {"POST": _OPERATORS}
        body_is_optional = True

        @extend_schema(
            operation_id=f"run_{job.kind.value}",
            summary=_NAMES[job.kind],
            request={"application/json": serializers.body_schema(job)},
            responses={200: serializers.CompletedRun, 202: serializers.StartedRun},
        )
        def post(self, request: Request) -> Response:
            """Runs on a worker. 200 if it ends well within `wait_seconds`; 202 with `Location` if it has not ended.

            One run of a kind and a table (or all tables) is computed at a time; others wait for their turn. A run that
            ends otherwise in time answers with the error that it ended with: `error_code` is the run's, and `run_id`
            and `summary` are in `context`. What becomes of the run later, the run itself tells.
            """
            who, asked = principal_of(request), parse_run(optional_body(request), job=job)
            most = settings.DUCKMESH.max_queued_runs
            run_id, ended = run(asked, job=job, who=who, held=held(), most_queued=most)
            if ended is not None:
                return Response({"status": "completed", "run_id": str(run_id), "summary": ended.summary})
            location = reverse("run", kwargs={"id": str(run_id)})
            return Response({"status": "running", "run_id": str(run_id)}, status=202, headers={"Location": location})

    return NewRun


class Runs(Endpoint):
    """The runs of the key's tenant."""

    required_roles = {"GET": _OPERATORS}

    @extend_schema(
        operation_id="list_runs",
        summary="List maintenance runs",
        parameters=[
            *paging.PARAMETERS,
            OpenApiParameter("kind", str, enum=[kind.value for kind in Kind], description="Only those of this kind."),
            OpenApiParameter("state", str, enum=Run.State.values, description="Only those in this state."),
        ],
        responses=serializers.RunList,
    )
    def get(self, request: Request) -> Response:
        """A page of the runs, the newest request first: those that were asked for, and those of policies.

        Runs over all tenants are the operator's, and not listed.
        """
        tenant_id, limit = principal_of(request).tenant_id, paging.limit_of(request.GET)
        found = list_runs(
            tenant_id=tenant_id,
            kinds=_chosen(request.GET, "kind", Kind),
            states=_chosen(request.GET, "state", Run.State),
            behind=_position(paging.position_of(request.GET)),
            limit=limit + 1,
        )
        page, more = found[:limit], len(found) > limit
        return Response(
            {
                "tenant_id": tenant_id,
                "runs": [_listed(each) for each in page],
                "next_cursor": paging.cursor_behind(_place(page[-1])) if more else None,
            }
        )


class OneRun(Endpoint):
    """One run of the key's tenant."""

    required_roles = {"GET": _OPERATORS, "DELETE": _OPERATORS}

    @extend_schema(
        operation_id="get_run",
        summary="Show a maintenance run",
        parameters=paging.PARAMETERS,
        responses=serializers.OneRun,
    )
    def get(self, request: Request, id: str) -> Response:
        """The run as it is now, with its steps; `limit` and `cursor` are those of its findings."""
        found = find_run(run_id=_run_id(id), tenant_id=principal_of(request).tenant_id)
        limit, after = paging.limit_of(request.GET), paging.position_of(request.GET)
        if after and not (after.isascii() and after.isdecimal() and len(after) < 19):
            raise Invalid(_BAD_CURSOR)
        findings = findings_of(run_id=found.run_id, after=int(after or 0), limit=limit + 1)
        page, more = findings[:limit], len(findings) > limit
        return Response(
            {
                **document_of(found),
                "findings": [finding_document(each) for each in page],
                "next_cursor": paging.cursor_behind(str(page[-1].pk)) if more else None,
            }
        )

    @extend_schema(operation_id="cancel_run", summary="Cancel a maintenance run", responses={202: serializers.OneRun})
    def delete(self, request: Request, id: str) -> Response:
        """A run that waits is cancelled when this answers; one that is computed stops within seconds.

        What it has finished stays. Asking again changes nothing. 409 `RUN_ENDED` if it ended otherwise.
        """
        who = principal_of(request)
        found = find_run(run_id=_run_id(id), tenant_id=who.tenant_id)
        if found.state != Run.State.CANCELLED:
            cancel_run(kind=found.kind, run_id=found.run_id, actor=f"key:{who.key_id}")
            found = find_run(run_id=found.run_id, tenant_id=who.tenant_id)
        return Response({**document_of(found), "findings": [], "next_cursor": None}, status=202)


_Chosen = TypeVar("_Chosen", Kind, Run.State)


def _chosen(query: Mapping[str, str], name: str, choices: type[_Chosen]) -> Iterable[_Chosen]:
    """The one that the query asks for, or all."""
    text = query.get(name)
    if text is None:
        return list(choices)
    if text not in [choice.value for choice in choices]:
        raise Invalid(f"{name} must be one of {', '.join(choice.value for choice in choices)}.")
    return [choices(text)]


def _run_id(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        raise RunNotFound("There is no such run.") from None


def _place(found: RunInfo) -> str:
    return f"{clock.rfc3339(found.requested_at)} {found.run_id}"


def _position(text: str) -> Position | None:
    if not text:
        return None
    at, _, run_id = text.partition(" ")
    requested_at = clock.parse_rfc3339(at)
    try:
        if requested_at is not None:
            return Position(requested_at=requested_at, run_id=UUID(run_id))
    except ValueError:
        pass
    raise Invalid(_BAD_CURSOR)


def _listed(found: RunInfo) -> dict[str, Any]:
    """A run among others: what is long is shown by the run alone. `Any`: the last edge before JSON."""
    document = document_of(found)
    del document["steps"]
    brief = {name: value for name, value in found.summary.items() if not isinstance(value, list | dict)}
    return {**document, "summary": brief}
