"""Small requests that come together share a commit; each gets its own answer, and none pays for another."""

import threading
import time
from collections.abc import Callable, Sequence
from functools import partial

import pytest
from django.db import connection, transaction

from catalog.tables import drop_table
from duckmesh.kernel.errors import OutcomeUnknown
from ingest.accept import Accepted, queue_of
from ingest.errors import IdempotencyConflict, RateLimited
from ingest.group import TenantQueue
from ingest.models import IngestEvent
from ingest.publishing import Publication, Published, WriteLimits
from tests.factories import make_table, make_tenant
from tests.lake import Lake, publication, record, write, write_ids
from tests.together import Background, together, wait_until_blocked

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def tenant_id() -> str:
    tenant_id = make_tenant()
    make_table(tenant_id=tenant_id)
    make_table(tenant_id=tenant_id, name="others")
    return tenant_id


def commits(tenant_id: str) -> int:
    """How many transactions the tenant's envelopes were written in."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(DISTINCT xmin::text) FROM ingest_event WHERE tenant_id = %s", [tenant_id])
        return int(cursor.fetchone()[0])


def behind_a_slow_write(tenant_id: str, *writes: Callable[[], Accepted]) -> list[Background]:
    """The writes, all of them in the queue behind one that waits for a slow one, which now goes on."""
    with transaction.atomic():
        write_ids(tenant_id, "slow")
        first = Background(partial(write_ids, tenant_id, "first"))
        wait_until_blocked(1)
        started = [Background(one) for one in writes]
        wait_for(lambda: len(queue_of(tenant_id)) == len(writes))
    first.result()
    return started


def accepted(background: Background) -> Accepted:
    """What the write was answered."""
    answer = background.result()
    assert isinstance(answer, Accepted)
    return answer


def wait_for(condition: Callable[[], bool]) -> None:
    """The condition holds."""
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_requests_that_wait_for_a_commit_share_the_next(tenant_id: str, lake: Lake) -> None:
    waiting = behind_a_slow_write(
        tenant_id,
        *(partial(write_ids, tenant_id, f"a-{n}", f"b-{n}", table="events" if n % 2 else "others") for n in range(20)),
    )
    answers = [accepted(background) for background in waiting]
    assert sorted(answer.max_visibility_token for answer in answers) == list(range(4, 43, 2))
    assert all((answer.accepted_count, answer.duplicate_count) == (2, 0) for answer in answers)
    assert commits(tenant_id) < 10, "twenty requests in far fewer transactions"
    lake.materialize(tenant_id)
    assert len(lake.rows(tenant_id)) == 22
    assert len(lake.rows(tenant_id, "others")) == 20


def test_one_bad_request_never_fails_its_neighbours(tenant_id: str, lake: Lake) -> None:
    write(tenant_id, [record("known", n=1)])
    waiting = behind_a_slow_write(
        tenant_id,
        partial(write, tenant_id, [record("good", n=1)]),
        partial(write, tenant_id, [record("known", n=2)]),
        partial(write, tenant_id, [record("known", n=1)]),
        partial(write, tenant_id, [record("fine", n=1)], request_key="r"),
        partial(write, tenant_id, [record("fine", n=1)], request_key="r"),
    )
    good, conflict, duplicate, *retries = waiting
    assert accepted(good).accepted_count == 1
    with pytest.raises(IdempotencyConflict):
        conflict.result()
    assert accepted(duplicate).duplicate_count == 1
    assert sorted(accepted(retry).replayed for retry in retries) == [False, True]
    lake.materialize(tenant_id)
    assert lake.rows(tenant_id) == {"slow": 1, "first": 1, "known": 1, "good": 1, "fine": 1}


def test_group_whose_tables_changed_is_decoded_again(tenant_id: str, lake: Lake) -> None:
    with transaction.atomic():
        write_ids(tenant_id, "slow")
        drop_table(tenant_id=tenant_id, name="others", actor="test")
        waiting = [Background(partial(write_ids, tenant_id, f"kept-{n}")) for n in range(6)]
        wait_until_blocked(1)
    assert {accepted(background).accepted_count for background in waiting} == {1}
    lake.materialize(tenant_id)
    assert len(lake.rows(tenant_id)) == 7


def test_group_beyond_the_rate_is_taken_one_by_one(tenant_id: str) -> None:
    limits = WriteLimits(max_records_per_second=1)  # and a burst of two
    waiting = behind_a_slow_write(
        tenant_id, *(partial(write, tenant_id, [record(f"r-{n}")], limits=limits) for n in range(6))
    )
    refused = taken = 0
    for background in waiting:
        try:
            taken += accepted(background).accepted_count
        except RateLimited:
            refused += 1
    assert taken + refused == 6
    assert 1 <= taken <= 3
    assert refused


def test_many_writers_of_few_records_lose_and_double_nothing(tenant_id: str, lake: Lake) -> None:
    def client(number: int) -> list[Accepted]:
        # Half of what each writes, its neighbour writes too.
        return [write_ids(tenant_id, f"{number}-{i}", f"{(number + 1) % 8}-{i}") for i in range(25)]

    answers = [answer for some in together([partial(client, n) for n in range(8)]) for answer in some]
    assert sum(answer.accepted_count for answer in answers) == 200
    next_token = 1
    for first, last in (
        IngestEvent.objects.filter(tenant_id=tenant_id).order_by("first_token").values_list("first_token", "last_token")
    ):
        assert first == next_token
        next_token = last + 1
    lake.materialize(tenant_id)
    assert set(lake.rows(tenant_id).values()) == {1}
    assert len(lake.rows(tenant_id)) == 200


def test_leader_that_is_struck_down_leaves_nobody_waiting(tenant_id: str) -> None:
    """Whatever ends the thread that leads, those it led learn that the outcome is not known, and another one leads."""
    queue, entered, go_on = TenantQueue(), threading.Event(), threading.Event()
    published = Published(outcome="accepted", first=1, last=1, duplicates=0, covering=0, rates=())

    def alone(_publication: Publication) -> Published:
        entered.set()
        go_on.wait(10)
        return published

    def struck(_publications: Sequence[Publication]) -> list[Published]:
        raise SystemExit

    one = publication(tenant_id, [record("a")])
    publish = partial(queue.publish, one, alone=alone, together=struck)
    first = Background(publish)
    entered.wait(10)
    others = [Background(publish) for _ in range(3)]
    wait_for(lambda: len(queue) == 3)
    go_on.set()
    assert first.result() == published
    ends = []
    for background in others:
        with pytest.raises((OutcomeUnknown, SystemExit)) as end:
            background.result()
        ends.append(end.type)
    assert sorted(ends, key=str) == sorted([OutcomeUnknown, OutcomeUnknown, SystemExit], key=str)
    assert publish() == published
