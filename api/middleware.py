"""What every request gets before anything else, whatever becomes of it: an id, a trace, and its log context."""

import re
import secrets
from collections.abc import Callable

import structlog
from django.core.exceptions import DisallowedHost
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase

from api import problems
from api.parsers import has_unread_body

_SANE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}")
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}(-.*)?")


class RequestContext:
    """Binds request_id and trace_id for the logs and the problems, and answers what nobody else answered.

    `X-Request-ID` is taken over if it is sane, else made; the trace comes from W3C `traceparent` if there is one.
    """

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        trace = _TRACEPARENT.fullmatch(request.META.get("HTTP_TRACEPARENT", ""))
        trace_id = trace[1] if trace else secrets.token_hex(16)
        given = request.META.get("HTTP_X_REQUEST_ID", "")
        request_id = given if _SANE_ID.fullmatch(given) else secrets.token_hex(16) if trace else trace_id
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(request_id=request_id, trace_id=trace_id)
        response = self._respond(request)
        response["X-Request-ID"] = request_id
        if response.status_code >= 400 and has_unread_body(request):
            # The server ends such a connection without a word, and the next request on it would be lost.
            response["Connection"] = "close"
        if isinstance(response, HttpResponse) and "Content-Length" not in response:
            response["Content-Length"] = str(len(response.content))
        return response

    def _respond(self, request: HttpRequest) -> HttpResponseBase:
        try:
            request.get_host()
        except DisallowedHost as exc:
            return problems.answer(exc, request)
        return self.get_response(request)

    def process_exception(self, request: HttpRequest, exception: Exception) -> HttpResponse | None:
        """Views outside the API (the admin) may fail too: the same shape, the same silence about details."""
        return problems.answer(exception, request)
