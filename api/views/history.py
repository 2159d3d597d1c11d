"""The tenant's queries over HTTP: those that have ended, those that run, and the end of one that should not."""

import re
from typing import Any

import structlog
from django.conf import settings
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework.request import Request
from rest_framework.response import Response

from api import paging
from api import query_serializers as serializers
from api.auth import principal_of
from api.models import Role
from api.process import held
from api.views.base import Endpoint
from duckmesh.kernel import clock
from duckmesh.kernel.errors import Invalid
from query.errors import QueryNotFound
from query.history import Position, history
from query.models import QueryAudit
from query.shown import Shown, request_cancel, shown_of

log = structlog.get_logger(__name__)

_OUTCOME = {"type": "string", "pattern": "^[A-Za-z0-9_]{1,40}$"}
_READERS = frozenset({Role.QUERY_READER})
_MEANS_NO_PAGE = "cursor must be the next_cursor of an earlier page."


def past_query(row: QueryAudit) -> dict[str, Any]:
    """The query as callers see it; the last edge before JSON."""
    return {
        "query_id": row.query_id or None,
        "key_id": row.key_id,
        "at": clock.rfc3339(row.at),
        "sql_hash": row.sql_hash,
        "sql": row.sql_text if settings.DUCKMESH.query_audit_text else None,
        "outcome": row.outcome,
        "snapshot_id": row.snapshot_id,
        "duration_ms": row.duration_ms,
        "row_count": row.row_count,
        "size_bytes": row.size_bytes,
    }


def running_query(query: Shown) -> dict[str, Any]:
    """The query as callers see it; the last edge before JSON."""
    return {
        "query_id": query.query_id,
        "key_id": query.key_id,
        "sql_hash": query.sql_hash,
        "sql": query.sql or None,
        "running_ms": round(query.seconds * 1_000),
        "state": "cancelling" if query.cancelling else "running",
    }


def _behind(position: str) -> Position | None:
    if not position:
        return None
    at, _, number = position.partition("|")
    if not (number.isascii() and number.isdecimal() and len(number) < 19):
        raise Invalid(_MEANS_NO_PAGE)
    instant = clock.parse_rfc3339(at)
    if instant is None:
        raise Invalid(_MEANS_NO_PAGE)
    return Position(at=instant, number=int(number))


class History(Endpoint):
    """What the tenant's keys have asked."""

    required_roles = {"GET": _READERS}

    @extend_schema(
        operation_id="query_history",
        summary="List past queries",
        parameters=[
            *paging.PARAMETERS,
            OpenApiParameter("outcome", _OUTCOME, description="Only those that ended so: `ok`, or an error code."),
        ],
        responses=serializers.QueryHistory,
    )
    def get(self, request: Request) -> Response:
        """A page of the tenant's queries that have ended, the newest first, as long as they are kept.

        A query is here about a second after its end. Its text is here only if the operator lets texts be kept.
        """
        tenant_id, limit = principal_of(request).tenant_id, paging.limit_of(request.GET)
        outcome = request.GET.get("outcome")
        if outcome is not None and not re.fullmatch(str(_OUTCOME["pattern"]), outcome):
            raise Invalid("outcome must be ok or an error code.")
        behind = _behind(paging.position_of(request.GET))
        found = history(tenant_id=tenant_id, outcome=outcome, behind=behind, limit=limit + 1)
        page, more = found[:limit], len(found) > limit
        last = f"{page[-1].at.isoformat()}|{page[-1].pk}" if more else ""
        return Response(
            {
                "tenant_id": tenant_id,
                "queries": [past_query(row) for row in page],
                "next_cursor": paging.cursor_behind(last) if more else None,
            }
        )


class Queries(Endpoint):
    """What runs for the tenant."""

    required_roles = {"GET": _READERS}

    @extend_schema(operation_id="list_queries", summary="List running queries", responses=serializers.RunningQueryList)
    def get(self, request: Request) -> Response:
        """The tenant's queries that run now, in every process of the service, the longest first.

        Those that began in another process less than a second ago may be missing.
        """
        tenant_id = principal_of(request).tenant_id
        here = [flight.shown for flight in held().query.inflight.of(tenant_id)]
        known = {query.query_id for query in here}
        all_of_them = here + [query for query in shown_of(tenant_id) if query.query_id not in known]
        longest_first = sorted(all_of_them, key=lambda query: -query.seconds)
        return Response({"tenant_id": tenant_id, "queries": [running_query(query) for query in longest_first]})


class OneQuery(Endpoint):
    """A query that runs."""

    required_roles = {"DELETE": _READERS}

    @extend_schema(operation_id="cancel_query", summary="Cancel a query", responses={202: serializers.CancelledQuery})
    def delete(self, request: Request, query: str) -> Response:
        """Stop the query, whichever process runs it, within a second. Its client is answered 409 `CANCELLED`.

        404 `QUERY_NOT_FOUND` if it has ended, or no query of the tenant has this id.
        """
        who = principal_of(request)
        asked = held().query.inflight.cancel(tenant_id=who.tenant_id, query_id=query) or (
            len(query) == 32
            and query.isascii()
            and query.isalnum()
            and request_cancel(tenant_id=who.tenant_id, query_id=query)
        )
        if not asked:
            raise QueryNotFound("No query with this id is running.")
        log.info("query_cancelled", tenant_id=who.tenant_id, query_id=query, actor=f"key:{who.key_id}")
        return Response({"query_id": query, "state": "cancelling"}, status=202)
