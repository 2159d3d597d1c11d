"""Failed writes over HTTP: what could not be made visible, and what an operator does about it."""

from typing import Any

from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework.request import Request
from rest_framework.response import Response

from api import ops_serializers as serializers
from api import paging
from api.auth import principal_of
from api.models import Role
from api.process import held
from api.views.base import Endpoint
from duckmesh.kernel import clock
from duckmesh.kernel.errors import Invalid
from ingest.errors import FailedEventNotFound
from ingest.failed import FailedEvent, discard, get_failed, list_failed, replay

_OPERATORS = frozenset({Role.OPS_ADMIN})
_LARGEST = 2**63 - 1


def failed_event(event: FailedEvent) -> dict[str, Any]:
    """The failed write as callers see it; the last edge before JSON."""
    return {
        "id": event.event_id,
        "table_name": event.table_name,
        "first_token": event.first_token,
        "last_token": event.last_token,
        "record_count": event.record_count,
        "attempts": event.attempts,
        "error": event.error,
        "reason": event.reason,
        "state": event.state,
        "accepted_at": clock.rfc3339(event.accepted_at),
        "failed_at": clock.rfc3339(event.failed_at) if event.failed_at else None,
    }


def _number_of(name: str) -> int:
    if not (name.isascii() and name.isdecimal() and len(name) < 20 and int(name) <= _LARGEST):
        raise FailedEventNotFound("There is no such failed write.")
    return int(name)


def _token_behind(position: str) -> int:
    if position and not (position.isascii() and position.isdecimal() and len(position) < 19):
        raise Invalid("cursor must be the next_cursor of an earlier page.")
    return int(position or 0)


class FailedEvents(Endpoint):
    """The failed writes of the key's tenant."""

    required_roles = {"GET": _OPERATORS}

    @extend_schema(
        operation_id="list_failed_events",
        summary="List failed writes",
        parameters=[*paging.PARAMETERS, OpenApiParameter("table", str, description="Only those of this table.")],
        responses=serializers.FailedEventList,
    )
    def get(self, request: Request) -> Response:
        """A page of the writes that could not be made visible and wait for an operator, in the order of their tokens.

        What they say of the reason holds nothing of the records. Once replayed or discarded they are not listed.
        """
        tenant_id, limit = principal_of(request).tenant_id, paging.limit_of(request.GET)
        after = _token_behind(paging.position_of(request.GET))
        table = request.GET.get("table")
        if table is not None and "\0" in table:
            raise Invalid("table must be the name of a table.")
        found = list_failed(tenant_id=tenant_id, table=table, after=after, limit=limit + 1)
        page, more = found[:limit], len(found) > limit
        return Response(
            {
                "tenant_id": tenant_id,
                "failed_events": [failed_event(event) for event in page],
                "next_cursor": paging.cursor_behind(str(page[-1].first_token)) if more else None,
            }
        )


class OneFailedEvent(Endpoint):
    """One failed write of the key's tenant."""

    required_roles = {"GET": _OPERATORS, "DELETE": _OPERATORS}

    @extend_schema(
        operation_id="get_failed_event", summary="Describe a failed write", responses=serializers.FailedEvent
    )
    def get(self, request: Request, id: str) -> Response:
        """A write that has failed, and its state now: `failed`, `pending` after a replay, or what it has come to."""
        return Response(failed_event(get_failed(tenant_id=principal_of(request).tenant_id, event_id=_number_of(id))))

    @extend_schema(operation_id="discard_failed_event", summary="Discard a failed write", responses={204: None})
    def delete(self, request: Request, id: str) -> Response:
        """Give the write up: barriers pass it, and its idempotency keys are free, so that it can be sent again.

        409 `EVENT_NOT_FAILED` if it is not failed (any more).
        """
        who = principal_of(request)
        discard(tenant_id=who.tenant_id, event_id=_number_of(id), actor=f"key:{who.key_id}")
        return Response(status=204)


class ReplayedEvent(Endpoint):
    """A failed write's second chance."""

    required_roles = {"POST": _OPERATORS}

    @extend_schema(
        operation_id="replay_failed_event",
        summary="Replay a failed write",
        request=None,
        responses={202: serializers.FailedEvent},
    )
    def post(self, request: Request, id: str) -> Response:
        """Try the write again, with all its attempts. It is pending when this answers, and the workers know.

        409 `EVENT_NOT_FAILED` if it is not failed (any more).
        """
        who = principal_of(request)
        event = replay(tenant_id=who.tenant_id, event_id=_number_of(id), actor=f"key:{who.key_id}")
        held().doorbell.awaited(tenant_id=event.tenant_id, token=event.last_token)
        return Response(failed_event(event), status=202)
