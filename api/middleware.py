"""What every request gets before anything else, whatever becomes of it: an id, a trace, and its log context."""

import re
import secrets
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

import structlog
from django.core.exceptions import DisallowedHost
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django_prometheus.middleware import PrometheusAfterMiddleware

from api import problems
from api.parsers import has_unread_body
from duckmesh.kernel import metrics
from duckmesh.kernel.acting import act_for_all, acting_for_nobody
from duckmesh.kernel.telemetry import traced
from duckmesh.kernel.traces import trace_of

_SANE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}")


class RequestContext:
    """Binds request_id and trace_id for the logs and the problems, and answers what nobody else answered.

    The request acts for nobody until its key is known, whoever was served before it.

    `X-Request-ID` is taken over if it is sane, else made; the trace comes from W3C `traceparent` if there is one.
    """

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        trace = trace_of(request.META.get("HTTP_TRACEPARENT"))
        trace_id = trace or secrets.token_hex(16)
        given = request.META.get("HTTP_X_REQUEST_ID", "")
        request_id = given if _SANE_ID.fullmatch(given) else secrets.token_hex(16) if trace else trace_id
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(request_id=request_id, trace_id=trace_id)
        parent, method = request.META.get("HTTP_TRACEPARENT"), request.method or ""
        with traced("request", parent=parent, method=method), acting_for_nobody():
            response = self._respond(request)
        response["X-Request-ID"] = request_id
        metrics.http_responses.labels(_route(request), _status_class(response.status_code)).inc()
        if response.status_code >= 400 and has_unread_body(request):
            # The server ends such a connection without a word, and the next request on it would be lost.
            response["Connection"] = "close"
        bodiless = response.status_code == HTTPStatus.NO_CONTENT  # and RFC 9110 allows it no length
        if isinstance(response, HttpResponse) and not bodiless and "Content-Length" not in response:
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


class OperatorsActForAll:
    """Who has logged in to the admin sees what is every tenant's."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        return self.get_response(request)

    # `Any`: Django's signature.
    def process_view(self, request: HttpRequest, *_: Any) -> None:
        """Django's hook, behind that which knows the user."""
        match = request.resolver_match
        if match is not None and match.app_name == "admin" and request.user.is_active and request.user.is_staff:
            act_for_all()


class ViewMetrics(PrometheusAfterMiddleware):  # type: ignore[misc]  # the package has no types
    """django-prometheus' metrics by view, without a series of its own for every word that a client sends as method."""

    # `Any`: the package's signature.
    def label_metric(self, metric: Any, request: HttpRequest, response: Any = None, **labels: str) -> Any:
        """The metric with labels of bounded values."""
        if "method" in labels:
            labels["method"] = self._method(request)
        return super().label_metric(metric, request, response, **labels)


def _route(request: HttpRequest) -> str:
    """The name of the address, not what a client made of it."""
    match = request.resolver_match
    if match is None:
        return "none"
    return match.namespaces[0] if match.namespaces else match.url_name or "none"


def _status_class(status: int) -> str:
    """2xx to 5xx; a wait or a statement that took longer than its sender allowed (504) is by itself."""
    return "timeout" if status == HTTPStatus.GATEWAY_TIMEOUT else f"{status // 100}xx"
