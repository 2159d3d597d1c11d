"""Writes over HTTP."""

import time
from typing import Any

from django.conf import settings
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework.request import Request
from rest_framework.response import Response

from api import serializers
from api.acceptance import IngestPolicy, accept_json, announce
from api.auth import principal_of
from api.models import Role
from api.parsers import read_body, require_media_type
from api.process import accept_policy, held
from api.views.base import Endpoint
from duckmesh.kernel import metrics
from duckmesh.kernel.config import Config
from ingest.decode.batch import DecodeLimits
from ingest.decode.spool import SpoolPolicy


def ingest_policy(config: Config) -> IngestPolicy:
    """What the configuration says of one request."""
    limits = DecodeLimits(
        max_records=config.max_records_per_request,
        max_keyed_records=config.max_keyed_records_per_request,
        max_columns=config.max_columns,
        max_visibility_timeout=config.max_visibility_timeout,
        spool=SpoolPolicy(directory=config.home / "scratch", memory_bytes=config.spool_memory_bytes),
    )
    return IngestPolicy(limits=limits, accept=accept_policy(config))


class Ingest(Endpoint):
    """Records for one table of the key's tenant."""

    required_roles = {"POST": frozenset({Role.INGEST_WRITER})}

    @extend_schema(
        operation_id="ingest",
        summary="Write records",
        parameters=[
            OpenApiParameter(
                "Idempotency-Key",
                str,
                OpenApiParameter.HEADER,
                description="Covers the whole request, instead of keys in its records. A retry answers the first result"
                " with `Idempotency-Replayed: true`; another body, 409.",
            )
        ],
        request=serializers.IngestBody,
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
        held().guard.require_room()
        require_media_type(request, "application/json")
        durable = accept_json(
            tenant_id=who.tenant_id,
            table=table,
            body=read_body(request, limit=config.max_body_bytes),
            request_key=request.META.get("HTTP_IDEMPOTENCY_KEY"),
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
            headers={"Idempotency-Replayed": "true"} if ingested.accepted.replayed else None,
        )

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
