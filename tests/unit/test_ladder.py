"""Which snapshots retention keeps."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from duckmesh.kernel.spans import Rung, ladder, span, spelled
from maintenance.ladder import Judge, RetentionPolicy, Seen, Verdict

NOW = datetime(2026, 3, 10, 12, 0, 30, tzinfo=UTC)
DEFAULT = RetentionPolicy()


def judged(
    ages: Sequence[str], *, policy: RetentionPolicy = DEFAULT, held: Mapping[int, str] | None = None
) -> dict[int, Verdict]:
    """Verdicts on snapshots of these ages, the oldest first, which is number 0."""
    seen = [Seen(snapshot_id=number, snapshot_time=NOW - span(age)) for number, age in enumerate(ages)]
    judge = Judge(policy=policy, now=NOW)
    return {verdict.snapshot_id: verdict for verdict in judge.judge(reversed(seen), held=held or {})}


def kept(verdicts: Mapping[int, Verdict]) -> list[int]:
    return sorted(number for number, verdict in verdicts.items() if verdict.kept)


@pytest.mark.parametrize(
    ("ages", "expected"),
    [
        (["400d"], [0]),  # the latest, however old
        (["400d", "1h", "30m", "0"], [1, 2, 3]),
        (["5401s", "90m", "0"], [1, 2]),  # of the two in one minute the later
        (["5431s", "5429s", "0"], [0, 1, 2]),  # on two sides of a minute
        (["3601s", "3600s", "0"], [1, 2]),  # the one that all keep stands for the minute
        (["26h", "25h", "0"], [1, 2]),
        (["37h", "35h", "0"], [0, 1, 2]),  # on two sides of midnight
        (["31d", "30d", "0"], [1, 2]),
    ],
)
def test_ladder_keeps_the_newest_of_each_span(ages: list[str], expected: list[int]) -> None:
    assert kept(judged(ages)) == expected


def test_reasons_tell_what_keeps_and_what_drops() -> None:
    verdicts = judged(["40d", "35d", "5401s", "90m", "30m", "0"], held={0: "pinned as audit"})
    assert [verdicts[number].reason for number in sorted(verdicts)] == [
        "pinned as audit",
        "older than 30d",
        "a newer one of the same 1m is kept",
        "the last of its 1m",
        "not older than 1h",
        "the latest",
    ]


def test_newest_are_kept_by_count_however_old() -> None:
    verdicts = judged(["50d", "49d", "48d", "47d"], policy=RetentionPolicy(keep_last=3))
    assert kept(verdicts) == [1, 2, 3]
    assert verdicts[1].reason == "one of the newest 3"


def test_without_rungs_only_the_young_and_the_latest_stay() -> None:
    policy = RetentionPolicy(keep_all_for=timedelta(minutes=1), rungs=())
    assert kept(judged(["2h", "2m", "61s", "59s", "30s"], policy=policy)) == [3, 4]
    assert kept(judged(["2h"], policy=policy)) == [0]


def test_snapshot_of_the_future_stays() -> None:
    ahead = Seen(snapshot_id=1, snapshot_time=NOW + timedelta(hours=5))
    latest = Seen(snapshot_id=2, snapshot_time=NOW + timedelta(hours=6))
    assert all(verdict.kept for verdict in Judge(policy=DEFAULT, now=NOW).judge([latest, ahead], held={}))


@given(
    gaps=st.lists(st.integers(min_value=0, max_value=50_000), min_size=1, max_size=60),
    later=st.lists(st.integers(min_value=0, max_value=100_000), min_size=1, max_size=6),
)
def test_expiring_often_keeps_what_expiring_once_would_and_never_empties_a_span(
    gaps: list[int], later: list[int]
) -> None:
    times, moment = [], NOW
    for gap in gaps:
        moment -= timedelta(seconds=gap, microseconds=1)
        times.append(moment)
    everything = dict(enumerate(reversed(times)))
    left, now = dict(everything), NOW
    for seconds in [0, *later]:
        now += timedelta(seconds=seconds)
        seen = [Seen(snapshot_id=number, snapshot_time=left[number]) for number in sorted(left, reverse=True)]
        verdicts = list(Judge(policy=DEFAULT, now=now).judge(seen, held={}))
        left = {verdict.snapshot_id: left[verdict.snapshot_id] for verdict in verdicts if verdict.kept}
    seen = [Seen(snapshot_id=number, snapshot_time=everything[number]) for number in sorted(everything, reverse=True)]
    at_once = {verdict.snapshot_id for verdict in Judge(policy=DEFAULT, now=now).judge(seen, held={}) if verdict.kept}
    assert set(left) == at_once
    day = DEFAULT.rungs[1]
    spans = {time.date() for time in everything.values() if now - time <= day.until}
    assert {time.date() for time in left.values()} >= spans


@pytest.mark.parametrize("length", ["250ms", "1s", "90s", "5m", "2h", "7d"])
def test_spans_are_spelled_as_they_are_read(length: str) -> None:
    assert spelled(span(length)) == length


def test_ladder_is_read_as_it_is_written() -> None:
    assert ladder("1m:1d, 1d:30d") == DEFAULT.rungs
    assert ladder("") == ()
    assert ladder("7d:365d") == (Rung(every=timedelta(days=7), until=timedelta(days=365)),)


@pytest.mark.parametrize("text", ["1m", "1m:", ":1d", "x:1d", "1d:1m", "0:1d", "1m:1d,1m:30d", "1m:2d,1d:2d", "1m:1d,"])
def test_ladder_that_does_not_grow_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        ladder(text)


@pytest.mark.parametrize("text", ["8436578393640.2d", "36526d", "1" * 400])
def test_a_span_that_no_clock_can_count_is_refused(text: str) -> None:
    assert span("36525d") == timedelta(days=36525)
    with pytest.raises(ValueError, match="hundred years"):
        span(text)
