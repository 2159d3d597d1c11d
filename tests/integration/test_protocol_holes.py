"""A failed write is a hole in every snapshot that does not hold it, until its rows are there or it is given up."""

from dataclasses import replace

import pytest
from django.db import IntegrityError, transaction
from django.db.models import F

from catalog.readset import read_set
from catalog.snapshots import first_failure, resolve, visible_tokens
from ingest import bus
from ingest.backlog import FlushPolicy, due_tenants, is_due, lag
from ingest.models import IngestEvent
from tests.factories import make_table, make_tenant
from tests.lake import AT_ONCE, CLAIM, Lake, write_ids

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def tenant_id(lake: Lake) -> str:
    """A tenant whose write of the tokens 1 and 2 has failed and was passed by; that of the token 3 is visible."""
    tenant_id = make_tenant()
    make_table(tenant_id=tenant_id)
    write_ids(tenant_id, "a", "b")
    fail(tenant_id)
    write_ids(tenant_id, "c")
    assert lake.materialize(tenant_id) == 1
    return tenant_id


def fail(tenant_id: str) -> None:
    """The tenant's oldest pending envelope has failed for the last time."""
    claim = bus.claim(tenant_id=tenant_id, consumer_id="test", policy=replace(CLAIM, max_envelopes=1))
    assert claim is not None
    bus.nack(claim, error="Broken", reason="a test", policy=replace(CLAIM, max_attempts=1))


def replay(tenant_id: str) -> None:
    """The tenant's failed envelopes are tried again."""
    failed = IngestEvent.objects.filter(tenant_id=tenant_id, state="failed")
    assert failed.update(state="pending", attempts=0) == 1


def hole(tenant_id: str, *, snapshot_id: int | None = None, token: int = 3) -> int | None:
    """The failed write that a query of the table with this token is told of."""
    read = read_set(tenant_id=tenant_id, names=["events"], snapshot_id=snapshot_id, token=token)
    assert read is not None
    return read.failed_event_id


def event_id(tenant_id: str) -> int:
    return IngestEvent.objects.get(tenant_id=tenant_id, first_token=1).event_id


def table_ids(tenant_id: str) -> list[int]:
    return list(IngestEvent.objects.filter(tenant_id=tenant_id).values_list("table_id", flat=True).distinct())


def test_replayed_write_is_a_hole_until_it_is_committed(lake: Lake, tenant_id: str) -> None:
    failed = event_id(tenant_id)
    assert hole(tenant_id) == failed
    replay(tenant_id)
    assert hole(tenant_id) == failed
    assert first_failure(tenant_id=tenant_id, token=3, table_ids=table_ids(tenant_id)) == failed
    claim = bus.claim(tenant_id=tenant_id, consumer_id="test", policy=CLAIM)
    assert claim is not None
    assert hole(tenant_id) == failed
    bus.release(claim)
    assert lake.materialize(tenant_id) == 1
    assert lake.rows(tenant_id) == {"a": 1, "b": 1, "c": 1}
    assert hole(tenant_id) is None
    assert first_failure(tenant_id=tenant_id, token=3, table_ids=table_ids(tenant_id)) is None


def test_older_snapshot_keeps_its_hole_when_the_write_is_committed_later(lake: Lake, tenant_id: str) -> None:
    before = resolve(tenant_id=tenant_id)
    assert before.visible_token == 3
    replay(tenant_id)
    assert lake.materialize(tenant_id) == 1
    assert lake.rows(tenant_id, snapshot_id=before.snapshot_id) == {"c": 1}
    assert hole(tenant_id, snapshot_id=before.snapshot_id) == event_id(tenant_id), "a and b are not in this snapshot"
    assert hole(tenant_id, snapshot_id=before.snapshot_id, token=0) is None
    assert hole(tenant_id, snapshot_id=before.snapshot_id + 1) is None


def test_replay_neither_lowers_the_watermark_nor_takes_what_it_has_not(lake: Lake, tenant_id: str) -> None:
    replay(tenant_id)
    assert lake.materialize(tenant_id) == 1
    assert visible_tokens(tenant_ids=[tenant_id]) == {tenant_id: 3}
    write_ids(tenant_id, "d")
    assert lake.materialize(tenant_id) == 1
    assert lake.tokens(tenant_id) == [("a", 1), ("b", 2), ("c", 3), ("d", 4)]


def test_replay_and_newer_writes_go_together(lake: Lake, tenant_id: str) -> None:
    replay(tenant_id)
    write_ids(tenant_id, "d")
    assert lake.materialize(tenant_id) == 1
    assert lake.tokens(tenant_id) == [("a", 1), ("b", 2), ("c", 3), ("d", 4)]
    assert visible_tokens(tenant_ids=[tenant_id]) == {tenant_id: 4}


def test_replay_that_fails_again_is_the_hole_it_was(tenant_id: str) -> None:
    before = resolve(tenant_id=tenant_id)
    replay(tenant_id)
    write_ids(tenant_id, "d")
    fail(tenant_id)
    assert IngestEvent.objects.get(event_id=event_id(tenant_id)).state == "failed"
    assert visible_tokens(tenant_ids=[tenant_id]) == {tenant_id: 3}
    assert hole(tenant_id, snapshot_id=before.snapshot_id) == event_id(tenant_id)


def test_given_up_write_is_no_hole_in_any_snapshot(tenant_id: str) -> None:
    before = resolve(tenant_id=tenant_id)
    IngestEvent.objects.filter(event_id=event_id(tenant_id)).update(state="discarded")
    assert hole(tenant_id) is None
    assert hole(tenant_id, snapshot_id=before.snapshot_id) is None


def test_replay_is_seen_to_wait_and_to_be_due(tenant_id: str) -> None:
    told = lag(tenant_id=tenant_id)
    assert (told.pending_events, told.failed_events, told.token_lag) == (0, 2, 0)
    assert tenant_id not in due_tenants(policy=AT_ONCE)
    replay(tenant_id)
    told = lag(tenant_id=tenant_id)
    assert (told.pending_events, told.failed_events) == (2, 0)
    assert tenant_id in due_tenants(policy=AT_ONCE)
    assert is_due(tenant_id=tenant_id, wanted=0, policy=AT_ONCE)
    later = FlushPolicy(interval=CLAIM.attempt_limit, size_bytes=2**30)
    assert not is_due(tenant_id=tenant_id, wanted=0, policy=later)


def test_database_refuses_a_failure_that_nothing_went_past(tenant_id: str) -> None:
    write_ids(tenant_id, "d")
    pending = IngestEvent.objects.filter(tenant_id=tenant_id, state="pending")
    with pytest.raises(IntegrityError, match="ingest_event_failed_says_why"), transaction.atomic():
        pending.update(state="failed", error={"error": "Broken"})
    passed = IngestEvent.objects.filter(event_id=event_id(tenant_id))
    with pytest.raises(IntegrityError, match="ingest_event_passed"), transaction.atomic():
        passed.update(state="committed", snapshot_id=F("passed_in"))
