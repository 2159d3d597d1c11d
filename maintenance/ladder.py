"""Which snapshots retention keeps: by count, by age and by pins. Pure.

Snapshots are looked at from the newest on. Of those that fall into one span of a rung, such as a minute, the newest
that is kept stands for the span; so what is kept once is kept until its rung ends, however often this is asked.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from duckmesh.kernel.spans import Rung, spelled

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, kw_only=True)
class RetentionPolicy:
    """Every snapshot is kept for `keep_all_for`, then as the rungs say; the newest `keep_last` however old they are."""

    keep_last: int = 1
    keep_all_for: timedelta = timedelta(hours=1)
    rungs: tuple[Rung, ...] = (
        Rung(every=timedelta(minutes=1), until=timedelta(days=1)),
        Rung(every=timedelta(days=1), until=timedelta(days=30)),
    )


@dataclass(frozen=True, kw_only=True)
class Seen:
    """A snapshot that exists."""

    snapshot_id: int
    snapshot_time: datetime


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What becomes of a snapshot, and why."""

    snapshot_id: int
    kept: bool
    reason: str


@dataclass(kw_only=True)
class Judge:
    """Judges the snapshots of one tenant, which must come newest first, in as many portions as they come."""

    policy: RetentionPolicy
    now: datetime
    _count: int = 0
    _spans: dict[Rung, int] = field(default_factory=dict)

    def judge(self, newest_first: Iterable[Seen], *, held: Mapping[int, str]) -> Iterator[Verdict]:
        """A verdict for each; `held` says of the snapshots that live pins hold what holds them."""
        for snapshot in newest_first:
            self._count += 1
            kept, reason = self._of(snapshot, held.get(snapshot.snapshot_id))
            if kept:
                for rung in self.policy.rungs:
                    self._spans[rung] = _span(snapshot, rung)
            yield Verdict(snapshot_id=snapshot.snapshot_id, kept=kept, reason=reason)

    def _of(self, snapshot: Seen, holder: str | None) -> tuple[bool, str]:
        if self._count == 1:
            return True, "the latest"
        if self._count <= self.policy.keep_last:
            return True, f"one of the newest {self.policy.keep_last}"
        if holder is not None:
            return True, holder
        age = self.now - snapshot.snapshot_time
        if age <= self.policy.keep_all_for:
            return True, f"not older than {spelled(self.policy.keep_all_for)}"
        rung = next((rung for rung in self.policy.rungs if age <= rung.until), None)
        if rung is None:
            oldest = max([self.policy.keep_all_for, *(rung.until for rung in self.policy.rungs)])
            return False, f"older than {spelled(oldest)}"
        if self._spans.get(rung) == _span(snapshot, rung):
            return False, f"a newer one of the same {spelled(rung.every)} is kept"
        return True, f"the last of its {spelled(rung.every)}"


def _span(snapshot: Seen, rung: Rung) -> int:
    return (snapshot.snapshot_time - _EPOCH) // rung.every
