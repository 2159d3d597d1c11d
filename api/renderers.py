"""The kinds of answers: JSON bytes, and the forms that are streamed."""

import re
from collections.abc import Mapping
from typing import Any, ClassVar

import msgspec
from django.http import HttpRequest
from rest_framework.exceptions import NotAcceptable
from rest_framework.negotiation import BaseContentNegotiation
from rest_framework.renderers import BaseRenderer

from query.formats import ARROW, CSV, NDJSON, PARQUET, Format

_QUALITY = re.compile(r"0(\.\d{0,3})?|1(\.0{0,3})?")


class JSONRenderer(BaseRenderer):
    """JSON with every digit of every integer; bytes that are JSON already go through untouched."""

    media_type = "application/json"
    format = "json"
    charset = None

    # `Any`: REST framework's signature. What views return is JSON already, or bytes.
    def render(self, data: Any, _media_type: str | None = None, _context: Mapping[str, Any] | None = None) -> bytes:
        if data is None:
            return b""  # a 204 has no body, not even `null`
        return data if isinstance(data, bytes) else msgspec.json.encode(data)


class FirstRenderer(BaseContentNegotiation):
    """The view's one kind of answer, whatever `Accept` says: a client that cannot read it still reads the status."""

    def select_parser(self, _request: HttpRequest, parsers: Any) -> Any:
        return parsers[0] if parsers else None

    def select_renderer(
        self, _request: HttpRequest, renderers: Any, _format_suffix: str | None = None
    ) -> tuple[Any, str]:
        return renderers[0], renderers[0].media_type


class StreamedRenderer(BaseRenderer):
    """A form of answers that a view streams itself."""

    charset = None
    form: ClassVar[Format]


class ArrowRenderer(StreamedRenderer):
    """An Arrow IPC stream."""

    form, media_type, format = ARROW, ARROW.media_type, "arrow"


class ParquetRenderer(StreamedRenderer):
    """A Parquet file."""

    form, media_type, format = PARQUET, PARQUET.media_type, "parquet"


class CsvRenderer(StreamedRenderer):
    """CSV."""

    form, media_type, format = CSV, CSV.media_type, "csv"


class LinesRenderer(StreamedRenderer):
    """NDJSON."""

    form, media_type, format = NDJSON, NDJSON.media_type, "ndjson"


class OfferedRenderer(BaseContentNegotiation):
    """The kind of answer that `Accept` likes best; 406 if the view has none that it allows.

    The quality of a kind is that of the most specific range that names it. Of kinds that are liked as much as each
    other the one whose range comes first is taken, and of those in one range the view's first. The address plays no
    part.
    """

    def select_parser(self, _request: HttpRequest, parsers: Any) -> Any:
        return parsers[0] if parsers else None

    def select_renderer(
        self, request: HttpRequest, renderers: Any, _format_suffix: str | None = None
    ) -> tuple[Any, str]:
        ranges = _ranges(request.META.get("HTTP_ACCEPT", "").strip() or "*/*")
        best, best_rank = None, (0.0, 0)
        for renderer in renderers:
            matching = [
                (specific, quality, place)
                for place, (name, quality) in enumerate(ranges)
                if (specific := _specificity(name, renderer.media_type))
            ]
            if matching:
                _, quality, place = max(matching, key=lambda match: match[0])
                if quality > 0 and (best is None or (quality, -place) > best_rank):
                    best, best_rank = renderer, (quality, -place)
        if best is None:
            raise NotAcceptable
        return best, best.media_type


def _ranges(header: str) -> list[tuple[str, float]]:
    """The media ranges of an `Accept` header in its order, each with its quality; one that makes no sense has none."""
    found = []
    for item in header.lower().split(","):
        name, *parameters = (part.strip() for part in item.split(";"))
        quality = 1.0
        for parameter in parameters:
            label, _, value = parameter.partition("=")
            if label.strip() == "q":
                quality = float(value) if _QUALITY.fullmatch(value.strip()) else 0.0
        found.append((name, quality))
    return found


def _specificity(name: str, media_type: str) -> int:
    """How closely the range names the media type; 0 if it does not."""
    kind = media_type.split("/")[0]
    return {media_type: 3, f"{kind}/*": 2, "*/*": 1}.get(name, 0)
