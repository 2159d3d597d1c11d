"""W3C trace context: the trace that a request brought or began goes on in the messages that follow from it.

A message has one trace, its own. One that several requests led to names up to `MOST_LINKS` of their traces beside it.
"""

import re
import secrets
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from itertools import islice

import structlog

HEADER = "traceparent"
LINKS = "duckmesh_trace_links"
MOST_LINKS = 8
_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-[0-9a-f]{2}(-.*)?")
_TRACE_ID = re.compile(r"(?!0{32})[0-9a-f]{32}")


def trace_of(traceparent: object) -> str | None:
    """The trace that the header names; None if there is none, or it is not well formed."""
    found = span_of(traceparent)
    return found[0] if found else None


def span_of(traceparent: object) -> tuple[str, str] | None:
    """The trace and the span that the header names; None as above."""
    found = _TRACEPARENT.fullmatch(traceparent) if isinstance(traceparent, str) else None
    return (found[1], found[2]) if found else None


def current_trace() -> str | None:
    """The trace that this thread works for."""
    trace_id: str | None = structlog.contextvars.get_contextvars().get("trace_id")
    return trace_id


def working_for(traces: Iterable[str]) -> AbstractContextManager[None]:
    """What this thread does in the block, it does for these traces: in the first of them, beside the others."""
    known: list[str | None] = list(islice(traces, MOST_LINKS))
    first, *others = known or [None]
    bound = {"trace_id": first, "trace_links": others} if others else {"trace_id": first}
    return structlog.contextvars.bound_contextvars(**bound)


def headers() -> dict[str, object]:
    """What a message says of the traces that this thread works for."""
    bound = structlog.contextvars.get_contextvars()
    if not bound.get("trace_id"):
        return {}
    found: dict[str, object] = {HEADER: f"00-{bound['trace_id']}-{secrets.token_hex(8)}-01"}
    if bound.get("trace_links"):
        found[LINKS] = bound["trace_links"]
    return found


def go_on(message: Mapping[str, object]) -> None:
    """This thread works for what the message's headers say, and for nothing that it worked for before."""
    links = message.get(LINKS)
    known = [link for link in links if isinstance(link, str)] if isinstance(links, list) else []
    structlog.contextvars.clear_contextvars()
    structlog.contextvars.bind_contextvars(trace_id=trace_of(message.get(HEADER)) or secrets.token_hex(16))
    if others := [link for link in known if _TRACE_ID.fullmatch(link)][:MOST_LINKS]:
        structlog.contextvars.bind_contextvars(trace_links=others)
