"""Structured logs: one JSON object a line, with the context that the edges bind. docs/logging.md lists the events.

What errors say of themselves is not written: a message of PostgreSQL, Arrow or DuckDB may quote a record, a literal of
a statement or an address with its password. A traceback has the places and the kinds of its errors.
"""

import logging
import sys
import traceback
from collections.abc import Iterator

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

ON_EVERY_LINE = ("tenant_id", "trace_id", "request_id", "error_code")

# Two lines for every poke would hide what happens; what a task does it says itself.
_CHATTY = ("celery.worker.strategy", "celery.app.trace")


class Service:
    """The name of what this process belongs to: `api`, `worker-…`, `beat`, `runners`, or `manage`, a command."""

    name = "manage"


def configure_logs(*, level: str, json: bool) -> None:
    """From now on structlog and the standard library write the same lines to stderr."""
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        _complete,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _without_messages,
    ]
    renderer: Processor = structlog.processors.JSONRenderer() if json else structlog.dev.ConsoleRenderer()
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(_is_ours_or_matters)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[_of_a_library, *shared],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for name in _CHATTY:
        logging.getLogger(name).setLevel(logging.WARNING)
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelName(level)),
        cache_logger_on_first_use=True,
    )


def log_context() -> dict[str, str]:
    """What this thread's lines are about, for another process that goes on with it."""
    bound = structlog.contextvars.get_contextvars()
    return {member: str(bound[member]) for member in ON_EVERY_LINE if bound.get(member)}


def kind_of(error: BaseException) -> str:
    """What kind of error it is, with its code if the system or PostgreSQL gave it one; nothing that it says."""
    name = type(error).__qualname__
    state = getattr(error, "pgcode", None) or getattr(error.__cause__, "pgcode", None)
    if isinstance(state, str):
        return f"{name} {state}"
    if isinstance(error, OSError) and isinstance(error.strerror, str) and error.errno is not None:
        return f"{name} {error.strerror}"
    return name


def _complete(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Every line has the same members; null is what it is not about."""
    event["service"] = Service.name
    for member in ON_EVERY_LINE:
        event[member] = event.get(member) or None
    return event


def _without_messages(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    error = event.pop("exc_info", None)
    if error is True:
        error = sys.exc_info()
    if isinstance(error, tuple):
        error = error[1]
    if isinstance(error, BaseException):
        event["exception"] = "".join(_traced(error))
    return event


def _traced(error: BaseException) -> Iterator[str]:
    """The places of the error and of what caused it, the first cause first."""
    before = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if before is not None:
        yield from _traced(before)
    yield from traceback.format_tb(error.__traceback__)
    yield f"{type(error).__module__}.{kind_of(error)}\n"


def _of_a_library(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """A library's line says whose it is; Celery's of a task that failed, not what the error said."""
    record: logging.LogRecord = event["_record"]
    event["logger"] = record.name
    if record.name == "celery.app.trace":
        about = getattr(record, "data", {})
        event.update(event="task_failed", task=about.get("name"), task_id=about.get("id"))
    return event


def _is_ours_or_matters(record: logging.LogRecord) -> bool:
    """Libraries write addresses, headers and arguments when they debug."""
    return isinstance(record.msg, dict) or record.levelno >= logging.INFO
