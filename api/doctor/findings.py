"""What a check of the doctor is, and what it finds. Nothing in it is a path, an address or a tenant's."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from duckmesh.kernel.errors import JSON


class State(StrEnum):
    """How a check ended: as it must be, worth knowing, or to be mended."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"


class Asks(StrEnum):
    """What a check asks. Those that ask the same do it one after the other: a server that hangs delays only them."""

    POSTGRESQL = "postgresql"
    REDIS = "redis"
    STORE = "store"
    MACHINE = "machine"


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What a check found. `measured` holds the numbers that it judged by."""

    state: State = State.OK
    message: str
    measured: Mapping[str, JSON] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Check:
    """A check by its name, and the page in `runbooks/` that says what to do when it fails."""

    name: str
    asks: Asks
    runbook: str
    look: Callable[[], Verdict]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A check and its verdict. `runbook` is empty if there is nothing to do."""

    check: str
    state: State
    message: str
    runbook: str
    measured: Mapping[str, JSON]


def well(message: str, **measured: JSON) -> Verdict:
    """As it must be."""
    return Verdict(message=message, measured=measured)


def odd(message: str, **measured: JSON) -> Verdict:
    """Worth knowing."""
    return Verdict(state=State.WARNING, message=message, measured=measured)


def wrong(message: str, **measured: JSON) -> Verdict:
    """To be mended."""
    return Verdict(state=State.FAILED, message=message, measured=measured)


def finding(check: Check, verdict: Verdict) -> Finding:
    """What is told of the check."""
    return Finding(
        check=check.name,
        state=verdict.state,
        message=verdict.message,
        runbook="" if verdict.state == State.OK else f"runbooks/{check.runbook}.md",
        measured=verdict.measured,
    )


def worst(findings: "list[Finding]") -> State:
    """The state of the whole."""
    states = {found.state for found in findings}
    return next((state for state in (State.FAILED, State.WARNING) if state in states), State.OK)
