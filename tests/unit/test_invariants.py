"""The history checker against hand-made histories: good ones pass, and each kind of violation has its own bad one."""

import threading
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

import pytest

from tests.history import Ack, Answer, Drop, History, Ingest, Outcome, Read, Recorder, Sent
from tests.invariants import Kind, check

START = datetime(2026, 1, 1, tzinfo=UTC)


def write(
    at: int,
    identities: str,
    *,
    token: int | None = None,
    outcome: Outcome | None = None,
    took: int = 5,
    table: str = "t",
    tenant: str = "acme",
    accepted: int | None = None,
    keyed: bool = True,
    visible_in: int | None = None,
    replayed: bool = False,
) -> Ingest:
    """A write of one record per letter, acknowledged when it has a token, else refused unless said otherwise."""
    records = tuple(Sent(identity=letter, key=letter if keyed else None) for letter in identities)
    count = len(records) if accepted is None else accepted
    ack = None
    if token is not None:
        duplicates = len(records) - count
        ack = Ack(token=token, accepted=count, duplicates=duplicates, visible_in=visible_in, replayed=replayed)
    return Ingest(
        tenant=tenant,
        table=table,
        records=records,
        invoked=at,
        returned=at + took,
        outcome=outcome or (Outcome.REFUSED if ack is None else Outcome.DONE),
        ack=ack,
    )


def read(
    at: int,
    rows: str | Mapping[str, str],
    *,
    snapshot: int = 1,
    watermark: int = 10,
    second: int | None = None,
    barrier: int | None = None,
    asked: int | None = None,
) -> Read:
    """A query that saw one record per letter (of table t, or by table), in a snapshot made at `second`."""
    by_table = {"t": rows} if isinstance(rows, str) else rows
    answer = Answer(
        snapshot_id=snapshot,
        watermark=watermark,
        snapshot_time=START + timedelta(seconds=snapshot if second is None else second),
        rows={table: {letter: letters.count(letter) for letter in letters} for table, letters in by_table.items()},
    )
    return Read(
        tenant="acme",
        invoked=at,
        returned=at + 5,
        outcome=Outcome.DONE,
        min_token=barrier,
        asked_snapshot=asked,
        answer=answer,
    )


def drop(at: int, *, took: int = 5, outcome: Outcome = Outcome.DONE) -> Drop:
    return Drop(tenant="acme", table="t", invoked=at, returned=at + took, outcome=outcome)


def history(*operations: Ingest | Read | Drop) -> History:
    return History(
        ingests=tuple(o for o in operations if isinstance(o, Ingest)),
        reads=tuple(o for o in operations if isinstance(o, Read)),
        drops=tuple(o for o in operations if isinstance(o, Drop)),
    )


def unknown(at: int, identities: str, *, keyed: bool = True, table: str = "t") -> Ingest:
    return write(at, identities, outcome=Outcome.UNKNOWN, keyed=keyed, table=table)


GOOD = {
    "nothing happened": history(),
    "a write is seen by a barrier": history(write(0, "abc", token=3), read(10, "abc", watermark=3, barrier=3)),
    "a write is not yet seen without a barrier": history(
        write(0, "a", token=1), write(10, "b", token=2), read(20, "a", watermark=1)
    ),
    "an unknown write happened whole": history(unknown(0, "ab"), read(10, "ab")),
    "an unknown write did not happen": history(unknown(0, "ab"), read(10, "")),
    "an unknown write without keys happened beside its retry": history(
        unknown(0, "a", keyed=False), write(10, "a", token=2, keyed=False), read(20, "aa")
    ),
    "a retry of an unknown write is told of duplicates": history(
        unknown(0, "ab"), write(10, "ab", token=2, accepted=0), read(20, "ab", watermark=2)
    ),
    "two retries of a lost answer are told of the same first tokens": history(
        unknown(0, "ab"),
        write(10, "ab", token=2, replayed=True),
        write(20, "ab", token=2, replayed=True),
        write(30, "c", token=3),
        read(40, "abc", watermark=3),
    ),
    "an overlapping batch adds what is new": history(
        write(0, "ab", token=2), write(10, "bc", token=3, accepted=1), read(20, "abc", watermark=3)
    ),
    "a refused write is not there": history(write(0, "ab"), read(10, "")),
    "concurrent writes get their tokens in either order": history(
        write(0, "a", token=2, took=20), write(10, "b", token=1), read(40, "ab", watermark=2)
    ),
    "an unknown write holds the missing tokens": history(
        write(0, "a", token=1), unknown(10, "bc"), write(20, "d", token=4), read(30, "abcd", watermark=4)
    ),
    "a dropped table takes its writes with it": history(
        write(0, "ab", token=2), drop(10), write(20, "c", token=3), read(30, "c", watermark=3, barrier=3)
    ),
    "a write beside a drop lands in either table": history(
        write(0, "a", token=1, took=50), drop(10), read(70, "a", watermark=1, barrier=1)
    ),
    "a drop whose answer was lost may have happened": history(
        write(0, "a", token=1), drop(10, outcome=Outcome.UNKNOWN), read(20, "", watermark=1)
    ),
    "an old snapshot still shows a dropped table": history(
        write(0, "a", token=1),
        read(10, "a", watermark=1, snapshot=2),
        drop(20),
        read(30, "", watermark=1, snapshot=3),
        read(40, "a", watermark=1, snapshot=2, asked=2),
    ),
    "snapshots grow": history(
        write(0, "a", token=1),
        write(10, "b", token=2),
        read(20, "a", watermark=1, snapshot=4),
        read(30, "ab", watermark=2, snapshot=6),
        read(40, "", watermark=0, snapshot=1, asked=1),
        read(50, "ab", watermark=2, snapshot=7),
    ),
    "tenants and tables have their own records": history(
        write(0, "a", token=1),
        write(10, "b", token=2, table="u"),
        write(20, "b", token=1, tenant="other"),
        read(30, {"t": "a", "u": "b"}, watermark=2),
    ),
}

BAD = {
    "an acknowledged write is missing": (Kind.LOST, history(write(0, "a", token=1), read(10, "", watermark=1))),
    "a part of an acknowledged write is missing": (
        Kind.LOST,
        history(write(0, "abc", token=3), read(10, "ac", watermark=3)),
    ),
    "a write that was answered as visible is missing": (
        Kind.LOST,
        history(write(0, "a", token=9, visible_in=3), read(10, "", snapshot=3, watermark=8)),
    ),
    "one of two writes without keys is missing": (
        Kind.LOST,
        history(write(0, "a", token=1, keyed=False), write(10, "a", token=2, keyed=False), read(20, "a")),
    ),
    "a write was lost although the table was dropped before it": (
        Kind.LOST,
        history(drop(0), write(10, "a", token=1), read(20, "", watermark=1)),
    ),
    "a keyed record is there twice": (Kind.TWICE, history(write(0, "a", token=1), read(10, "aa"))),
    "a retried record is there twice": (
        Kind.TWICE,
        history(unknown(0, "a"), write(10, "a", token=1), read(20, "aa", watermark=1)),
    ),
    "a record without a key is there more often than sent": (
        Kind.TWICE,
        history(write(0, "a", token=1, keyed=False), unknown(10, "a", keyed=False), read(20, "aaa")),
    ),
    "a refused record is there": (Kind.PHANTOM, history(write(0, "a"), read(10, "a"))),
    "a record is there that nobody sent": (Kind.PHANTOM, history(read(10, "a"))),
    "a record was seen before it was sent": (
        Kind.PHANTOM,
        history(read(0, "a", watermark=9), write(10, "a", token=9)),
    ),
    "a record is in the table beside its own": (
        Kind.WRONG_TABLE,
        history(write(0, "a", token=1), read(10, {"t": "a", "u": "a"})),
    ),
    "a record is in another tenant's table": (
        Kind.WRONG_TABLE,
        history(write(0, "a", token=1, tenant="other"), read(10, "a")),
    ),
    "a record of a dropped table is in the one created anew": (
        Kind.WRONG_TABLE,
        history(write(0, "a", token=1), drop(10), read(20, "a")),
    ),
    "half of an unknown request is there": (Kind.TORN, history(unknown(0, "ab"), read(10, "b"))),
    "half of a request above the watermark is there": (
        Kind.TORN,
        history(unknown(0, "abc"), write(10, "abc", token=7, accepted=0), read(20, "ab", watermark=6)),
    ),
    "a record is there before the watermark says so": (
        Kind.AHEAD,
        history(write(0, "a", token=3), read(10, "a", watermark=2)),
    ),
    "a barrier misses a write": (
        Kind.BARRIER_MISSED,
        history(write(0, "a", token=1), write(10, "b", token=2), read(20, "b", watermark=2, barrier=2)),
    ),
    "a barrier misses a write that was acknowledged after it": (
        Kind.BARRIER_MISSED,
        history(write(0, "a", token=1, took=90), write(10, "b", token=2), read(20, "b", watermark=2, barrier=2)),
    ),
    "a barrier does not wait": (
        Kind.BARRIER_SHORT,
        history(write(0, "a", token=1), read(10, "", watermark=0, barrier=1)),
    ),
    "two writes hold one token": (
        Kind.TOKEN_REUSED,
        history(write(0, "ab", token=2, took=50), write(10, "cd", token=3)),
    ),
    "tokens fall in time": (Kind.TOKEN_ORDER, history(write(0, "a", token=2), write(10, "b", token=1))),
    "a token is missing": (Kind.TOKEN_GAP, history(write(0, "a", token=1), write(10, "b", token=3))),
    "more tokens are missing than the unknown write had records": (
        Kind.TOKEN_GAP,
        history(write(0, "a", token=1), unknown(10, "b"), write(20, "c", token=4)),
    ),
    "a refused write used a token": (
        Kind.TOKEN_GAP,
        history(write(0, "a", token=1), write(10, "b"), write(20, "c", token=3)),
    ),
    "an unknown write began too late to hold the missing token": (
        Kind.TOKEN_GAP,
        history(write(0, "a", token=1), write(10, "b", token=3), unknown(20, "c")),
    ),
    "an acknowledgement counts wrongly": (
        Kind.MISCOUNTED,
        history(
            Ingest(
                tenant="acme",
                table="t",
                records=(Sent(identity="a", key="a"), Sent(identity="b", key="b")),
                invoked=0,
                returned=5,
                outcome=Outcome.DONE,
                ack=Ack(token=1, accepted=1),
            )
        ),
    ),
    "the watermark falls": (
        Kind.WATERMARK_FELL,
        history(read(0, {}, snapshot=1, watermark=5), read(10, {}, snapshot=2, watermark=4)),
    ),
    "one snapshot has two contents": (
        Kind.SNAPSHOT_CHANGED,
        history(unknown(0, "a"), read(10, "", snapshot=3), read(20, "a", snapshot=3)),
    ),
    "one snapshot has two watermarks": (
        Kind.SNAPSHOT_CHANGED,
        history(read(0, {}, snapshot=3, watermark=5), read(10, {}, snapshot=3, watermark=6)),
    ),
    "one snapshot has two times": (
        Kind.SNAPSHOT_CHANGED,
        history(read(0, {}, snapshot=3, second=1), read(10, {}, snapshot=3, second=2)),
    ),
    "a later snapshot has an earlier time": (
        Kind.SNAPSHOT_ORDER,
        history(read(0, {}, snapshot=1, second=9), read(10, {}, snapshot=2, second=8)),
    ),
    "the latest snapshot goes back": (
        Kind.SNAPSHOT_ORDER,
        history(read(0, {}, snapshot=2), read(10, {}, snapshot=1)),
    ),
    "the latest snapshot is older than the one that a writer was told of": (
        Kind.SNAPSHOT_ORDER,
        history(write(0, "a", token=1, visible_in=7), read(10, "a", snapshot=6)),
    ),
    "another snapshot answers than was asked for": (
        Kind.WRONG_SNAPSHOT,
        history(read(0, {}, snapshot=2, asked=1)),
    ),
}


@pytest.mark.parametrize("name", GOOD)
def test_a_good_history_has_no_violation(name: str) -> None:
    assert check(GOOD[name]) == []


@pytest.mark.parametrize("name", BAD)
def test_a_bad_history_has_exactly_its_own_violation(name: str) -> None:
    kind, bad = BAD[name]
    assert [violation.kind for violation in check(bad)] == [kind]


def test_every_kind_of_violation_has_a_history() -> None:
    assert {kind for kind, _ in BAD.values()} == set(Kind)


def test_a_violation_names_its_records() -> None:
    lost = write(0, "abcde", token=5)
    (violation,) = check(history(lost, read(10, "", watermark=5, snapshot=8)))
    assert str(violation).startswith("LOST: an acknowledged record is missing")
    assert "t/a, t/b, t/c and 2 more" in str(violation)
    assert "snapshot 8, watermark 5" in str(violation)


def test_recorder_keeps_what_many_threads_did() -> None:
    recorder = Recorder()

    def client(name: str) -> None:
        for number in range(100):
            begun = recorder.began_ingest(tenant="acme", table="t", records=[Sent(identity=f"{name}{number}")])
            recorder.acknowledged(begun, Ack(token=1, accepted=1))

    threads = [threading.Thread(target=client, args=(name,)) for name in "abcdefgh"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ingests = recorder.history().ingests
    assert len({ingest.records[0].identity for ingest in ingests}) == 800
    assert all(ingest.outcome is Outcome.DONE and ingest.invoked <= (ingest.returned or 0) for ingest in ingests)


def test_what_never_ended_has_an_unknown_outcome() -> None:
    recorder = Recorder()
    recorder.began_ingest(tenant="acme", table="t", records=[Sent(identity="a")])
    recorder.began_read(tenant="acme", min_token=3)
    recorder.refused(recorder.began_drop(tenant="acme", table="t"), "FORBIDDEN")
    found = recorder.history()
    assert (found.ingests[0].outcome, found.ingests[0].returned) == (Outcome.UNKNOWN, None)
    assert (found.reads[0].outcome, found.reads[0].min_token) == (Outcome.UNKNOWN, 3)
    assert (found.drops[0].outcome, found.drops[0].error) == (Outcome.REFUSED, "FORBIDDEN")


def test_recorder_refuses_to_end_an_operation_twice() -> None:
    recorder = Recorder()
    begun = recorder.began_read(tenant="acme")
    recorder.unknown(begun, "connection reset")
    with pytest.raises(AssertionError, match="ends once"):
        recorder.answered(begun, Answer(snapshot_id=1, watermark=1, snapshot_time=START))


def test_checker_is_fast_enough_for_a_long_history() -> None:
    writes = [
        Ingest(
            tenant="acme",
            table="t",
            records=tuple(Sent(identity=f"{n}-{i}", key=f"{n}-{i}") for i in range(20)),
            invoked=n * 10,
            returned=n * 10 + 5,
            outcome=Outcome.DONE,
            ack=Ack(token=(n + 1) * 20, accepted=20),
        )
        for n in range(1_000)
    ]
    rows = {record.identity: 1 for ingest in writes for record in ingest.records}
    last = Answer(snapshot_id=9, watermark=20_000, snapshot_time=START, rows={"t": rows})
    reads = [
        Read(tenant="acme", invoked=20_000 + n, returned=20_001 + n, outcome=Outcome.DONE, answer=last)
        for n in range(20)
    ]
    assert check(History(ingests=tuple(writes), reads=tuple(reads))) == []
