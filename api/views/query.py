"""Queries over HTTP."""

from collections.abc import Iterator
from typing import Any

from django.conf import settings
from django.http import StreamingHttpResponse
from django.http.response import HttpResponseBase
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework.request import Request
from rest_framework.response import Response

from api import query_serializers as serializers
from api.auth import principal_of
from api.connections import Connection
from api.models import Role
from api.parsers import control_body
from api.process import held
from api.renderers import (
    ArrowRenderer,
    CsvRenderer,
    JSONRenderer,
    LinesRenderer,
    OfferedRenderer,
    ParquetRenderer,
    StreamedRenderer,
)
from api.views.base import Endpoint
from duckmesh.kernel import clock
from query.body import parse_body
from query.formats import STREAMED
from query.service import Asker, Line, execute
from query.setup import body_limits
from query.streaming import BrokenAnswer, StreamedAnswer, stream

STREAMED_HEADERS = tuple(
    OpenApiParameter(f"X-DuckMesh-{name}", kind, OpenApiParameter.HEADER, response=[200], description=description)
    for name, kind, description in (
        ("Snapshot-Id", int, "The snapshot of a streamed answer."),
        ("Visibility-Token", int, "Its watermark."),
        ("Truncated", bool, "There were more rows than `row_limit`. Absent if not."),
    )
)


class Query(Endpoint):
    """SQL on one immutable snapshot of the tenant's tables."""

    required_roles = {"POST": frozenset({Role.QUERY_READER})}
    renderer_classes = (JSONRenderer, ArrowRenderer, ParquetRenderer, CsvRenderer, LinesRenderer)
    content_negotiation_class = OfferedRenderer
    query_id = ""

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
            ),
            *STREAMED_HEADERS,
        ],
        request=serializers.QueryBody,
        responses={
            (200, JSONRenderer.media_type): serializers.QueryAnswer,
            **{(200, form.media_type): OpenApiTypes.BINARY for form in STREAMED},
        },
    )
    def post(self, request: Request) -> HttpResponseBase:
        """One read-only statement, every table in it read at the same instant.

        With `min_visibility_token`, the rows of every write acknowledged with a token up to it are in the result, or
        the answer is an error: `CONSISTENCY_TIMEOUT` says in `context.latest_visibility_token` how far it has come.

        By `Accept` the answer is JSON, or streams the whole result as an Arrow stream, Parquet, CSV or NDJSON, with
        the snapshot in `X-DuckMesh-Snapshot-Id` and `X-DuckMesh-Visibility-Token`. A stream in which something goes
        wrong does not end: its connection is cut.
        """
        who = principal_of(request)
        asked = parse_body(control_body(request), limits=body_limits(settings.DUCKMESH))
        asker = Asker(tenant_id=who.tenant_id, key_id=who.key_id)
        self.query_id = asker.query_id
        connection = Connection(request.META)
        line = Line(gone=connection.gone, begun=connection.begun, over=connection.over)
        renderer = request.accepted_renderer
        if not isinstance(renderer, StreamedRenderer):
            result = execute(asked, asker=asker, plane=held().query, now=clock.now(), line=line)
            return Response(result.body)
        answer = stream(asked, form=renderer.form, asker=asker, plane=held().query, now=clock.now(), line=line)
        response = StreamingHttpResponse(_body(answer, connection), content_type=renderer.form.content_type)
        response["X-DuckMesh-Snapshot-Id"] = str(answer.snapshot_id)
        response["X-DuckMesh-Visibility-Token"] = str(answer.visible_token)
        if answer.truncated:
            response["X-DuckMesh-Truncated"] = "true"
        if answer.size_bytes is not None:
            response["Content-Length"] = str(answer.size_bytes)
        return response

    def finalize_response(self, request: Request, response: Response, *args: Any, **kwargs: Any) -> Response:
        """Every answer to a query that was understood carries its id, errors too. `Any`: as REST framework has it."""
        answer = super().finalize_response(request, response, *args, **kwargs)
        if self.query_id:
            answer["X-DuckMesh-Query-Id"] = self.query_id
        return answer


def _body(answer: StreamedAnswer, connection: Connection) -> Iterator[bytes]:
    try:
        yield from answer.body
    except BrokenAnswer as broken:
        yield from connection.cut(broken.tail)
