"""Group commit: small requests of one tenant that arrive while a commit is under way share the next one.

Nobody waits for company: a request that finds no commit under way goes alone, at once. Those that come meanwhile are
taken together by one of them, and each is answered when their commit is durable. A group in which anything is odd (a
known key, a table that changed, a limit) is undone as a whole, and each of its requests goes alone.
"""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from duckmesh.kernel.errors import OutcomeUnknown
from ingest.publishing import Publication, Published

MOST_REQUESTS = 64
MOST_RECORDS = 2_000
_FEW_RECORDS = 128
_FEW_BYTES = 64 * 1024

Alone = Callable[[Publication], Published]
Together = Callable[[Sequence[Publication]], Sequence[Published | None]]


def can_share(publication: Publication) -> bool:
    """Whether the request is small and plain enough to be committed with others."""
    batch = publication.batch
    return (
        batch.growth is None
        and not batch.excluded
        and publication.staged_id is None
        and batch.record_count <= _FEW_RECORDS
        and publication.size_bytes <= _FEW_BYTES
    )


@dataclass(eq=False)
class _Seat:
    """A request in the queue, and what its thread finds when it is woken: a result, an error, or that it leads."""

    publication: Publication
    woken: threading.Event = field(default_factory=threading.Event)
    leads: bool = False
    published: Published | None = None
    failure: Exception | None = None


class TenantQueue:
    """The requests of one tenant in this process. One thread at a time leads: it commits for itself and for others."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._waiting: list[_Seat] = []
        self._led = False

    def __len__(self) -> int:
        """How many requests wait for the commit that is under way."""
        return len(self._waiting)

    def publish(self, publication: Publication, *, alone: Alone, together: Together) -> Published:
        """What became of the request; raises what `alone` raises, or `OutcomeUnknown` as `together` does."""
        seat = _Seat(publication)
        with self._mutex:
            self._waiting.append(seat)
            seat.leads, self._led = not self._led, True
        if not seat.leads:
            seat.woken.wait()
        if seat.leads:
            self._lead(alone, together)
        if seat.failure is not None:
            raise seat.failure
        return seat.published or alone(publication)

    def _lead(self, alone: Alone, together: Together) -> None:
        seats: list[_Seat] = []
        try:
            with self._mutex:
                seats = self._take()
            if len(seats) == 1:
                _commit_alone(seats[0], alone)
            else:
                _commit_together(seats, together)
        finally:
            with self._mutex:
                following = self._waiting[0] if self._waiting else None
                self._led = following is not None
            if following is not None:
                following.leads = True
                following.woken.set()
            for seat in seats:
                seat.woken.set()

    def _take(self) -> list[_Seat]:
        """The oldest requests, as many as go together."""
        version = self._waiting[0].publication.ddl_version
        records = taken = 0
        for seat in self._waiting[:MOST_REQUESTS]:
            records += seat.publication.batch.record_count
            if seat.publication.ddl_version != version or (taken and records > MOST_RECORDS):
                break
            taken += 1
        seats, self._waiting = self._waiting[:taken], self._waiting[taken:]
        return seats


def _commit_alone(seat: _Seat, alone: Alone) -> None:
    try:
        seat.published = alone(seat.publication)
    except Exception as exc:  # noqa: BLE001 - it is raised again, by the same thread, when the next one leads
        seat.failure = exc


def _commit_together(seats: Sequence[_Seat], together: Together) -> None:
    for seat in seats:
        # What is known until the end is known: to try again could write records without keys twice.
        seat.failure = OutcomeUnknown(
            "The records may or may not have been accepted. Send them again with the same keys.", retry_after=1
        )
    try:
        results = together([seat.publication for seat in seats])
    except OutcomeUnknown:
        return
    except Exception:  # noqa: BLE001 - nothing was done: each request finds out by itself what is wrong, if it is its own
        results = [None] * len(seats)
    for seat, published in zip(seats, results, strict=True):
        seat.published, seat.failure = published, None
