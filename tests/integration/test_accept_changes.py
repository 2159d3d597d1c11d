"""Tables that change, and databases that break, between a request's arrival and its commit."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import pytest
from django.db import connection, connections, transaction

from catalog.errors import TableNotFound
from catalog.snapshots import latest_issued_token
from catalog.tables import TableInfo, drop_table
from catalog.tenants import create_tenant
from duckmesh.kernel.errors import OutcomeUnknown, Unavailable
from ingest.accept import Accepted, AcceptPolicy, accept
from ingest.decode.batch import DecodedBatch
from ingest.errors import Backpressure, IdempotencyConflict, InvalidRecord
from ingest.models import IngestEvent, IngestKey, IngestPayload
from ingest.publishing import WriteLimits
from tests.factories import make_table, make_tenant
from tests.lake import NO_LIMITS, Lake, Record, decoder, record, write, write_ids
from tests.together import Background, wait_until_blocked

TEN = WriteLimits(max_pending_records=10)
POLICY = AcceptPolicy(limits=NO_LIMITS)

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def tenant_id() -> str:
    tenant_id = make_tenant()
    make_table(tenant_id=tenant_id)
    return tenant_id


class Meddling:
    """Decodes a request and, before the first answer, lets something happen to the tables."""

    def __init__(self, records: Sequence[Record], meddle: Callable[[], object]) -> None:
        self._decode = decoder(records)
        self._meddle: Iterator[Callable[[], object]] = iter([meddle])
        self.tables: list[int] = []

    def __call__(self, table: TableInfo) -> DecodedBatch:
        self.tables.append(table.table_id)
        batch = self._decode(table)
        for meddle in self._meddle:
            Background(meddle).result()
        return batch


def recreate(tenant_id: str) -> int:
    drop_table(tenant_id=tenant_id, name="events", actor="test")
    return make_table(tenant_id=tenant_id).table_id


def test_table_recreated_under_a_request_gets_its_records(tenant_id: str, lake: Lake) -> None:
    write_ids(tenant_id, "old")
    decode = Meddling([record("a"), record("old")], partial(recreate, tenant_id))
    answer = accept(tenant_id=tenant_id, table="events", decode=decode, policy=POLICY)
    assert len(set(decode.tables)) == 2
    assert (answer.accepted_count, answer.duplicate_count) == (2, 0), "the old table's keys are not the new one's"
    lake.materialize(tenant_id)
    assert lake.rows(tenant_id) == {"a": 1, "old": 1}


def test_table_dropped_under_a_request_does_not_exist_for_it(tenant_id: str) -> None:
    decode = Meddling([record("a")], partial(drop_table, tenant_id=tenant_id, name="events", actor="test"))
    with pytest.raises(TableNotFound):
        accept(tenant_id=tenant_id, table="events", decode=decode, policy=POLICY)
    assert not IngestEvent.objects.filter(tenant_id=tenant_id).exists()
    assert not IngestKey.objects.filter(table_id=decode.tables[0]).exists()


def test_retry_of_known_records_is_not_answered_for_a_table_that_is_gone(tenant_id: str) -> None:
    write_ids(tenant_id, "a")
    decode = Meddling([record("a")], partial(drop_table, tenant_id=tenant_id, name="events", actor="test"))
    with pytest.raises(TableNotFound):
        accept(tenant_id=tenant_id, table="events", decode=decode, policy=POLICY)


def test_conflict_and_bad_records_are_judged_by_the_table_as_it_is(tenant_id: str) -> None:
    write(tenant_id, [record("a", n=1, key="k")])
    decode = Meddling([record("a", n=2, key="k")], partial(recreate, tenant_id))
    answer = accept(tenant_id=tenant_id, table="events", decode=decode, policy=POLICY)
    assert answer.accepted_count == 1
    write_ids(tenant_id, "warm")
    Background(partial(recreate, tenant_id)).result()
    with pytest.raises(InvalidRecord):
        write(tenant_id, [record("a", n="text")])


def test_table_made_a_moment_ago_is_found(tenant_id: str) -> None:
    write_ids(tenant_id, "a")
    with pytest.raises(TableNotFound):
        write_ids(tenant_id, "a", table="fresh")
    Background(lambda: make_table(tenant_id=tenant_id, name="Fresh")).result()
    assert write_ids(tenant_id, "a", table="FRESH").accepted_count == 1


def test_catalog_that_was_replaced_beneath_the_same_version_is_read_anew(tenant_id: str, lake: Lake) -> None:
    write_ids(tenant_id, "warm")

    def replace_catalog(*tables: str) -> None:
        with connection.cursor() as cursor:
            cursor.execute("TRUNCATE tenant, ingest_key CASCADE")
        create_tenant(tenant_id=tenant_id)
        for name in tables:
            make_table(tenant_id=tenant_id, name=name)

    replace_catalog("events")
    assert write_ids(tenant_id, "a").accepted_count == 1
    lake.materialize(tenant_id)
    assert lake.rows(tenant_id) == {"a": 1}
    replace_catalog("others")
    with pytest.raises(TableNotFound):
        write_ids(tenant_id, "b")


def test_write_behind_an_open_drop_waits_and_is_refused(tenant_id: str) -> None:
    write_ids(tenant_id, "warm")
    with transaction.atomic():
        drop_table(tenant_id=tenant_id, name="events", actor="test")
        late = Background(partial(write_ids, tenant_id, "late"))
        wait_until_blocked(1)
    with pytest.raises(TableNotFound):
        late.result()
    assert latest_issued_token(tenant_id=tenant_id) == 1


def test_drop_behind_an_open_write_waits_and_takes_it_along(tenant_id: str, lake: Lake) -> None:
    with transaction.atomic():
        write_ids(tenant_id, "a")
        drop = Background(partial(drop_table, tenant_id=tenant_id, name="events", actor="test"))
        wait_until_blocked(1)
        assert not drop.done
    drop.result()
    lake.materialize(tenant_id)
    assert list(IngestEvent.objects.filter(tenant_id=tenant_id).values_list("state", flat=True)) == ["dropped"]


def test_too_much_pending_is_refused_until_it_is_visible(tenant_id: str, lake: Lake) -> None:
    write_ids(tenant_id, *[f"a{n}" for n in range(8)])
    with pytest.raises(Backpressure) as refusal:
        write(tenant_id, [record("b1"), record("b2"), record("b3")], limits=TEN)
    assert refusal.value.retry_after
    assert write(tenant_id, [record("b1"), record("b2")], limits=TEN).max_visibility_token == 10
    assert write(tenant_id, [record("a1")], limits=TEN).duplicate_count == 1, "a retry needs no room"
    lake.materialize(tenant_id)
    assert write(tenant_id, [record("b3")], limits=TEN).max_visibility_token == 11


def test_request_larger_than_the_bound_is_taken_when_nothing_is_pending(tenant_id: str) -> None:
    assert write(tenant_id, [record(f"a{n}") for n in range(20)], limits=TEN).accepted_count == 20


def end_waiting_session() -> None:
    """The session that waits for a lock loses its connection."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
            " WHERE datname = current_database() AND wait_event_type = 'Lock'"
        )
        assert cursor.fetchone()[0] == 1


def test_connection_lost_while_publishing_leaves_the_outcome_unknown(tenant_id: str) -> None:
    with transaction.atomic():
        write_ids(tenant_id, "first")
        broken = Background(partial(write_ids, tenant_id, "second"))
        wait_until_blocked(1)
        end_waiting_session()
        with pytest.raises(OutcomeUnknown):
            broken.result()
    assert write_ids(tenant_id, "second").max_visibility_token == 2


def test_unknown_outcome_is_never_tried_again_by_the_server(tenant_id: str, lake: Lake) -> None:
    """Without keys a second try could write the records twice: a change of the tables is no reason for one."""
    write_ids(tenant_id, "warm")
    decode = decoder([record("a", key=None)])
    calls: list[int] = []

    def counted(table: TableInfo) -> DecodedBatch:
        calls.append(table.table_id)
        return decode(table)

    with transaction.atomic():
        recreate(tenant_id)
        broken = Background(partial(accept, tenant_id=tenant_id, table="events", decode=counted, policy=POLICY))
        wait_until_blocked(1)
        end_waiting_session()
    with pytest.raises(OutcomeUnknown):
        broken.result()
    assert len(calls) == 1
    lake.materialize(tenant_id)
    assert lake.rows(tenant_id) == {}


def test_database_that_does_not_answer_is_unavailable(tenant_id: str) -> None:
    write_ids(tenant_id, "warm")

    def without_database() -> None:
        database = connections["default"]
        database.settings_dict = {**database.settings_dict, "PORT": "1"}
        for _ in range(2):
            with pytest.raises(Unavailable):
                write_ids(tenant_id, "a")

    Background(without_database).result()


def test_payload_and_event_are_written_together(tenant_id: str) -> None:
    write_ids(tenant_id, "a", "b")
    (event,) = IngestEvent.objects.filter(tenant_id=tenant_id)
    payload = IngestPayload.objects.get(event_id=event.event_id).payload
    assert event.size_bytes == len(payload)
    assert IngestKey.objects.filter(event_id=event.event_id).count() == 2
    with pytest.raises(IdempotencyConflict):
        write(tenant_id, [record("c"), record("a", n=9)])
    assert IngestEvent.objects.filter(tenant_id=tenant_id).count() == 1
    assert IngestPayload.objects.count() == 1
    assert IngestKey.objects.filter(table_id=event.table_id).count() == 2


def test_answer_says_how_large_the_envelope_is(tenant_id: str) -> None:
    first, again = write_ids(tenant_id, "a"), write_ids(tenant_id, "a")
    assert isinstance(first, Accepted)
    assert first.size_bytes > 0
    assert again.size_bytes == 0, "a duplicate leaves nothing to write"
