"""What clients did and saw, as values: the input of `tests.invariants`. Times are monotonic nanoseconds."""

import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum


class Outcome(StrEnum):
    """What the client knows. Unknown: it may or may not have happened (the connection broke, a 5xx, no answer yet)."""

    DONE = "done"
    REFUSED = "refused"
    UNKNOWN = "unknown"


@dataclass(frozen=True, kw_only=True)
class Sent:
    """A record as it was sent. The same `identity` means the same content; with a key it may be written only once."""

    identity: str
    key: str | None = None


@dataclass(frozen=True, kw_only=True)
class Ack:
    """The body of a 200 to an ingest. `visible_in` is the snapshot that the answer says shows it."""

    token: int
    accepted: int
    duplicates: int = 0
    visible_in: int | None = None
    replayed: bool = False


@dataclass(frozen=True, kw_only=True)
class Ingest:
    """One attempt to write, of one request."""

    tenant: str
    table: str
    records: tuple[Sent, ...]
    invoked: int
    returned: int | None = None
    outcome: Outcome = Outcome.UNKNOWN
    ack: Ack | None = None
    error: str | None = None


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a query returned: by table, how often each record's identity was seen."""

    snapshot_id: int
    watermark: int
    snapshot_time: datetime
    rows: Mapping[str, Mapping[str, int]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Read:
    """One query. Without `asked_snapshot` it reads the latest; `min_token` makes it a barrier."""

    tenant: str
    invoked: int
    returned: int | None = None
    outcome: Outcome = Outcome.UNKNOWN
    min_token: int | None = None
    asked_snapshot: int | None = None
    answer: Answer | None = None
    error: str | None = None


@dataclass(frozen=True, kw_only=True)
class Drop:
    """A table was dropped; a table of the same name that is created later is another one."""

    tenant: str
    table: str
    invoked: int
    returned: int | None = None
    outcome: Outcome = Outcome.UNKNOWN
    error: str | None = None


@dataclass(frozen=True, kw_only=True)
class History:
    """Everything that the clients of a test did, in no order: the times say it."""

    ingests: tuple[Ingest, ...] = ()
    reads: tuple[Read, ...] = ()
    drops: tuple[Drop, ...] = ()


class Recorder:
    """Collects operations from any number of threads. What was begun and never ended has an unknown outcome."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._operations: dict[int, Ingest | Read | Drop] = {}

    def began_ingest(self, *, tenant: str, table: str, records: Iterable[Sent]) -> int:
        """The write is about to be sent; the number names it when it ends."""
        return self._begin(Ingest(tenant=tenant, table=table, records=tuple(records), invoked=time.monotonic_ns()))

    def began_read(self, *, tenant: str, min_token: int | None = None, asked_snapshot: int | None = None) -> int:
        """The query is about to be sent."""
        now = time.monotonic_ns()
        return self._begin(Read(tenant=tenant, min_token=min_token, asked_snapshot=asked_snapshot, invoked=now))

    def began_drop(self, *, tenant: str, table: str) -> int:
        """The table's end is about to be asked for."""
        return self._begin(Drop(tenant=tenant, table=table, invoked=time.monotonic_ns()))

    def acknowledged(self, number: int, ack: Ack) -> None:
        """The write was answered by 200, or by an error that says that it is accepted."""
        self._end(number, Outcome.DONE, ack=ack)

    def answered(self, number: int, answer: Answer) -> None:
        """The query was answered."""
        self._end(number, Outcome.DONE, answer=answer)

    def dropped(self, number: int) -> None:
        """The table is gone."""
        self._end(number, Outcome.DONE)

    def refused(self, number: int, error: str) -> None:
        """The answer says that nothing was done."""
        self._end(number, Outcome.REFUSED, error=error)

    def unknown(self, number: int, error: str) -> None:
        """There was no answer, or one that does not say what happened."""
        self._end(number, Outcome.UNKNOWN, error=error)

    def history(self) -> History:
        """All operations up to now."""
        with self._lock:
            operations = list(self._operations.values())
        return History(
            ingests=tuple(operation for operation in operations if isinstance(operation, Ingest)),
            reads=tuple(operation for operation in operations if isinstance(operation, Read)),
            drops=tuple(operation for operation in operations if isinstance(operation, Drop)),
        )

    def _begin(self, operation: Ingest | Read | Drop) -> int:
        with self._lock:
            number = len(self._operations)
            self._operations[number] = operation
        return number

    def _end(self, number: int, outcome: Outcome, **detail: Ack | Answer | str) -> None:
        returned = time.monotonic_ns()
        with self._lock:
            operation = self._operations[number]
            assert operation.returned is None, "an operation ends once"
            # replace() refuses a field that this kind of operation does not have, which mypy cannot see.
            self._operations[number] = replace(operation, returned=returned, outcome=outcome, **detail)  # type: ignore[arg-type]
