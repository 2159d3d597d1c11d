"""Bodies: read within a bound, and small JSON ones understood strictly.

What two JSON readers might understand differently is refused: duplicate members, NaN, numbers beyond a double, lone
surrogates, bytes that are not UTF-8, and nesting that only a parser's stack would stop.
"""

import json
import math
import re
from collections.abc import Mapping
from typing import Any, NoReturn

from django.http import HttpRequest
from rest_framework.parsers import BaseParser

from api.encodings import ENCODINGS, Source
from api.errors import UnsupportedMediaType
from duckmesh.kernel.errors import JSON, Invalid
from ingest.decode.spool import Spool, SpoolPolicy
from ingest.errors import PayloadTooLarge

CONTROL_BODY_BYTES = 2**20
MAX_DEPTH = 100

_CHUNK = 2**16
_DISCARDED = 2**28
_READ = "duckmesh.body_is_read"
# Strings are skipped whole. The possessive quantifier and the open end keep this linear on any input.
_BRACKETS = re.compile(rb'"(?:[^"\\]|\\.)*+(?:"|\\?\Z)|[\[{]|[\]}]', re.DOTALL)


def media_type(request: HttpRequest) -> str:
    """The body's media type in lower case, without parameters; empty if the request names none."""
    return str(request.META.get("CONTENT_TYPE", "")).partition(";")[0].strip().lower()


def require_media_type(request: HttpRequest, *accepted: str) -> str:
    """The body's media type, which is one of `accepted` and, if text, UTF-8; else `UnsupportedMediaType`."""
    given = media_type(request)
    if given not in accepted:
        named = "one that docs/bodies.md lists" if len(accepted) > 1 else accepted[0]
        raise UnsupportedMediaType(f"The body's Content-Type must be {named}.", content_type=given[:100])
    charset = (request.content_params or {}).get("charset", "utf-8").lower()
    if charset not in {"utf-8", "utf8", "us-ascii"}:
        raise UnsupportedMediaType("The body must be UTF-8.", charset=charset[:100])
    return given


def require_encoding(request: HttpRequest, *accepted: str) -> str:
    """The body's content encoding, which is one of `accepted`; else `UnsupportedMediaType`."""
    encoding = str(request.META.get("HTTP_CONTENT_ENCODING", "")).strip().lower() or "identity"
    if encoding not in accepted:
        raise UnsupportedMediaType(
            f"The body's Content-Encoding must be {' or '.join(accepted)}.",
            content_encoding=encoding[:100],
            accepted=[*accepted],
        )
    return encoding


def read_body(request: HttpRequest, *, limit: int) -> bytes:
    """The whole body, or `PayloadTooLarge` without holding more than `limit` bytes of it."""
    source = _source(request)
    chunks: list[bytes] = []
    left = limit
    if _declared_length(request) <= limit:
        while chunk := source.read(_CHUNK):
            left -= len(chunk)
            if left < 0:
                break
            chunks.append(chunk)
        else:
            request.META[_READ] = True
            return b"".join(chunks)
    discard_body(request)
    raise _too_large(limit)


def receive_body(request: HttpRequest, *, encoding: str, limit: int, policy: SpoolPolicy) -> Spool:
    """The whole body without its content encoding; whoever receives it closes it.

    Raises `PayloadTooLarge` as soon as it is larger than `limit`, and `Invalid` if it is damaged or was cut short.
    """
    spool = Spool(policy)
    try:
        if encoding == "identity" and _declared_length(request) > limit:
            raise _too_large(limit)
        for chunk in ENCODINGS[encoding](_Received(request, most=2 * limit)):
            if spool.size_bytes + len(chunk) > limit:
                raise _too_large(limit)
            spool.write(chunk)
    except BaseException as error:
        spool.close()
        if isinstance(error, Invalid):
            discard_body(request)
        raise
    return spool


class _Received:
    """The bytes of a body as they were sent. Of a compressed one, no more are taken than `most`."""

    def __init__(self, request: HttpRequest, *, most: int) -> None:
        self._request = request
        self._source = _source(request)
        self._count = 0
        self._most = most

    def read(self, size: int, /) -> bytes:
        """At most `size` of them, none at the end."""
        data = self._source.read(size)
        self._count += len(data)
        if self._count > self._most:
            raise PayloadTooLarge(f"The compressed body is larger than {self._most} bytes.", limit_bytes=self._most)
        if not data and size:
            self._request.META[_READ] = True
            if not _is_chunked(self._request) and self._count < _declared_length(self._request):
                raise Invalid("The body ended before its Content-Length.")
        return data


def _too_large(limit: int) -> PayloadTooLarge:
    return PayloadTooLarge(f"The body is larger than {limit} bytes.", limit_bytes=limit)


def has_unread_body(request: HttpRequest) -> bool:
    """Whether a body came, or is still coming, that nothing of ours has read to its end."""
    return (_declared_length(request) > 0 or _is_chunked(request)) and _READ not in request.META


def discard_body(request: HttpRequest) -> None:
    """Take in what is left of the body, unless it is endless.

    Most senders read the answer only when they have sent all: what is closed on them sooner, they never see.
    """
    source, left = _source(request), _DISCARDED
    while left > 0 and (chunk := source.read(_CHUNK)):
        left -= len(chunk)
    if left > 0:
        request.META[_READ] = True


def _is_chunked(request: HttpRequest) -> bool:
    return "chunked" in request.META.get("HTTP_TRANSFER_ENCODING", "").lower()


def _source(request: HttpRequest) -> Source:
    # Django takes a body without Content-Length for empty; a chunked one ends where the server says that it ends.
    source: Source = request.META["wsgi.input"] if _is_chunked(request) else request
    return source


def _declared_length(request: HttpRequest) -> int:
    text = request.META.get("CONTENT_LENGTH") or "0"
    return int(text) if text.isdecimal() and len(text) < 20 else 0


def parse_object(body: bytes) -> dict[str, JSON]:
    """The JSON object that `body` is, or `Invalid` with the reason."""
    depth = deepest = 0
    for match in _BRACKETS.finditer(body):
        depth += {b"{": 1, b"[": 1, b"}": -1, b"]": -1}.get(match[0], 0)
        deepest = max(deepest, depth)
    if deepest > MAX_DEPTH:
        raise Invalid(f"The body nests deeper than {MAX_DEPTH}.")
    try:
        text = body.decode("utf-8")
        value = json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant, parse_float=_finite)
    except UnicodeDecodeError as exc:
        raise Invalid(f"The body is not UTF-8 (at byte {exc.start}).") from None
    except json.JSONDecodeError as exc:
        raise Invalid(f"The body is not JSON: {exc.msg} at line {exc.lineno}, column {exc.colno}.") from None
    except ValueError:
        raise Invalid("The body holds a number of more digits than anything here can use.") from None
    if not isinstance(value, dict):
        raise Invalid("The body must be a JSON object.")
    if b"\\u" in body:
        _no_lone_surrogate(value)
    return value


def _unique(pairs: list[tuple[str, JSON]]) -> dict[str, JSON]:
    value: dict[str, JSON] = {}
    for name, member in pairs:
        if name in value:
            raise Invalid(f"The body has the member {name[:100]!a} twice in one object.")
        value[name] = member
    return value


def _no_constant(name: str) -> NoReturn:
    raise Invalid(f"The body holds {name}, which JSON does not have.")


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise Invalid(f"The body holds the number {text[:100]}, which is beyond the range of a double.")
    return number


def _no_lone_surrogate(value: JSON) -> None:
    if isinstance(value, str):
        if any("\ud800" <= char <= "\udfff" for char in value):
            raise Invalid("The body holds a lone surrogate, which is no character.")
    elif isinstance(value, dict):
        for name, member in value.items():
            _no_lone_surrogate(name)
            _no_lone_surrogate(member)
    elif isinstance(value, list):
        for item in value:
            _no_lone_surrogate(item)


class StrictJSONParser(BaseParser):
    """`request.data` of a control request: a small JSON object, strictly read."""

    media_type = "application/json"

    # `Any`: REST framework's signature.
    def parse(self, _stream: Any, _media_type: str | None = None, parser_context: Any = None) -> dict[str, JSON]:
        return control_body(parser_context["request"])


def control_body(request: HttpRequest) -> dict[str, JSON]:
    """The small JSON object that is the request's body, strictly read."""
    require_media_type(request, StrictJSONParser.media_type)
    require_encoding(request, "identity")
    return parse_object(read_body(request, limit=CONTROL_BODY_BYTES))


def optional_body(request: HttpRequest) -> dict[str, JSON]:
    """As `control_body`, of a request that may say nothing: without a body it is an empty object."""
    return control_body(request) if has_unread_body(request) else {}


def require_members(body: Mapping[str, JSON], *known: str) -> None:
    """The body holds no other members than these; else `Invalid` names them."""
    if unknown := sorted(set(body) - set(known)):
        raise Invalid(f"The request has members that are not known here: {', '.join(unknown)[:200]}.")
