"""The one place where errors meet HTTP: families to statuses, and RFC 9457 problem documents.

A problem tells the caller what it may know. The details of a fault of ours go to the log, under the same trace_id.
"""

import math
from typing import Any

import msgspec
import structlog
from django.core.exceptions import PermissionDenied, RequestDataTooBig, SuspiciousOperation
from django.db import InterfaceError, OperationalError
from django.http import Http404, HttpRequest, HttpResponse, UnreadablePostError
from rest_framework import exceptions as drf

from api import errors
from api.parsers import discard_body, has_unread_body
from duckmesh.kernel.errors import (
    JSON,
    Conflict,
    Corrupt,
    Denied,
    DuckMeshError,
    Invalid,
    LimitExceeded,
    NotFound,
    OutcomeUnknown,
    Unavailable,
)
from duckmesh.kernel.logs import kind_of
from ingest.errors import PayloadTooLarge
from storage.errors import InvalidKey, ObjectExists, ObjectNotFound, StoreDenied, UnwritableData

CONTENT_TYPE = "application/problem+json"

STATUS: dict[type, int] = {
    NotFound: 404,
    Conflict: 409,
    Invalid: 400,
    Denied: 403,
    LimitExceeded: 429,
    Unavailable: 503,
    OutcomeUnknown: 503,
    Corrupt: 500,
    DuckMeshError: 500,
}

_RETRY_LATER = frozenset({429, 503})

UNEXPECTED = "Something failed here that should not have; the operator finds it by the trace_id."

log = structlog.get_logger(__name__)


def status_of(error: type[DuckMeshError]) -> int:
    """The HTTP status of a kind of error: its own where the contract fixes one, else its family's."""
    return error.status or next(STATUS[family] for family in error.__mro__ if family in STATUS)


def title_of(error: type[DuckMeshError]) -> str:
    """The short text that is the same for every problem with this error's code."""
    return error.code.replace("_", " ").capitalize()


def problem(error: DuckMeshError) -> HttpResponse:
    """`error` as a problem document."""
    status = status_of(type(error))
    body: dict[str, JSON] = {
        "type": f"urn:duckmesh:error:{error.code.lower().replace('_', '-')}",
        "title": title_of(type(error)),
        "status": status,
        "detail": error.message,
        "error_code": error.code,
        "message": error.message,
        "retryable": error.retryable,
        "context": error.context,
        "trace_id": structlog.contextvars.get_contextvars().get("trace_id", ""),
    }
    response = HttpResponse(msgspec.json.encode(body), status=status, content_type=CONTENT_TYPE)
    if status in _RETRY_LATER:
        response["Retry-After"] = str(max(1, math.ceil(error.retry_after or 1)))
    if status == 401:
        response["WWW-Authenticate"] = 'Bearer realm="duckmesh"'
    return response


def answer(exc: BaseException, request: HttpRequest) -> HttpResponse:
    """The problem that answers `exc`. What nobody foresaw is logged whole and told in one sentence."""
    known = translate(exc, request)
    if known is None:
        log.error(
            "unexpected_error",
            error_code=DuckMeshError.code,
            method=request.method,
            path=request.path,
            exc_info=exc,
        )
        known = DuckMeshError(UNEXPECTED)
    elif isinstance(known, Corrupt):
        log.error("corruption_met", error_code=known.code, path=request.path, exc_info=exc)
    elif isinstance(known, Unavailable | OutcomeUnknown):
        cause = kind_of(exc.__cause__ or exc)
        log.warning("dependency_unavailable", error_code=known.code, path=request.path, reason=cause)
    return problem(known)


def exception_handler(exc: Exception, context: dict[str, Any]) -> HttpResponse:
    """REST framework's hook: every exception of a view ends here. `Any` is its own type for the context."""
    request, view = context["request"], context["view"]
    response = answer(exc, request)
    if has_unread_body(request) and response.status_code != 401 and not view.open_to_everyone:
        discard_body(request)  # only of callers that are known: it may take them long
    if isinstance(exc, drf.MethodNotAllowed):
        response["Allow"] = ", ".join(view.allowed_methods)
    return response


def translate(exc: BaseException, request: HttpRequest) -> DuckMeshError | None:
    """`exc` as an error of ours, or None if nobody foresaw it."""
    match exc:
        case StoreDenied():
            return Unavailable("The object store does not let the service in.")
        case ObjectNotFound() | ObjectExists() | InvalidKey() | UnwritableData():
            return None  # about our own objects: to the caller, a fault of ours
        case DuckMeshError():
            return exc
        case Http404() | drf.NotFound():
            return NotFound("There is nothing at this address.")
        case drf.MethodNotAllowed():
            return errors.MethodNotAllowed(f"{request.method} is not possible here.")
        case drf.NotAcceptable():
            return errors.NotAcceptable("The answer does not exist in any media type that Accept allows.")
        case drf.UnsupportedMediaType():
            return errors.UnsupportedMediaType("This address does not take a body of that Content-Type.")
        case drf.NotAuthenticated() | drf.AuthenticationFailed():
            return errors.Unauthenticated("A valid API key is needed.")
        case drf.PermissionDenied() | PermissionDenied():
            return Denied("This is not allowed.")
        case drf.ValidationError():
            errors_by_member = _plain(exc.detail)
            return Invalid(f"The request is not valid: {_sentence(errors_by_member)}", errors=errors_by_member)
        case drf.ParseError():
            return Invalid("The request's body cannot be read.")
        case RequestDataTooBig():
            return PayloadTooLarge("The request's body is too large.")
        case UnreadablePostError():
            return Invalid("The request's body ended early.")
        case SuspiciousOperation():
            return Invalid("The request is not acceptable.")
        case OperationalError() | InterfaceError():
            return Unavailable(
                "The catalog does not answer. A write may have happened: repeat it with its idempotency keys."
            )
    return None


def _plain(detail: Any) -> JSON:  # REST framework's tree of lists, dicts and error strings
    if isinstance(detail, dict):
        return {str(key): _plain(value) for key, value in detail.items()}
    if isinstance(detail, list | tuple):
        return [_plain(value) for value in detail]
    return str(detail)


def _sentence(detail: JSON) -> str:
    if isinstance(detail, dict):
        return "; ".join(f"{key}: {_sentence(value)}" for key, value in detail.items())
    if isinstance(detail, list):
        return " ".join(_sentence(value) for value in detail)
    return str(detail)
