"""Answers as JSON bytes."""

from collections.abc import Mapping
from typing import Any

import msgspec
from django.http import HttpRequest
from rest_framework.negotiation import BaseContentNegotiation, DefaultContentNegotiation
from rest_framework.renderers import BaseRenderer
from rest_framework.request import Request


class JSONRenderer(BaseRenderer):
    """JSON with every digit of every integer; bytes that are JSON already go through untouched."""

    media_type = "application/json"
    format = "json"
    charset = None

    # `Any`: REST framework's signature. What views return is JSON already, or bytes.
    def render(self, data: Any, _media_type: str | None = None, _context: Mapping[str, Any] | None = None) -> bytes:
        return data if isinstance(data, bytes) else msgspec.json.encode(data)


class FirstRenderer(BaseContentNegotiation):
    """The view's one kind of answer, whatever `Accept` says: a client that cannot read it still reads the status."""

    def select_parser(self, _request: HttpRequest, parsers: Any) -> Any:
        return parsers[0] if parsers else None

    def select_renderer(
        self, _request: HttpRequest, renderers: Any, _format_suffix: str | None = None
    ) -> tuple[Any, str]:
        return renderers[0], renderers[0].media_type


class OfferedRenderer(DefaultContentNegotiation):
    """The first kind of answer that `Accept` allows; 406 if the view has none of them. The address plays no part."""

    def get_accept_list(self, request: Request) -> list[str]:
        """What the client takes, best first as it wrote them; everything if it does not say."""
        header: str = request.META.get("HTTP_ACCEPT", "").strip() or "*/*"
        return [kind.strip() for kind in header.split(",")]

    def filter_renderers(self, renderers: Any, _format: str) -> Any:
        """`?format=` is not ours to read."""
        return renderers
