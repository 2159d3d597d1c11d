"""Spans for an OpenTelemetry collector, if there is one. Without an endpoint nothing of OpenTelemetry is imported.

A span's trace is that of the logs. It has an error's kind and never its message, for the reason that logs have not.
"""

import importlib.util
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from duckmesh.kernel.logs import Service, kind_of
from duckmesh.kernel.traces import current_trace, span_of

Attribute = str | int | float | bool


class TelemetryMissing(Exception):
    """There is an endpoint, and nothing to speak to it with; the message says what to install."""


class _State:
    endpoint: str | None = None
    tracer: Any = None  # OpenTelemetry's, made by the first span: after any fork, when the service has its name


def export_spans(*, endpoint: str | None) -> None:
    """From now on spans go to this collector, or to none. Raises `TelemetryMissing`."""
    if endpoint is not None and importlib.util.find_spec("opentelemetry") is None:
        raise TelemetryMissing(
            "DUCKMESH_OTLP_ENDPOINT is set, which needs the packages of requirements/otel.txt:"
            " .venv/bin/python -m pip install --require-hashes -r requirements/otel.txt"
        )
    _State.endpoint, _State.tracer = endpoint, None


@contextmanager
def traced(name: str, *, parent: str | None = None, **about: Attribute) -> Iterator[None]:
    """The block is a span, and those within it are its children. `parent` is a `traceparent` from outside."""
    if _State.endpoint is None:
        yield
        return
    from opentelemetry import trace

    span = _tracer().start_span(name, context=_context_of(parent), attributes=about)
    with trace.use_span(span, end_on_exit=True, record_exception=False, set_status_on_exception=False):
        try:
            yield
        except BaseException as exc:
            span.set_status(trace.StatusCode.ERROR, kind_of(exc))
            raise


@contextmanager
def timed(name: str, **about: Attribute) -> Iterator[None]:
    """The block is a span without children: it may end in another thread than it began in, as a generator's does."""
    if _State.endpoint is None:
        yield
        return
    from opentelemetry.trace import StatusCode

    span = _tracer().start_span(name, attributes=about)
    try:
        yield
    except GeneratorExit:
        raise
    except BaseException as exc:
        span.set_status(StatusCode.ERROR, kind_of(exc))
        raise
    finally:
        span.end()


# `Any`: OpenTelemetry's, whose types are not there without it.
def _context_of(parent: str | None) -> Any:
    """None, which is the present context, unless somebody outside began the trace."""
    known = span_of(parent)
    if known is None:
        return None
    from opentelemetry import trace

    context = trace.SpanContext(
        trace_id=int(known[0], 16),
        span_id=int(known[1], 16),
        is_remote=True,
        trace_flags=trace.TraceFlags(trace.TraceFlags.SAMPLED),
    )
    return trace.set_span_in_context(trace.NonRecordingSpan(context))


def _tracer() -> Any:
    if _State.tracer is None:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.sdk.trace.id_generator import RandomIdGenerator

        class OfTheLogs(RandomIdGenerator):  # type: ignore[misc]  # see above
            """A trace that begins here has the id that the logs have."""

            def generate_trace_id(self) -> int:
                return int(current_trace() or secrets.token_hex(16), 16)

        resource = Resource.create({"service.name": Service.name, "service.namespace": "duckmesh"})
        provider = TracerProvider(resource=resource, id_generator=OfTheLogs())
        exporter = OTLPSpanExporter(endpoint=f"{str(_State.endpoint).rstrip('/')}/v1/traces")
        provider.add_span_processor(BatchSpanProcessor(exporter))
        _State.tracer = provider.get_tracer("duckmesh")
    return _State.tracer
