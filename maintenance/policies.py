"""When a run is due by itself. Pure: the rows are read, and acted upon, by `maintenance.schedule`."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, time, timedelta

from duckmesh.kernel.errors import JSON
from maintenance.job import Kind, Scope


@dataclass(frozen=True, kw_only=True)
class Window:
    """A part of each day, in UTC. One that ends before it starts goes over midnight."""

    start: time
    end: time

    def holds(self, instant: datetime) -> bool:
        """Whether `instant`, in UTC, lies in it."""
        at = instant.time()
        if self.start < self.end:
            return self.start <= at < self.end
        return at >= self.start or at < self.end


@dataclass(frozen=True, kw_only=True)
class Policy:
    """What an operator wants to happen by itself, for whatever `scope` covers."""

    kind: Kind
    name: str
    scope: Scope
    enabled: bool
    interval: timedelta
    created_at: datetime
    window: Window | None = None
    options: Mapping[str, JSON] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.kind.value} {self.name} every {self.interval}"


@dataclass(frozen=True, kw_only=True)
class Subject:
    """Something that runs of a kind are about, and what is known of it.

    `change` numbers its newest change; None where nothing has changed that a run could be about. Where changes do not
    matter it is 0.
    """

    scope: Scope
    since: datetime
    change: int | None = 0


@dataclass(frozen=True, kw_only=True)
class Last:
    """The last run that a policy has asked for: when, what it saw, and whether it is still live or has failed."""

    requested_at: datetime
    change: int | None
    live: bool
    failed: bool


def effective(policies: Iterable[Policy], scope: Scope) -> Policy | None:
    """The most specific of these policies, all of one kind and name, that covers the scope."""
    covering = [policy for policy in policies if _covers(policy.scope, scope)]
    return max(covering, key=lambda policy: _specific(policy.scope), default=None)


def is_due(policy: Policy, subject: Subject, last: Last | None, *, now: datetime) -> bool:
    """Whether a run of the subject is to be asked for now.

    However long nobody looked, it is one run that is due. A subject without changes since the last run is left alone,
    unless that run failed.
    """
    if not policy.enabled or (policy.window is not None and not policy.window.holds(now)):
        return False
    if due_at(policy, subject, last) > now:
        return False
    if last is None:
        return subject.change is not None
    if last.live:
        return False
    changed = subject.change is not None and (subject.change == 0 or subject.change != last.change)
    return changed or last.failed


def due_at(policy: Policy, subject: Subject, last: Last | None) -> datetime:
    """From when on the next run of the subject may be asked for, its window aside."""
    begin = max(policy.created_at, subject.since) if last is None else last.requested_at
    return begin + policy.interval


def _covers(wide: Scope, narrow: Scope) -> bool:
    if wide.table_id is not None:
        return wide.table_id == narrow.table_id
    return wide.tenant_id in (None, narrow.tenant_id)


def _specific(scope: Scope) -> int:
    return (scope.tenant_id is not None) + (scope.table_id is not None)
