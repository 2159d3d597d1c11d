"""What failed alone waits a little before it is tried again, and the tenant's log behind it waits with it."""

from dataclasses import replace
from datetime import timedelta

import pytest
from django.db.models import F
from django.db.models.functions import Now

from catalog.snapshots import visible_tokens
from ingest import bus
from ingest.backlog import due_tenants, is_due, lag
from ingest.bus import LONGEST_PAUSE, Claim
from ingest.models import IngestClaimBatch, IngestEvent
from tests.factories import make_table, make_tenant
from tests.lake import AT_ONCE, CLAIM, write_ids

pytestmark = pytest.mark.django_db(transaction=True)

PATIENT = replace(CLAIM, max_attempts=5, retry_pause=timedelta(seconds=20))


@pytest.fixture
def tenant_id() -> str:
    """A tenant with three pending envelopes of one record each, with the tokens 1 to 3."""
    tenant_id = make_tenant()
    make_table(tenant_id=tenant_id)
    for identity in "abc":
        write_ids(tenant_id, identity)
    return tenant_id


def take(tenant_id: str, *, most: int = 100) -> Claim | None:
    return bus.claim(tenant_id=tenant_id, consumer_id="test", policy=replace(PATIENT, max_envelopes=most))


def fail(tenant_id: str, *, max_attempts: int = 5) -> IngestEvent:
    """The oldest envelope that may be tried has failed alone once more."""
    claim = take(tenant_id, most=1)
    assert claim is not None
    bus.nack(claim, error="Broken", reason="a test", policy=replace(PATIENT, max_attempts=max_attempts))
    return IngestEvent.objects.get(event_id=claim.envelopes[0].event_id)


def pass_time(tenant_id: str) -> None:
    """The time of the next attempt has come."""
    IngestEvent.objects.filter(tenant_id=tenant_id, retry_at__isnull=False).update(retry_at=Now())


def tokens(claim: Claim | None) -> list[int]:
    return [] if claim is None else [envelope.first_token for envelope in claim.envelopes]


def test_log_waits_behind_an_envelope_that_backs_off(tenant_id: str) -> None:
    fail(tenant_id)
    claims = IngestClaimBatch.objects.filter(tenant_id=tenant_id).count()
    assert take(tenant_id) is None
    assert IngestClaimBatch.objects.filter(tenant_id=tenant_id).count() == claims, "no claim is made for nothing"
    assert not is_due(tenant_id=tenant_id, wanted=3, policy=AT_ONCE)
    assert tenant_id not in due_tenants(policy=AT_ONCE)
    assert visible_tokens(tenant_ids=[tenant_id]) == {tenant_id: 0}
    pass_time(tenant_id)
    assert is_due(tenant_id=tenant_id, wanted=3, policy=AT_ONCE)
    assert tenant_id in due_tenants(policy=AT_ONCE)
    assert tokens(take(tenant_id)) == [1], "alone again, as it was when it failed"


def test_other_tenants_do_not_wait(tenant_id: str) -> None:
    fail(tenant_id)
    other = make_tenant()
    make_table(tenant_id=other)
    write_ids(other, "x")
    assert tokens(take(other)) == [1]


def test_pause_doubles_with_each_attempt_and_is_bounded(tenant_id: str) -> None:
    pauses = []
    for _ in range(4):
        fail(tenant_id)
        event = IngestEvent.objects.filter(tenant_id=tenant_id, first_token=1).annotate(pause=F("retry_at") - Now())
        pauses.append(event.get().pause.total_seconds())
        pass_time(tenant_id)
    for pause, expected in zip(pauses, [20, 30, 30, 30], strict=True):
        assert expected - 5 < pause <= expected
    assert LONGEST_PAUSE.total_seconds() == 30


def test_failure_of_several_together_is_bisected_without_a_pause(tenant_id: str) -> None:
    claim = take(tenant_id)
    assert claim is not None
    bus.nack(claim, error="Broken", reason="a test", policy=PATIENT)
    assert tokens(take(tenant_id)) == [1]


def test_worker_that_died_costs_an_attempt_and_no_further_pause(tenant_id: str) -> None:
    assert take(tenant_id, most=1)
    IngestClaimBatch.objects.filter(tenant_id=tenant_id, state="claimed").update(lease_until=Now())
    assert tokens(take(tenant_id)) == [1]
    assert IngestEvent.objects.get(tenant_id=tenant_id, first_token=1).attempts == 1


def test_replay_that_backs_off_holds_up_only_itself(tenant_id: str) -> None:
    failed = fail(tenant_id, max_attempts=1)
    assert failed.state == "failed" and failed.failed_at is not None and failed.retry_at is None
    IngestEvent.objects.filter(event_id=failed.event_id).update(state="pending", attempts=0)
    assert fail(tenant_id).event_id == failed.event_id
    assert is_due(tenant_id=tenant_id, wanted=0, policy=AT_ONCE)
    claim = take(tenant_id)
    assert tokens(claim) == [2]
    assert claim is not None
    bus.release(claim)
    pass_time(tenant_id)
    assert tokens(take(tenant_id)) == [1]


def test_lag_tells_what_is_tried_again(tenant_id: str) -> None:
    assert lag(tenant_id=tenant_id).retrying_events == 0
    fail(tenant_id)
    told = lag(tenant_id=tenant_id)
    assert (told.pending_events, told.accepted_events, told.retrying_events, told.failed_events) == (3, 3, 1, 0)
    assert told.tables[0].retrying_events == 1
    pass_time(tenant_id)
    fail(tenant_id, max_attempts=2)
    told = lag(tenant_id=tenant_id)
    assert (told.pending_events, told.retrying_events, told.failed_events) == (2, 0, 1)
