"""Writes over HTTP."""

import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

from django.conf import settings
from django.http import HttpRequest
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework.request import Request
from rest_framework.response import Response

from api import serializers
from api.acceptance import IngestPolicy, ReceivedBody, accept_body, announce
from api.auth import principal_of
from api.encodings import ENCODINGS
from api.models import Role
from api.parsers import receive_body, require_encoding, require_media_type
from api.process import accept_policy, held
from api.throttles import rate_headers, refusal_headers
from api.views.base import Endpoint
from catalog.mode import require_writable
from duckmesh.kernel import metrics
from duckmesh.kernel.config import Config
from duckmesh.kernel.errors import Invalid
from ingest.decode.batch import DecodeLimits
from ingest.decode.bodies import DECODERS, JSON_TYPE
from ingest.decode.options import OPS, BodyOptions, read_options
from ingest.decode.refusals import listed
from ingest.decode.spool import SpoolPolicy
from ingest.errors import RateLimited

_PARAMETERS = [
    OpenApiParameter(
        "Idempotency-Key",
        str,
        OpenApiParameter.HEADER,
        description="Covers the whole request, instead of keys in its records. A retry answers the first result"
        " with `Idempotency-Replayed: true`; another body, 409.",
    ),
    OpenApiParameter(
        "Content-Encoding",
        str,
        OpenApiParameter.HEADER,
        enum=[*ENCODINGS],
        description="How the body is compressed. Limits count what it is without that.",
    ),
    OpenApiParameter(
        "Idempotency-Replayed",
        str,
        OpenApiParameter.HEADER,
        enum=["true"],
        response=True,
        description="That this is the first answer to a request of the same Idempotency-Key; nothing was written anew.",
    ),
    OpenApiParameter(
        "RateLimit-Policy",
        str,
        OpenApiParameter.HEADER,
        response=True,
        description="The tenant's rates, if it has any: what a quiet tenant may write at once, and in how many seconds"
        " it earns that much.",
    ),
    OpenApiParameter(
        "RateLimit",
        str,
        OpenApiParameter.HEADER,
        response=True,
        description="What is left of each rate, and the seconds until all of it is there again.",
    ),
    OpenApiParameter("op", str, enum=[*OPS], default="insert", description="Of all records. Not with a JSON body."),
    OpenApiParameter(
        "key_column",
        str,
        description="The column whose value is the record's idempotency key; null is none. Not with a JSON body.",
    ),
    OpenApiParameter(
        "event_time_column", str, description="The column that is the record's event time. Not with a JSON body."
    ),
    OpenApiParameter("wait_for_visibility", bool, default=False, description="Not with a JSON body, which says it."),
    OpenApiParameter("visibility_timeout_ms", int, default=5_000, description="Not with a JSON body, which says it."),
]

_PACKED = 16
"""How many times its size an Arrow or Parquet body may come to when its values are taken out of their packing."""


def spool_policy(config: Config) -> SpoolPolicy:
    """Where bodies and what they are decoded to lie."""
    return SpoolPolicy(directory=config.home / "scratch", memory_bytes=config.spool_memory_bytes)


def ingest_policy(config: Config) -> IngestPolicy:
    """What the configuration says of one request."""
    limits = DecodeLimits(
        max_records=config.max_records_per_request,
        max_keyed_records=config.max_keyed_records_per_request,
        max_line_bytes=config.max_line_bytes,
        max_columns=config.max_columns,
        max_decoded_bytes=_PACKED * config.max_body_bytes,
        max_visibility_timeout=config.max_visibility_timeout,
        spool=spool_policy(config),
    )
    return IngestPolicy(limits=limits, accept=accept_policy(config))


@contextmanager
def _received(request: HttpRequest, config: Config) -> Iterator[ReceivedBody]:
    """The whole body, which is gone with this block."""
    media_type = require_media_type(request, *DECODERS)
    encoding = require_encoding(request, *ENCODINGS)
    options = _options(request, media_type)
    limit = config.max_body_bytes
    if media_type == JSON_TYPE:
        limit = min(limit, config.max_json_body_bytes)
    with closing(receive_body(request, encoding=encoding, limit=limit, policy=spool_policy(config))) as spool:
        request_key = request.META.get("HTTP_IDEMPOTENCY_KEY")
        yield ReceivedBody(spool=spool, media_type=media_type, options=options, request_key=request_key)


def _options(request: HttpRequest, media_type: str) -> BodyOptions:
    """What the query string says; a JSON body says the same itself."""
    given = {name: request.GET.getlist(name) for name in request.GET}
    if given and media_type == JSON_TYPE:
        raise Invalid(f"A JSON body takes no query parameters: {listed(given)}; it says itself what they would")
    return read_options(given)


class Ingest(Endpoint):
    """Records for one table of the key's tenant."""

    required_roles = {"POST": frozenset({Role.INGEST_WRITER})}

    @extend_schema(
        operation_id="ingest",
        summary="Write records",
        parameters=_PARAMETERS,
        request={kind: serializers.IngestBody if kind == JSON_TYPE else OpenApiTypes.BINARY for kind in DECODERS},
        responses=serializers.IngestAnswer,
    )
    def post(self, request: Request, table: str) -> Response:
        """All of the records are durable when this answers 200, or none is written.

        One bad record refuses the request: `INVALID_RECORD`, whose `context.errors` names up to 100 of them. A wait
        that runs out answers 504 `CONSISTENCY_TIMEOUT` whose context says that the records **are** accepted, with
        their token and the latest watermark.
        """
        arrived = time.perf_counter()
        config, who = settings.DUCKMESH, principal_of(request)
        require_writable()
        held().guard.require_room()
        with _received(request, config) as body:
            durable = accept_body(
                tenant_id=who.tenant_id,
                table=table,
                body=body,
                policy=ingest_policy(config),
                actor=f"key:{who.key_id}",
            )
        metrics.ingest_ack_latency.observe((time.perf_counter() - arrived) * 1_000)
        ingested = announce(durable, held=held())
        return Response(
            {
                "accepted_count": ingested.accepted.accepted_count,
                "duplicate_count": ingested.accepted.duplicate_count,
                "max_visibility_token": ingested.accepted.max_visibility_token,
                "status": ingested.status,
                "visible_snapshot_id": ingested.snapshot_id,
            },
            headers={
                **({"Idempotency-Replayed": "true"} if ingested.accepted.replayed else {}),
                **rate_headers(ingested.accepted.rates, burst=config.rate_burst),
            },
        )

    def handle_exception(self, exc: Exception) -> Response:
        """A write that its tenant's rate refuses is told about the rate too."""
        response = super().handle_exception(exc)
        if isinstance(exc, RateLimited):
            for name, value in refusal_headers(exc, burst=settings.DUCKMESH.rate_burst).items():
                response[name] = value
        return response

    # `Any`: REST framework's signature.
    def finalize_response(self, request: Request, response: Response, *args: Any, **kwargs: Any) -> Response:
        """Every request is counted by how it ended, errors too."""
        ended = super().finalize_response(request, response, *args, **kwargs)
        metrics.ingest_requests.labels(_outcome(ended)).inc()
        return ended


def _outcome(response: Response) -> str:
    if response.status_code < 400:
        return str(response.data["status"])
    return {429: "throttled", 504: "consistency_timeout"}.get(
        response.status_code, "refused" if response.status_code < 500 else "failed"
    )
