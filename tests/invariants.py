"""The history checker: recorded operations in, broken promises out.

It judges only by what clients were told. A write with an unknown outcome may be there, whole, or not; an acknowledged
one must be in every snapshot whose watermark reaches its token; a refused one must never be seen.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import pairwise

from tests.history import Answer, Drop, History, Ingest, Outcome, Read

_NEVER = 2**63  # later than every monotonic time


class Kind(StrEnum):
    """The ways in which a history can contradict the promises."""

    LOST = "an acknowledged record is missing from a snapshot whose watermark has reached its token"
    TWICE = "a record was seen more often than it was written"
    PHANTOM = "a record was seen that was refused, never sent, or not sent yet"
    WRONG_TABLE = "a record was seen in a table it was not written to"
    TORN = "a part of a request was seen without the rest"
    AHEAD = "a record was seen in a snapshot whose watermark has not reached its token"
    BARRIER_MISSED = "a barrier's answer lacks an acknowledged write that its token covers"
    BARRIER_SHORT = "a barrier was answered by a snapshot below its token"
    TOKEN_REUSED = "two acknowledged writes hold one token"
    TOKEN_ORDER = "a write that began after another's acknowledgement got a smaller token"
    TOKEN_GAP = "tokens are missing that no write of unknown outcome can hold"
    MISCOUNTED = "accepted and duplicate records do not add up to those sent"
    WATERMARK_FELL = "a later snapshot has a smaller watermark"
    SNAPSHOT_CHANGED = "one snapshot was read with two contents"
    SNAPSHOT_ORDER = "snapshot ids, their times and the order of the reads contradict each other"
    WRONG_SNAPSHOT = "another snapshot answered than the one that was asked for"


@dataclass(frozen=True, kw_only=True)
class Violation:
    """One broken promise, with enough to find it in the history."""

    kind: Kind
    message: str

    def __str__(self) -> str:
        return f"{self.kind.name}: {self.kind}: {self.message}"


def check(history: History) -> list[Violation]:
    """Every violation in the history, each cause named once a read or a pair of operations."""
    violations: list[Violation] = []
    written = _Written.of(history)
    for read in history.reads:
        if read.answer is not None:
            violations += _check_answer(read, read.answer, written)
    for tenant in sorted({ingest.tenant for ingest in history.ingests}):
        violations += _check_tokens([ingest for ingest in history.ingests if ingest.tenant == tenant])
    for tenant in sorted({read.tenant for read in history.reads}):
        violations += _check_snapshots(tenant, history)
    return violations


@dataclass(frozen=True, kw_only=True)
class _Identity:
    """What was done with one record in one table: every attempt that was not refused, and how often it holds it."""

    keyed: bool
    attempts: tuple[tuple[int, int], ...]  # index of the ingest, occurrences in it


@dataclass(frozen=True, kw_only=True)
class _Written:
    ingests: tuple[Ingest, ...]
    drops: Mapping[tuple[str, str], list[Drop]]
    identities: Mapping[tuple[str, str], Mapping[str, _Identity]]
    tables_of: Mapping[str, frozenset[tuple[str, str]]] = field(default_factory=dict)

    @classmethod
    def of(cls, history: History) -> "_Written":
        attempts: dict[tuple[str, str], dict[str, list[tuple[int, int]]]] = defaultdict(lambda: defaultdict(list))
        keyed: dict[tuple[str, str, str], bool] = {}
        tables: dict[str, set[tuple[str, str]]] = defaultdict(set)
        for index, ingest in enumerate(history.ingests):
            place = (ingest.tenant, ingest.table)
            for identity, occurrences in Counter(record.identity for record in ingest.records).items():
                tables[identity].add(place)
                known = attempts[place][identity]
                if ingest.outcome != Outcome.REFUSED:
                    known.append((index, occurrences))
            for record in ingest.records:
                keyed[(*place, record.identity)] = record.key is not None
        drops: dict[tuple[str, str], list[Drop]] = defaultdict(list)
        for drop in history.drops:
            if drop.outcome != Outcome.REFUSED:
                drops[(drop.tenant, drop.table)].append(drop)
        return cls(
            ingests=history.ingests,
            drops=drops,
            identities={
                place: {
                    identity: _Identity(keyed=keyed[(*place, identity)], attempts=tuple(found))
                    for identity, found in by_identity.items()
                }
                for place, by_identity in attempts.items()
            },
            tables_of={identity: frozenset(places) for identity, places in tables.items()},
        )


def _check_answer(read: Read, answer: Answer, written: _Written) -> Iterator[Violation]:
    what = f"tenant {read.tenant}, snapshot {answer.snapshot_id}, watermark {answer.watermark}"
    if read.asked_snapshot is not None and read.asked_snapshot != answer.snapshot_id:
        yield Violation(kind=Kind.WRONG_SNAPSHOT, message=f"asked for {read.asked_snapshot}: {what}")
    if read.min_token is not None and answer.watermark < read.min_token:
        yield Violation(kind=Kind.BARRIER_SHORT, message=f"asked for token {read.min_token}: {what}")
    found: dict[Kind, list[str]] = defaultdict(list)
    for table, rows in answer.rows.items():
        for kind, example in _check_rows(read, answer, (read.tenant, table), rows, written):
            found[kind].append(f"{table}/{example}")
    for kind, examples in found.items():
        more = f" and {len(examples) - 3} more" if len(examples) > 3 else ""
        yield Violation(kind=kind, message=f"{', '.join(examples[:3])}{more}: {what}, barrier {read.min_token}")


def _check_rows(
    read: Read, answer: Answer, place: tuple[str, str], rows: Mapping[str, int], written: _Written
) -> Iterator[tuple[Kind, str]]:
    identities = written.identities.get(place, {})
    drops = written.drops.get(place, [])
    for identity in rows:
        attempts = identities[identity].attempts if identity in identities else ()
        if not any(_before(written.ingests[index], read) for index, _ in attempts):
            elsewhere = written.tables_of.get(identity, frozenset()) - {place}
            yield (Kind.WRONG_TABLE if elsewhere else Kind.PHANTOM), identity
        elif _went_with_a_drop(read, identities[identity], drops, written.ingests):
            yield Kind.WRONG_TABLE, identity
    due = {
        index
        for index, ingest in enumerate(written.ingests)
        if (ingest.tenant, ingest.table) == place
        if _is_due(ingest, answer) and not _may_be_dropped(ingest, read, drops)
    }
    torn: dict[tuple[tuple[int, int], ...], set[int]] = defaultdict(set)
    for identity, known in identities.items():
        count = rows.get(identity, 0)
        at_least = sum(times for index, times in known.attempts if index in due)
        at_most = sum(times for _, times in known.attempts)
        if known.keyed:
            at_least, at_most = min(1, at_least), min(1, at_most)
        if count < at_least:
            covered = any(_covers(read, written.ingests[index]) for index, _ in known.attempts if index in due)
            yield (Kind.BARRIER_MISSED if covered else Kind.LOST), identity
        if count > at_most > 0:
            yield Kind.TWICE, identity
        if count and _is_ahead(identity, known, answer, written.ingests):
            yield Kind.AHEAD, identity
        if not at_least:
            torn[known.attempts].add(min(count, at_most))
    for attempts, counts in torn.items():
        if len(counts) > 1:
            first = written.ingests[attempts[0][0]]
            yield Kind.TORN, f"the request of {len(first.records)} records from {first.records[0].identity}"


def _before(ingest: Ingest, read: Read) -> bool:
    return ingest.invoked < (_NEVER if read.returned is None else read.returned)


def _is_due(ingest: Ingest, answer: Answer) -> bool:
    """Whether the answer's snapshot says of itself that it shows the write."""
    if ingest.ack is None:
        return False
    visible_in = ingest.ack.visible_in
    return ingest.ack.token <= answer.watermark or (visible_in is not None and visible_in <= answer.snapshot_id)


def _covers(read: Read, ingest: Ingest) -> bool:
    return ingest.ack is not None and read.min_token is not None and ingest.ack.token <= read.min_token


def _may_be_dropped(ingest: Ingest, read: Read, drops: Iterable[Drop]) -> bool:
    """Whether the write may have gone with its table before the read's snapshot."""
    return any(
        ingest.invoked <= (_NEVER if drop.returned is None else drop.returned)
        and (read.asked_snapshot is not None or drop.invoked <= (_NEVER if read.returned is None else read.returned))
        for drop in drops
    )


def _went_with_a_drop(read: Read, known: _Identity, drops: Iterable[Drop], ingests: tuple[Ingest, ...]) -> bool:
    """Whether every write of the record ended before a drop that ended before the read of the latest snapshot."""
    attempts = [ingests[index] for index, _ in known.attempts]
    return read.asked_snapshot is None and any(
        drop.outcome == Outcome.DONE
        and drop.returned is not None
        and drop.returned < read.invoked
        and all(attempt.returned is not None and attempt.returned < drop.invoked for attempt in attempts)
        for drop in drops
    )


def _is_ahead(identity: str, known: _Identity, answer: Answer, ingests: tuple[Ingest, ...]) -> bool:
    """Whether the record's exact token is known (one attempt, all of it accepted) and above the watermark."""
    if len(known.attempts) != 1 or known.attempts[0][1] != 1:
        return False
    ingest = ingests[known.attempts[0][0]]
    if ingest.ack is None or ingest.ack.replayed or ingest.ack.accepted != len(ingest.records):
        return False
    first = ingest.ack.token - len(ingest.records) + 1
    if first > answer.watermark:
        return True
    if ingest.ack.token <= answer.watermark:
        return False
    position = next(place for place, record in enumerate(ingest.records) if record.identity == identity)
    return first + position > answer.watermark


def _check_tokens(ingests: list[Ingest]) -> Iterator[Violation]:
    acknowledged = [(ingest, ingest.ack) for ingest in ingests if ingest.ack is not None]
    for ingest, ack in acknowledged:
        if ack.accepted + ack.duplicates != len(ingest.records):
            message = f"{ack.accepted} + {ack.duplicates} of {len(ingest.records)}, token {ack.token}"
            yield Violation(kind=Kind.MISCOUNTED, message=message)
    # A replay tells the tokens of a first attempt, whose own answer may have been lost.
    replays = {(ack.token, ack.accepted): ingest for ingest, ack in acknowledged if ack.accepted and ack.replayed}
    firsts = [(ack.token, ack.accepted, ingest) for ingest, ack in acknowledged if ack.accepted and not ack.replayed]
    told = {(token, accepted) for token, accepted, _ in firsts}
    firsts += [(*known, ingest) for known, ingest in replays.items() if known not in told]
    writes = [(token - accepted + 1, token, ingest) for token, accepted, ingest in firsts]
    writes.sort(key=lambda write: write[:2])
    unknown = [ingest for ingest in ingests if ingest.outcome == Outcome.UNKNOWN]
    missing = 0
    for (_, last, _), (first, end, later) in pairwise(writes):
        if first <= last:
            yield Violation(kind=Kind.TOKEN_REUSED, message=f"{later.tenant}: {first}…{end} begins below {last + 1}")
        elif first > last + 1:
            missing += first - last - 1
            before = sum(len(u.records) for u in unknown if u.invoked < (later.returned or _NEVER))
            if missing > before:
                yield Violation(kind=Kind.TOKEN_GAP, message=f"{later.tenant}: {last + 1}…{first - 1}")
    yield from _check_token_order(writes)


def _check_token_order(writes: Iterable[tuple[int, int, Ingest]]) -> Iterator[Violation]:
    """A sweep over time: the greatest token whose acknowledgement had arrived when a write began."""
    writes = [write for write in writes if not (write[2].ack and write[2].ack.replayed)]
    ended = sorted(writes, key=lambda write: write[2].returned or _NEVER)
    position, latest = 0, (0, 0)
    for first, last, ingest in sorted(writes, key=lambda write: write[2].invoked):
        while position < len(ended) and (ended[position][2].returned or _NEVER) < ingest.invoked:
            latest = max(latest, (ended[position][1], ended[position][0]))
            position += 1
        if last < latest[1]:  # wholly below: an overlap is TOKEN_REUSED
            message = f"{ingest.tenant}: {first}…{last} came after {latest[1]}…{latest[0]} was acknowledged"
            yield Violation(kind=Kind.TOKEN_ORDER, message=message)


def _check_snapshots(tenant: str, history: History) -> Iterator[Violation]:
    reads = [(read, read.answer) for read in history.reads if read.tenant == tenant and read.answer is not None]
    seen: dict[int, Answer] = {}
    contents: dict[tuple[int, str], Mapping[str, int]] = {}
    for _, answer in reads:
        known = seen.setdefault(answer.snapshot_id, answer)
        same = (known.watermark, known.snapshot_time) == (answer.watermark, answer.snapshot_time)
        for table, rows in answer.rows.items():
            same &= contents.setdefault((answer.snapshot_id, table), rows) == rows
        if not same:
            message = f"{tenant}: snapshot {answer.snapshot_id}, watermarks {known.watermark} and {answer.watermark}"
            yield Violation(kind=Kind.SNAPSHOT_CHANGED, message=message)
    for (older_id, older), (newer_id, newer) in pairwise(sorted(seen.items())):
        if newer.watermark < older.watermark:
            message = f"{tenant}: {older.watermark} in snapshot {older_id}, {newer.watermark} in {newer_id}"
            yield Violation(kind=Kind.WATERMARK_FELL, message=message)
        if newer.snapshot_time <= older.snapshot_time:
            message = f"{tenant}: snapshot {older_id} is of {older.snapshot_time}, {newer_id} of {newer.snapshot_time}"
            yield Violation(kind=Kind.SNAPSHOT_ORDER, message=message)
    yield from _check_read_order(tenant, reads, history)


def _check_read_order(tenant: str, reads: list[tuple[Read, Answer]], history: History) -> Iterator[Violation]:
    """The latest snapshot never goes back: a sweep over every time at which a client was told of a snapshot."""
    latest = [(read, answer) for read, answer in reads if read.asked_snapshot is None]
    told = [(read.returned or _NEVER, answer.snapshot_id) for read, answer in reads] + [
        (ingest.returned or _NEVER, ingest.ack.visible_in)
        for ingest in history.ingests
        if ingest.tenant == tenant and ingest.ack is not None and ingest.ack.visible_in is not None
    ]
    told.sort()
    position, newest = 0, -1
    for read, answer in sorted(latest, key=lambda pair: pair[0].invoked):
        while position < len(told) and told[position][0] < read.invoked:
            newest = max(newest, told[position][1])
            position += 1
        if answer.snapshot_id < newest:
            message = f"{tenant}: the latest was {answer.snapshot_id} after {newest} had been seen"
            yield Violation(kind=Kind.SNAPSHOT_ORDER, message=message)
