"""Queries over HTTP."""

from typing import Any

from django.conf import settings
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework.request import Request
from rest_framework.response import Response

from api import serializers
from api.auth import principal_of
from api.models import Role
from api.parsers import control_body
from api.process import held
from api.renderers import JSONRenderer, OfferedRenderer
from api.views.base import Endpoint
from duckmesh.kernel import clock
from query.body import parse_body
from query.service import Asker, execute
from query.setup import body_limits


class Query(Endpoint):
    """SQL on one immutable snapshot of the tenant's tables."""

    required_roles = {"POST": frozenset({Role.QUERY_READER})}
    renderer_classes = (JSONRenderer,)
    query_id = ""
    content_negotiation_class = OfferedRenderer  # other kinds of answer are asked for by Accept

    @extend_schema(
        operation_id="query",
        summary="Run a query",
        parameters=[
            OpenApiParameter(
                "X-DuckMesh-Query-Id",
                str,
                OpenApiParameter.HEADER,
                response=True,
                description="Names the query in the history, and in errors of its own.",
            )
        ],
        request=serializers.QueryBody, responses=serializers.QueryAnswer
    )
    def post(self, request: Request) -> Response:
        """One read-only statement, every table in it read at the same instant.

        With `min_visibility_token`, the rows of every write acknowledged with a token up to it are in the result, or
        the answer is an error: `CONSISTENCY_TIMEOUT` says in `context.latest_visibility_token` how far it has come.
        """
        who = principal_of(request)
        asked = parse_body(control_body(request), limits=body_limits(settings.DUCKMESH))
        asker = Asker(tenant_id=who.tenant_id, key_id=who.key_id)
        self.query_id = asker.query_id
        result = execute(asked, asker=asker, plane=held().query, now=clock.now())
        return Response(result.body)

    def finalize_response(self, request: Request, response: Response, *args: Any, **kwargs: Any) -> Response:
        """Every answer to a query that was understood carries its id, errors too. `Any`: as REST framework has it."""
        answer = super().finalize_response(request, response, *args, **kwargs)
        if self.query_id:
            answer["X-DuckMesh-Query-Id"] = self.query_id
        return answer
