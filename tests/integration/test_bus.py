"""Claims: leased, fenced by their epoch, one at a time for a tenant; nothing is lost or acked by the late."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from functools import partial

import pytest
from django.db import connection, transaction
from django.db.models.functions import Now

from catalog.models import IncidentAudit, Snapshot
from catalog.publish import publish_snapshot
from catalog.snapshots import first_failure, resolve, visible_tokens
from duckmesh.kernel.traces import working_for
from ingest import bus
from ingest.bus import Claim
from ingest.errors import LeaseLost
from ingest.models import IngestClaimBatch, IngestEvent, IngestPayload
from tests.factories import make_snapshot, make_table, make_tenant
from tests.lake import CLAIM, write_ids
from tests.together import Background, together

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def tenant_id() -> str:
    """A tenant with five pending envelopes of one record each, a to e, with the tokens 1 to 5."""
    tenant_id = make_tenant()
    make_table(tenant_id=tenant_id)
    for identity in "abcde":
        write_ids(tenant_id, identity)
    return tenant_id


def take(tenant_id: str, **policy: int | timedelta) -> Claim | None:
    # replace() refuses names that a ClaimPolicy does not have, which mypy cannot see.
    return bus.claim(tenant_id=tenant_id, consumer_id="test", policy=replace(CLAIM, **policy))  # type: ignore[arg-type]


def taken(tenant_id: str, **policy: int | timedelta) -> Claim:
    claim = take(tenant_id, **policy)
    assert claim is not None
    return claim


def tokens(claim: Claim) -> list[int]:
    return [envelope.first_token for envelope in claim.envelopes]


def publish(claim: Claim) -> int:
    """What the materialiser's last transaction does, without files."""
    with transaction.atomic():
        bus.hold(claim)
        snapshot = publish_snapshot(
            tenant_id=claim.tenant_id, kind=Snapshot.Kind.INGEST, actor="test", watermark=claim.last_token
        )
        bus.ack(claim, snapshot_id=snapshot.snapshot_id, max_envelopes=CLAIM.max_envelopes)
    return snapshot.snapshot_id


def run_out(tenant_id: str) -> None:
    """The lease of the tenant's live claim has run out."""
    live = IngestClaimBatch.objects.filter(tenant_id=tenant_id, state="claimed")
    assert live.update(lease_until=Now() - timedelta(milliseconds=1)) == 1


def states(tenant_id: str) -> Counter[str]:
    return Counter(IngestEvent.objects.filter(tenant_id=tenant_id).values_list("state", flat=True))


def attempts(tenant_id: str) -> list[int]:
    events = IngestEvent.objects.filter(tenant_id=tenant_id).order_by("first_token")
    return list(events.values_list("attempts", flat=True))


def test_claim_takes_the_oldest_in_the_order_of_their_tokens(tenant_id: str) -> None:
    claim = taken(tenant_id, max_envelopes=3)
    assert tokens(claim) == [1, 2, 3]
    assert claim.last_token == 3
    assert all(envelope.payload for envelope in claim.envelopes)


def test_claim_is_bounded_in_bytes_but_never_empty(tenant_id: str) -> None:
    size = IngestEvent.objects.filter(tenant_id=tenant_id)[0].size_bytes
    claim = taken(tenant_id, max_bytes=1)
    assert tokens(claim) == [1]
    bus.release(claim)
    assert tokens(taken(tenant_id, max_bytes=2 * size)) == [1, 2]


def test_nothing_pending_is_nothing_to_claim() -> None:
    tenant_id = make_tenant()
    for _ in range(3):
        assert take(tenant_id) is None
    assert not IngestClaimBatch.objects.filter(tenant_id=tenant_id).exists(), "no claim is left behind for nothing"


def test_tenant_has_one_live_claim_whoever_asks(tenant_id: str) -> None:
    claims = together([partial(take, tenant_id)] * 12)
    assert len([claim for claim in claims if claim is not None]) == 1
    assert IngestClaimBatch.objects.filter(tenant_id=tenant_id).count() == 1


def test_tenants_are_claimed_side_by_side(tenant_id: str) -> None:
    other = make_tenant()
    make_table(tenant_id=other)
    write_ids(other, "x")
    with transaction.atomic():
        taken(tenant_id)
        claim = Background(partial(take, other)).result()
    assert isinstance(claim, Claim)
    assert claim.tenant_id == other


def test_acked_envelopes_are_committed_and_their_payloads_gone(tenant_id: str) -> None:
    claim = taken(tenant_id, max_envelopes=2)
    snapshot_id = publish(claim)
    done = IngestEvent.objects.filter(tenant_id=tenant_id, state="committed").order_by("first_token")
    assert list(done.values_list("first_token", "snapshot_id")) == [(1, snapshot_id), (2, snapshot_id)]
    assert IngestPayload.objects.count() == 3
    assert tokens(taken(tenant_id)) == [3, 4, 5]


def test_epochs_grow(tenant_id: str) -> None:
    epochs = []
    ends: list[Callable[[Claim], object]] = [bus.release, publish, lambda claim: run_out(claim.tenant_id), publish]
    for end in ends:
        claim = taken(tenant_id, max_envelopes=1)
        epochs.append(claim.epoch)
        end(claim)
    assert epochs == sorted(set(epochs))


def test_late_worker_cannot_ack(tenant_id: str) -> None:
    late = taken(tenant_id)
    run_out(tenant_id)
    assert publish(taken(tenant_id)) > 0
    before = resolve(tenant_id=tenant_id)
    with pytest.raises(LeaseLost):
        publish(late)
    for act in (bus.hold, bus.release, partial(bus.extend, policy=CLAIM)):
        with pytest.raises(LeaseLost), transaction.atomic():
            act(late)
    with pytest.raises(LeaseLost):
        bus.nack(late, error="E", reason="late", policy=replace(CLAIM, max_attempts=1))
    assert resolve(tenant_id=tenant_id) == before, "its snapshot rolled back too"
    assert states(tenant_id) == {"committed": 2, "pending": 3}, "the successor took half of what the crashed one held"


def test_worker_whose_lease_ran_out_cannot_ack_although_nobody_took_over(tenant_id: str) -> None:
    late = taken(tenant_id)
    run_out(tenant_id)
    before = resolve(tenant_id=tenant_id)
    with pytest.raises(LeaseLost):
        publish(late)
    assert resolve(tenant_id=tenant_id) == before
    assert states(tenant_id) == {"pending": 5}


def test_late_worker_cannot_ack_what_its_successor_still_holds(tenant_id: str) -> None:
    late = taken(tenant_id)
    run_out(tenant_id)
    successor = taken(tenant_id)
    with pytest.raises(LeaseLost):
        publish(late)
    publish(successor)


def test_lease_that_runs_out_during_the_last_transaction_is_not_taken_over(tenant_id: str) -> None:
    claim = taken(tenant_id, lease=timedelta(milliseconds=300), max_envelopes=2)
    with transaction.atomic():
        bus.hold(claim)
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_sleep(0.4)")
        assert Background(partial(take, tenant_id)).result() is None
        assert Background(bus.requeue_expired).result() == 0
        snapshot = make_snapshot(tenant_id=tenant_id, watermark=claim.last_token)
        bus.ack(claim, snapshot_id=snapshot.snapshot_id, max_envelopes=9)
        assert Background(partial(take, tenant_id)).result(5) is None, "nobody waits for a commit that may never come"
        assert Background(bus.requeue_expired).result(5) == 0
    assert tokens(taken(tenant_id)) == [3, 4, 5]


def test_takeover_after_a_rollback_starts_from_the_beginning(tenant_id: str) -> None:
    claim = taken(tenant_id, lease=timedelta(milliseconds=200))
    with transaction.atomic():
        bus.hold(claim)
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_sleep(0.3)")
        snapshot = make_snapshot(tenant_id=tenant_id, watermark=claim.last_token)
        bus.ack(claim, snapshot_id=snapshot.snapshot_id, max_envelopes=9)
        transaction.set_rollback(True)
    assert tokens(taken(tenant_id)) == [1, 2]
    assert resolve(tenant_id=tenant_id).visible_token == 0


def test_extended_lease_outlives_the_first_but_not_the_limit_of_an_attempt(tenant_id: str) -> None:
    claim = taken(tenant_id)
    row = IngestClaimBatch.objects.get(batch_id=claim.batch_id)
    bus.extend(claim, policy=replace(CLAIM, lease=timedelta(seconds=90)))
    extended = IngestClaimBatch.objects.get(batch_id=claim.batch_id)
    assert timedelta(seconds=85) < extended.lease_until - row.claimed_at < timedelta(seconds=120)
    bus.extend(claim, policy=replace(CLAIM, lease=timedelta(hours=1)))
    longest = IngestClaimBatch.objects.get(batch_id=claim.batch_id)
    assert longest.lease_until == row.claimed_at + CLAIM.attempt_limit
    assert take(tenant_id) is None


def test_requeue_frees_what_crashed_workers_held(tenant_id: str) -> None:
    taken(tenant_id)
    assert bus.requeue_expired() == 0, "the lease is live"
    run_out(tenant_id)
    assert bus.requeue_expired() == 1
    assert bus.requeue_expired() == 0
    assert IngestClaimBatch.objects.get(tenant_id=tenant_id).state == "expired"
    assert tokens(taken(tenant_id)) == [1, 2], "half of what was held, in case one of them killed the worker"


def test_crash_with_several_envelopes_is_nobodys_attempt(tenant_id: str) -> None:
    taken(tenant_id)
    run_out(tenant_id)
    bus.requeue_expired()
    assert attempts(tenant_id) == [0, 0, 0, 0, 0]


def test_crash_with_one_envelope_alone_is_its_attempt(tenant_id: str) -> None:
    for _ in range(2):
        taken(tenant_id, max_envelopes=1)
        run_out(tenant_id)
        bus.requeue_expired()
    assert attempts(tenant_id) == [2, 0, 0, 0, 0]


def test_released_claim_counts_for_nothing(tenant_id: str) -> None:
    for _ in range(10):
        bus.release(taken(tenant_id, max_envelopes=1))
    assert attempts(tenant_id) == [0] * 5
    assert tokens(taken(tenant_id, max_envelopes=1)) == [1]


def test_failed_claim_of_several_is_halved_until_one_is_alone(tenant_id: str) -> None:
    sizes = []
    for _ in range(3):
        claim = taken(tenant_id)
        sizes.append(len(claim.envelopes))
        bus.nack(claim, error="E", reason="r", policy=replace(CLAIM, max_attempts=3))
    assert sizes == [5, 2, 1]
    assert attempts(tenant_id) == [1, 0, 0, 0, 0]


def test_claims_grow_again_after_success(tenant_id: str) -> None:
    bus.nack(taken(tenant_id), error="E", reason="r", policy=replace(CLAIM, max_attempts=3))
    bus.nack(taken(tenant_id), error="E", reason="r", policy=replace(CLAIM, max_attempts=3))
    sizes = []
    for _ in range(3):
        claim = taken(tenant_id)
        sizes.append(len(claim.envelopes))
        publish(claim)
    assert sizes == [1, 2, 2]


def test_envelope_that_used_up_its_attempts_is_set_aside_and_named(tenant_id: str) -> None:
    twice = replace(CLAIM, max_attempts=2)
    with working_for(["a" * 32, "b" * 32]):
        for _ in range(2):
            bus.nack(taken(tenant_id, max_envelopes=1), error="ValueError", reason="broken", policy=twice)
    failed = IngestEvent.objects.get(tenant_id=tenant_id, state="failed")
    assert (failed.first_token, failed.attempts) == (1, 2)
    assert failed.error == {"error": "ValueError", "reason": "broken"}
    assert visible_tokens(tenant_ids=[tenant_id]) == {tenant_id: 1}, "the watermark goes on past it"
    (incident,) = IncidentAudit.objects.filter(tenant_id=tenant_id)
    assert (incident.kind, incident.severity) == ("ingest_event_failed", "error")
    assert incident.trace_id == "a" * 32
    assert incident.context["event_id"] == failed.event_id
    assert IngestPayload.objects.filter(event_id=failed.event_id).exists(), "it can be replayed"
    assert tokens(taken(tenant_id)) == [2]
    tables = [failed.table_id]
    assert first_failure(tenant_id=tenant_id, token=1, table_ids=tables) == failed.event_id
    assert first_failure(tenant_id=tenant_id, token=0, table_ids=tables) is None
    assert first_failure(tenant_id=tenant_id, token=9, table_ids=[tables[0] + 1]) is None


def test_ack_belongs_in_a_transaction(tenant_id: str) -> None:
    with pytest.raises(AssertionError):
        bus.ack(taken(tenant_id), snapshot_id=1, max_envelopes=9)


def test_claim_that_no_longer_agrees_with_its_envelopes_is_lost(tenant_id: str) -> None:
    claim = taken(tenant_id)
    IngestEvent.objects.filter(tenant_id=tenant_id, first_token=3).update(state="discarded")
    with pytest.raises(LeaseLost):
        publish(claim)
    assert states(tenant_id) == {"pending": 4, "discarded": 1}
