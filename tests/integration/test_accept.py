"""A request becomes durable once, with tokens that have no holes, whatever else happens at the same time."""

import random
from functools import partial

import pytest
from django.db import connection, transaction

from catalog.snapshots import latest_issued_token
from ingest.accept import Accepted
from ingest.errors import IdempotencyConflict, InvalidRecord
from ingest.models import IngestEvent
from tests.factories import make_table, make_tenant
from tests.lake import Lake, record, write, write_ids
from tests.together import Background, together, wait_until_blocked

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def tenant_id() -> str:
    tenant_id = make_tenant()
    make_table(tenant_id=tenant_id)
    return tenant_id


def ranges(tenant_id: str) -> list[tuple[int, int]]:
    """First and last token of every envelope, in their order."""
    events = IngestEvent.objects.filter(tenant_id=tenant_id).order_by("first_token")
    return list(events.values_list("first_token", "last_token"))


def assert_no_holes(tenant_id: str) -> None:
    next_token = 1
    for first, last in ranges(tenant_id):
        assert first == next_token
        next_token = last + 1
    assert latest_issued_token(tenant_id=tenant_id) == next_token - 1


def test_accepted_records_have_the_next_tokens(tenant_id: str, lake: Lake) -> None:
    first = write_ids(tenant_id, "a", "b")
    second = write_ids(tenant_id, "c")
    assert (first.accepted_count, first.duplicate_count, first.max_visibility_token) == (2, 0, 2)
    assert (second.accepted_count, second.max_visibility_token) == (1, 3)
    lake.materialize(tenant_id)
    assert lake.tokens(tenant_id) == [("a", 1), ("b", 2), ("c", 3)]


def test_duplicates_are_left_out_and_covered_by_the_first_token(tenant_id: str, lake: Lake) -> None:
    first = write_ids(tenant_id, "a", "b", "c")
    write_ids(tenant_id, "z")
    again = write_ids(tenant_id, "b")
    assert (again.accepted_count, again.duplicate_count) == (0, 1)
    assert 2 <= again.max_visibility_token <= first.max_visibility_token
    mixed = write_ids(tenant_id, "d", "b", "e", "a", "d")
    assert (mixed.accepted_count, mixed.duplicate_count, mixed.max_visibility_token) == (2, 3, 6)
    lake.materialize(tenant_id)
    assert lake.tokens(tenant_id) == [("a", 1), ("b", 2), ("c", 3), ("z", 4), ("d", 5), ("e", 6)]


def test_records_without_a_key_are_not_deduplicated(tenant_id: str, lake: Lake) -> None:
    for _ in range(2):
        write(tenant_id, [record("a", key=None), record("a", key=None)])
    lake.materialize(tenant_id)
    assert lake.rows(tenant_id) == {"a": 4}


def test_fifty_clients_retrying_one_key_write_one_row(tenant_id: str, lake: Lake) -> None:
    answers = together([lambda: write_ids(tenant_id, "one")] * 50)
    assert sorted(answer.accepted_count for answer in answers) == [0] * 49 + [1]
    assert {answer.accepted_count + answer.duplicate_count for answer in answers} == {1}
    assert {answer.max_visibility_token for answer in answers} == {1}
    assert ranges(tenant_id) == [(1, 1)]
    lake.materialize(tenant_id)
    assert lake.tokens(tenant_id) == [("one", 1)]


def test_batches_with_the_same_keys_in_opposite_order_never_deadlock(tenant_id: str, lake: Lake) -> None:
    before = deadlocks()

    def client(number: int) -> list[Accepted]:
        answers = []
        for batch in range(40):
            identities = [f"{batch}-{i}" for i in range(40)]
            if number % 2:
                identities.reverse()
            answers.append(write_ids(tenant_id, *identities))
        return answers

    answers = [
        answer for client_answers in together([partial(client, n) for n in range(6)]) for answer in client_answers
    ]
    assert sum(answer.accepted_count for answer in answers) == 1_600
    assert all(answer.accepted_count + answer.duplicate_count == 40 for answer in answers)
    assert_no_holes(tenant_id)
    lake.materialize(tenant_id)
    assert lake.rows(tenant_id) == {f"{batch}-{i}": 1 for batch in range(40) for i in range(40)}
    assert deadlocks() == before, "accept retries a deadlock, which would hide it"


def deadlocks() -> int:
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_stat_force_next_flush(), pg_stat_clear_snapshot()")
        cursor.execute("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
        return int(cursor.fetchone()[0])


def test_overlapping_random_batches_write_each_key_once(tenant_id: str, lake: Lake) -> None:
    def client(seed: int) -> int:
        chance = random.Random(seed)
        return sum(
            write_ids(tenant_id, *chance.sample([f"k{i}" for i in range(60)], k=20)).accepted_count for _ in range(15)
        )

    accepted = sum(together([partial(client, seed) for seed in range(8)]))
    assert_no_holes(tenant_id)
    lake.materialize(tenant_id)
    rows = lake.rows(tenant_id)
    assert set(rows.values()) == {1}
    assert len(rows) == accepted


def test_known_key_with_another_payload_is_a_conflict_and_nothing_is_written(tenant_id: str) -> None:
    write(tenant_id, [record("a", n=1, key="k")])
    with pytest.raises(IdempotencyConflict) as refusal:
        write(tenant_id, [record("b"), record("a", n=2, key="k"), record("c")])
    errors = refusal.value.context["errors"]
    assert isinstance(errors, list) and len(errors) == 1
    assert isinstance(errors[0], dict) and errors[0]["index"] == 1
    assert write_ids(tenant_id, "b", "c").accepted_count == 2, "their keys were not used"
    assert_no_holes(tenant_id)


def test_known_key_with_another_op_is_a_conflict() -> None:
    tenant_id = make_tenant()
    make_table(tenant_id=tenant_id, primary_key_cols=["id"])
    write(tenant_id, [record("a", key="k", op="upsert")])
    assert write(tenant_id, [record("a", key="k", op="insert")]).duplicate_count == 1, "insert means upsert here"
    with pytest.raises(IdempotencyConflict):
        write(tenant_id, [record("a", key="k", op="delete")])


def test_two_payloads_of_one_key_at_one_moment_leave_one(tenant_id: str, lake: Lake) -> None:
    def attempt(n: int) -> str:
        try:
            return f"accepted {write(tenant_id, [record('a', n=n, key='k')]).accepted_count}"
        except IdempotencyConflict:
            return "conflict"

    assert sorted(together([partial(attempt, n) for n in range(12)])) == ["accepted 1"] + ["conflict"] * 11
    lake.materialize(tenant_id)
    assert lake.rows(tenant_id) == {"a": 1}


def test_key_of_another_table_or_tenant_is_another_key(tenant_id: str) -> None:
    make_table(tenant_id=tenant_id, name="other")
    stranger = make_tenant()
    make_table(tenant_id=stranger)
    write(tenant_id, [record("a", n=1, key="k")])
    assert write(tenant_id, [record("a", n=2, key="k")], table="other").accepted_count == 1
    assert write(stranger, [record("a", n=3, key="k")]).max_visibility_token == 1


def test_request_key_answers_a_retry_with_the_first_result(tenant_id: str, lake: Lake) -> None:
    records = [record("a", key=None), record("b", key=None)]
    first = write(tenant_id, records, request_key="r1")
    write_ids(tenant_id, "z")
    again = write(tenant_id, records, request_key="r1")
    assert (again.accepted_count, again.duplicate_count, again.max_visibility_token) == (2, 0, 2)
    assert (first.replayed, again.replayed) == (False, True)
    with pytest.raises(IdempotencyConflict):
        write(tenant_id, records[:1], request_key="r1")
    with pytest.raises(IdempotencyConflict):
        write(tenant_id, records[::-1], request_key="r1")
    assert write(tenant_id, [record("r1", key="r1")]).accepted_count == 1, "records have keys of their own"
    lake.materialize(tenant_id)
    assert lake.rows(tenant_id) == {"a": 1, "b": 1, "z": 1, "r1": 1}


def test_twenty_clients_retrying_one_request_write_it_once(tenant_id: str, lake: Lake) -> None:
    records = [record("a", key=None), record("b", key=None)]
    answers = together([lambda: write(tenant_id, records, request_key="r")] * 20)
    assert sorted(answer.replayed for answer in answers) == [False] + [True] * 19
    assert {(answer.accepted_count, answer.max_visibility_token) for answer in answers} == {(2, 2)}
    lake.materialize(tenant_id)
    assert lake.rows(tenant_id) == {"a": 1, "b": 1}


def test_refused_requests_leave_no_hole(tenant_id: str) -> None:
    write(tenant_id, [record("seed", n=1)])

    def client(number: int) -> None:
        for i in range(15):
            write_ids(tenant_id, f"{number}-{i}", f"{number}-{i}-too")
            for wrong in (record("bad", n="text"), record("seed", n=2)):
                with pytest.raises((InvalidRecord, IdempotencyConflict)):
                    write(tenant_id, [record(f"never-{number}-{i}"), wrong])

    together([partial(client, number) for number in range(6)])
    assert_no_holes(tenant_id)
    assert latest_issued_token(tenant_id=tenant_id) == 1 + 6 * 15 * 2


def test_slow_commit_of_a_low_token_hides_no_row(tenant_id: str, lake: Lake) -> None:
    with transaction.atomic():
        assert write_ids(tenant_id, "slow").max_visibility_token == 1
        fast = [Background(partial(write_ids, tenant_id, f"fast-{n}")) for n in range(4)]
        wait_until_blocked(1)
        other = Background(partial(lake.materialize, tenant_id))
        assert other.result() == 0, "nothing is committed, so nothing is due"
    answers = [background.result() for background in fast]
    tokens = [answer.max_visibility_token for answer in answers if isinstance(answer, Accepted)]
    assert sorted(tokens) == [2, 3, 4, 5]
    lake.materialize(tenant_id)
    assert lake.tokens(tenant_id)[0] == ("slow", 1)
    assert len(lake.tokens(tenant_id)) == 5


def test_write_that_rolls_back_behind_waiting_ones_leaves_no_hole(tenant_id: str, lake: Lake) -> None:
    with transaction.atomic():
        write_ids(tenant_id, "undone", "undone-too")
        waiting = [Background(partial(write_ids, tenant_id, f"kept-{n}")) for n in range(3)]
        wait_until_blocked(1)
        transaction.set_rollback(True)
    for background in waiting:
        background.result()
    assert_no_holes(tenant_id)
    assert latest_issued_token(tenant_id=tenant_id) == 3
    assert write_ids(tenant_id, "undone").accepted_count == 1, "its key is free again"


def test_duplicate_of_an_open_write_waits_for_how_it_ends(tenant_id: str) -> None:
    for outcome in ("committed", "rolled back"):
        with transaction.atomic():
            write_ids(tenant_id, outcome)
            retry = Background(partial(write_ids, tenant_id, outcome))
            wait_until_blocked(1)
            assert not retry.done
            transaction.set_rollback(outcome == "rolled back")
        answer = retry.result()
        assert isinstance(answer, Accepted)
        assert answer.accepted_count == (outcome == "rolled back")
    assert_no_holes(tenant_id)


def test_long_open_transaction_elsewhere_stops_nobody(tenant_id: str) -> None:
    other = make_tenant()
    make_table(tenant_id=other)
    with transaction.atomic():
        write_ids(tenant_id, "open")
        answer = Background(partial(write_ids, other, "a")).result()
    assert isinstance(answer, Accepted)
    assert answer.max_visibility_token == 1
