"""When policies make a run due."""

from dataclasses import replace
from datetime import UTC, datetime, time, timedelta

import pytest

from maintenance.job import Kind, Scope
from maintenance.policies import Last, Policy, Subject, Window, effective, is_due

NOON = datetime(2026, 1, 10, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
POLICY = Policy(
    kind=Kind.RETENTION,
    name="default",
    scope=Scope(),
    enabled=True,
    interval=HOUR,
    created_at=NOON - 10 * HOUR,
)
SUBJECT = Subject(scope=Scope(tenant_id="acme"), since=NOON - 10 * HOUR)
LAST = Last(requested_at=NOON - HOUR, change=0, live=False, failed=False)


@pytest.mark.parametrize(
    ("start", "end", "inside", "outside"),
    [
        (time(2), time(5), (time(2), time(4, 59, 59)), (time(1, 59, 59), time(5), time(12))),
        (time(22), time(4), (time(22), time(23, 59, 59), time(0), time(3, 59)), (time(4), time(12), time(21, 59, 59))),
        (time(23), time(0), (time(23), time(23, 59, 59, 999_999)), (time(0), time(22, 59))),
        (time(0), time(0, 1), (time(0), time(0, 0, 59)), (time(0, 1), time(23, 59))),
    ],
)
def test_a_window_of_the_day_may_go_over_midnight(
    start: time, end: time, inside: tuple[time, ...], outside: tuple[time, ...]
) -> None:
    window = Window(start=start, end=end)
    assert all(window.holds(datetime.combine(NOON, at, tzinfo=UTC)) for at in inside)
    assert not any(window.holds(datetime.combine(NOON, at, tzinfo=UTC)) for at in outside)


def test_outside_its_window_nothing_is_due() -> None:
    night = replace(POLICY, window=Window(start=time(22), end=time(4)))
    assert not is_due(night, SUBJECT, LAST, now=NOON)
    assert is_due(night, SUBJECT, LAST, now=NOON + 10 * HOUR)
    assert is_due(night, SUBJECT, None, now=NOON + 15 * HOUR)
    assert not is_due(night, SUBJECT, LAST, now=NOON + 16 * HOUR)


def test_the_first_run_waits_an_interval_from_when_policy_and_subject_are_both_there() -> None:
    young = replace(SUBJECT, since=NOON)
    assert not is_due(POLICY, young, None, now=NOON + HOUR - timedelta(seconds=1))
    assert is_due(POLICY, young, None, now=NOON + HOUR)
    new = replace(POLICY, created_at=NOON)
    assert not is_due(new, SUBJECT, None, now=NOON + HOUR - timedelta(seconds=1))
    assert is_due(new, SUBJECT, None, now=NOON + HOUR)


def test_the_next_run_is_reckoned_from_the_last_and_waits_for_its_end() -> None:
    assert is_due(POLICY, SUBJECT, LAST, now=NOON)
    assert is_due(POLICY, SUBJECT, LAST, now=NOON + 100 * HOUR)
    assert not is_due(POLICY, SUBJECT, LAST, now=NOON - timedelta(seconds=1))
    assert not is_due(POLICY, SUBJECT, replace(LAST, live=True), now=NOON + 100 * HOUR)
    assert not is_due(replace(POLICY, enabled=False), SUBJECT, LAST, now=NOON)
    assert not is_due(replace(POLICY, enabled=False), SUBJECT, None, now=NOON)


@pytest.mark.parametrize(
    ("change", "seen", "failed", "due"),
    [(7, 7, False, False), (8, 7, False, True), (7, 7, True, True), (None, None, False, False), (7, None, False, True)],
)
def test_what_has_not_changed_is_left_alone_unless_the_last_run_failed(
    change: int | None, seen: int | None, failed: bool, due: bool
) -> None:
    subject = replace(SUBJECT, change=change)
    assert is_due(POLICY, subject, replace(LAST, change=seen, failed=failed), now=NOON) == due


def test_what_never_changed_is_never_due() -> None:
    assert not is_due(POLICY, replace(SUBJECT, change=None), None, now=NOON)
    assert is_due(POLICY, replace(SUBJECT, change=3), None, now=NOON)


def test_the_most_specific_policy_holds() -> None:
    everything = POLICY
    tenant = replace(POLICY, scope=Scope(tenant_id="acme"))
    table = replace(POLICY, scope=Scope(tenant_id="acme", table_id=1), enabled=False)
    policies = [table, everything, tenant]
    assert effective(policies, Scope(tenant_id="acme", table_id=1)) is table
    assert effective(policies, Scope(tenant_id="acme", table_id=2)) is tenant
    assert effective(policies, Scope(tenant_id="acme")) is tenant
    assert effective(policies, Scope(tenant_id="other", table_id=3)) is everything
    assert effective(policies, Scope()) is everything
    assert effective([table, tenant], Scope(tenant_id="other")) is None
    assert effective([tenant], Scope()) is None
