"""What becomes of a failed write: shown, replayed or discarded, once, whoever is faster."""

from functools import partial

import pytest
from django.db import transaction

from catalog.models import IncidentAudit
from catalog.snapshots import first_failure
from catalog.tables import drop_table
from duckmesh.kernel.errors import DuckMeshError
from ingest import bus
from ingest.backlog import lag
from ingest.errors import EventNotFailed, FailedEventNotFound, IdempotencyConflict
from ingest.failed import FailedEvent, discard, get_failed, list_failed, replay, replay_all
from ingest.models import IngestEvent, IngestKey, IngestPayload
from tests.factories import make_table, make_tenant
from tests.lake import CLAIM, Lake, fail_oldest, record, write, write_ids
from tests.together import Background, together, wait_until_blocked

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def tenant_id() -> str:
    """A tenant whose write of a and b has failed; c waits behind it."""
    tenant_id = make_tenant()
    make_table(tenant_id=tenant_id)
    write_ids(tenant_id, "a", "b")
    fail_oldest(tenant_id)
    write_ids(tenant_id, "c")
    return tenant_id


def failed(tenant_id: str) -> FailedEvent:
    (event,) = list_failed(tenant_id=tenant_id, table=None, after=0, limit=10)
    return event


def deeds(tenant_id: str) -> list[str]:
    return list(IncidentAudit.objects.filter(tenant_id=tenant_id).order_by("id").values_list("kind", flat=True))


def attempt(deed: partial[FailedEvent]) -> str:
    """What the deed came to: the state it left, or the code of its refusal."""
    try:
        return deed().state
    except DuckMeshError as exc:
        return exc.code


def test_failed_write_says_what_it_was_and_why(tenant_id: str) -> None:
    event = failed(tenant_id)
    assert (event.table_name, event.first_token, event.last_token, event.record_count) == ("events", 1, 2, 2)
    assert (event.attempts, event.error, event.reason, event.state) == (1, "Broken", "a test", "failed")
    assert event.failed_at is not None and event.failed_at >= event.accepted_at
    assert get_failed(tenant_id=tenant_id, event_id=event.event_id) == event


def test_list_is_in_the_order_of_tokens_a_page_at_a_time_and_of_one_table(tenant_id: str) -> None:
    make_table(tenant_id=tenant_id, name="Other")
    write_ids(tenant_id, "x", table="other")
    for _ in range(2):
        fail_oldest(tenant_id)
    find = partial(list_failed, tenant_id=tenant_id)
    assert [event.first_token for event in find(table=None, after=0, limit=2)] == [1, 3]
    assert [event.first_token for event in find(table=None, after=3, limit=2)] == [4]
    assert [event.table_name for event in find(table="OTHER", after=0, limit=9)] == ["Other"]
    assert find(table="none", after=0, limit=9) == []
    assert list_failed(tenant_id=make_tenant(), table=None, after=0, limit=9) == []


def test_replayed_write_is_visible_and_its_hole_gone(lake: Lake, tenant_id: str) -> None:
    event = failed(tenant_id)
    answered = replay(tenant_id=tenant_id, event_id=event.event_id, actor="key:7")
    assert (answered.state, answered.attempts) == ("pending", 0)
    assert list_failed(tenant_id=tenant_id, table=None, after=0, limit=9) == []
    lake.materialize(tenant_id)
    assert lake.rows(tenant_id) == {"a": 1, "b": 1, "c": 1}
    assert get_failed(tenant_id=tenant_id, event_id=event.event_id).state == "committed"
    tables = [IngestEvent.objects.get(event_id=event.event_id).table_id]
    assert first_failure(tenant_id=tenant_id, token=3, table_ids=tables) is None
    assert deeds(tenant_id) == ["ingest_event_failed", "ingest_event_replayed"]
    assert IncidentAudit.objects.get(kind="ingest_event_replayed").context["actor"] == "key:7"
    assert write_ids(tenant_id, "a").duplicate_count == 1


def test_replayed_write_that_fails_again_is_failed_again(tenant_id: str) -> None:
    event = failed(tenant_id)
    replay(tenant_id=tenant_id, event_id=event.event_id, actor="test")
    assert fail_oldest(tenant_id) == event.event_id
    again = failed(tenant_id)
    assert (again.event_id, again.attempts) == (event.event_id, 1)
    assert again.failed_at is not None and event.failed_at is not None and again.failed_at > event.failed_at
    assert replay(tenant_id=tenant_id, event_id=event.event_id, actor="test").state == "pending"


def test_discarded_write_frees_its_keys_and_nothing_else(lake: Lake, tenant_id: str) -> None:
    with pytest.raises(IdempotencyConflict):
        write(tenant_id, [record("a", n=1)])
    event = failed(tenant_id)
    assert discard(tenant_id=tenant_id, event_id=event.event_id, actor="test").state == "discarded"
    assert not IngestPayload.objects.filter(event_id=event.event_id).exists()
    assert IngestKey.objects.count() == 1, "the key of c"
    assert lag(tenant_id=tenant_id).failed_events == 0
    again = write_ids(tenant_id, "a", "c")
    assert (again.accepted_count, again.duplicate_count) == (1, 1)
    lake.materialize(tenant_id)
    assert lake.tokens(tenant_id) == [("c", 3), ("a", 4)]
    assert deeds(tenant_id) == ["ingest_event_failed", "ingest_event_discarded"]


def test_discarded_request_with_a_key_of_its_own_can_be_sent_again() -> None:
    tenant_id = make_tenant()
    make_table(tenant_id=tenant_id)
    write(tenant_id, [record("a", key=None)], request_key="once")
    event_id = fail_oldest(tenant_id)
    assert write(tenant_id, [record("a", key=None)], request_key="once").replayed
    discard(tenant_id=tenant_id, event_id=event_id, actor="test")
    assert not write(tenant_id, [record("a", key=None)], request_key="once").replayed


@pytest.mark.parametrize("deed", [replay, discard])
def test_what_is_not_failed_is_left_alone(tenant_id: str, deed: partial[FailedEvent]) -> None:
    pending = IngestEvent.objects.get(tenant_id=tenant_id, first_token=3).event_id
    event = failed(tenant_id)
    for who, event_id in ((tenant_id, pending), (tenant_id, 2**62), (make_tenant(), event.event_id)):
        with pytest.raises(FailedEventNotFound):
            deed(tenant_id=who, event_id=event_id, actor="test")
    assert failed(tenant_id) == event
    assert IngestEvent.objects.get(event_id=pending).state == "pending"


@pytest.mark.parametrize("first", [replay, discard])
@pytest.mark.parametrize("second", [replay, discard])
def test_second_deed_is_refused_by_name(
    tenant_id: str, first: partial[FailedEvent], second: partial[FailedEvent]
) -> None:
    event_id = failed(tenant_id).event_id
    left = first(tenant_id=tenant_id, event_id=event_id, actor="test").state
    with pytest.raises(EventNotFailed) as refused:
        second(tenant_id=tenant_id, event_id=event_id, actor="test")
    assert refused.value.context == {"failed_event_id": event_id, "state": left}
    assert len(deeds(tenant_id)) == 2


def test_of_many_at_once_one_succeeds(tenant_id: str) -> None:
    event_id = failed(tenant_id).event_id
    functions = [partial(deed, tenant_id=tenant_id, event_id=event_id, actor="t") for deed in (replay, discard)] * 5
    outcomes = together([partial(attempt, function) for function in functions])
    assert outcomes.count("EVENT_NOT_FAILED") == 9
    assert len(deeds(tenant_id)) == 2
    discarded = IngestEvent.objects.get(event_id=event_id).state == "discarded"
    assert IngestKey.objects.filter(event_id=event_id).count() == (0 if discarded else 2)


def test_replayed_write_cannot_be_discarded_under_the_worker_that_holds_it(lake: Lake, tenant_id: str) -> None:
    event_id = failed(tenant_id).event_id
    replay(tenant_id=tenant_id, event_id=event_id, actor="test")
    claim = bus.claim(tenant_id=tenant_id, consumer_id="test", policy=CLAIM)
    assert claim is not None and claim.envelopes[0].event_id == event_id
    with pytest.raises(EventNotFailed) as refused:
        discard(tenant_id=tenant_id, event_id=event_id, actor="test")
    assert refused.value.context["state"] == "pending"
    bus.release(claim)
    lake.materialize(tenant_id)
    assert lake.rows(tenant_id) == {"a": 1, "b": 1, "c": 1}


def test_same_keys_sent_during_a_discard_are_accepted_once_it_is_done(tenant_id: str) -> None:
    event_id = failed(tenant_id).event_id
    with transaction.atomic():
        discard(tenant_id=tenant_id, event_id=event_id, actor="test")
        sending = Background(partial(write_ids, tenant_id, "b", "a"))
        wait_until_blocked(1)
    sending.result()
    assert IngestKey.objects.filter(event_id=event_id).count() == 0
    assert IngestEvent.objects.filter(tenant_id=tenant_id, state="pending").count() == 2


def test_replay_of_a_write_to_a_dropped_table_goes_with_the_table(lake: Lake, tenant_id: str) -> None:
    drop_table(tenant_id=tenant_id, name="events", actor="test")
    event = failed(tenant_id)
    assert event.table_name == "events"
    replay(tenant_id=tenant_id, event_id=event.event_id, actor="test")
    lake.materialize(tenant_id)
    assert get_failed(tenant_id=tenant_id, event_id=event.event_id).state == "dropped"
    assert not IngestPayload.objects.exists()


def test_write_to_a_dropped_table_can_be_discarded(tenant_id: str) -> None:
    drop_table(tenant_id=tenant_id, name="events", actor="test")
    event_id = failed(tenant_id).event_id
    assert discard(tenant_id=tenant_id, event_id=event_id, actor="test").state == "discarded"


def test_all_failed_writes_are_replayed_each_by_itself(lake: Lake, tenant_id: str) -> None:
    fail_oldest(tenant_id)
    other = make_tenant()
    make_table(tenant_id=other)
    write_ids(other, "x")
    fail_oldest(other)
    assert len(replay_all(tenant_ids=[tenant_id], actor="test")) == 2
    assert failed(other)
    assert replay_all(tenant_ids=[tenant_id], actor="test") == []
    lake.materialize(tenant_id)
    assert lake.rows(tenant_id) == {"a": 1, "b": 1, "c": 1}
