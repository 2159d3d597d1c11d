"""Spans of time as settings and options spell them, and ladders of them. Pure."""

import re
from dataclasses import dataclass
from datetime import timedelta

PATTERN = r"^\s*\d+(\.\d+)?(ms|s|m|h|d|)\s*$"
"""What `span` reads, for documents."""

LONGEST = timedelta(days=36_525)
"""A hundred years: what is longer cannot be counted back from now everywhere, and nobody means it."""

_SECONDS = {"ms": 0.001, "": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}


@dataclass(frozen=True, kw_only=True)
class Rung:
    """One of each `every` is kept, until it is older than `until`."""

    every: timedelta
    until: timedelta


def span(text: str) -> timedelta:
    """What `500ms`, `30s`, `5m`, `2h`, `7d` or a bare number of seconds tells. `ValueError` for what tells nothing."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(ms|s|m|h|d|)", text.strip())
    if not match:
        raise ValueError("needs a duration such as 500ms, 30s, 5m, 2h or 7d (a bare number is seconds)")
    seconds = float(match[1]) * _SECONDS[match[2]]
    if seconds > LONGEST.total_seconds():
        raise ValueError("needs a duration of at most a hundred years")
    return timedelta(seconds=seconds)


def spelled(length: timedelta) -> str:
    """The shortest text for the span."""
    milliseconds = round(length.total_seconds() * 1000)
    for unit, size in (("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000)):
        if milliseconds >= size and milliseconds % size == 0:
            return f"{milliseconds // size}{unit}"
    return f"{milliseconds}ms"


def ladder(text: str) -> tuple[Rung, ...]:
    """The rungs of `1m:1d,1d:30d`: one a minute for a day, then one a day for thirty. `ValueError` for other text."""
    rungs: list[Rung] = []
    for part in text.split(",") if text.strip() else ():
        every, colon, until = part.partition(":")
        if not colon:
            raise ValueError("needs steps such as 1m:1d,1d:30d (one a minute for a day, one a day for 30 days)")
        rung = Rung(every=span(every), until=span(until))
        if not timedelta(0) < rung.every <= rung.until:
            raise ValueError(f"{part.strip()} keeps one of each span for at least that span, which is not nothing")
        if rungs and (rung.every <= rungs[-1].every or rung.until <= rungs[-1].until):
            raise ValueError("needs steps that grow: each keeps fewer, for longer, than the one before it")
        rungs.append(rung)
    return tuple(rungs)
