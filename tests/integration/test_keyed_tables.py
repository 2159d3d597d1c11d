"""Keyed tables: a query sees the last operation of each key by token, at every snapshot, folded or not."""

from dataclasses import replace

import pytest

from catalog.definition import TableDefinition
from catalog.models import DataFile
from catalog.schema import ParsedColumn
from catalog.snapshots import resolve, visible_tokens
from catalog.tables import create_table
from duckmesh.kernel.errors import JSON
from ingest import failed
from ingest.models import IngestEvent
from tests.factories import make_table, make_tenant
from tests.lake import Lake, fail_oldest, record, write
from tests.tables import compact, rows_at, state_at

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def tenant_id() -> str:
    tenant_id = make_tenant()
    make_table(tenant_id=tenant_id, primary_key_cols=["id"])
    return tenant_id


def put(identity: str, n: int) -> dict[str, JSON]:
    return record(identity, n=n, key=None, op="upsert")


def delete(identity: str) -> dict[str, JSON]:
    return {"op": "delete", "payload": {"id": identity}}


def apply(lake: Lake, tenant_id: str, *records: dict[str, JSON]) -> int:
    """The records are visible, as one request; the snapshot that shows them."""
    write(tenant_id, list(records))
    assert lake.materialize(tenant_id) == 1
    return resolve(tenant_id=tenant_id).snapshot_id


def numbers(lake: Lake, tenant_id: str, *, snapshot_id: int | None = None) -> dict[str, int]:
    return {key: row["n"] for key, row in state_at(lake, tenant_id, snapshot_id=snapshot_id).items()}


def replay(lake: Lake, tenant_id: str) -> None:
    """The tenant's failed envelopes are visible."""
    assert failed.replay_all(tenant_ids=[tenant_id], actor="test")
    assert lake.materialize(tenant_id)


def kinds(tenant_id: str) -> list[bool]:
    """Of the live files, in token order: whether they are folded."""
    live = DataFile.objects.filter(tenant_id=tenant_id, intervals__removed_in=None)
    return list(live.order_by("min_token").values_list("folded", flat=True))


def test_last_operation_of_a_key_within_one_request_counts(lake: Lake, tenant_id: str) -> None:
    apply(lake, tenant_id, put("a", 1), put("b", 1), delete("a"), put("a", 2), put("b", 2), delete("b"))
    assert numbers(lake, tenant_id) == {"a": 2}
    compact(lake, tenant_id)
    assert kinds(tenant_id) == [True]
    assert numbers(lake, tenant_id) == {"a": 2}


def test_last_operation_counts_across_requests_in_one_file(lake: Lake, tenant_id: str) -> None:
    write(tenant_id, [put("a", 1), put("b", 1)])
    write(tenant_id, [put("a", 2), delete("b")])
    assert lake.materialize(tenant_id) == 1
    assert numbers(lake, tenant_id) == {"a": 2}


def test_every_snapshot_shows_its_own_state_before_and_after_compaction(lake: Lake, tenant_id: str) -> None:
    expected = {
        apply(lake, tenant_id, put("a", 1), put("b", 1)): {"a": 1, "b": 1},
        apply(lake, tenant_id, put("a", 2), delete("b")): {"a": 2},
    }
    compact(lake, tenant_id)
    expected[resolve(tenant_id=tenant_id).snapshot_id] = {"a": 2}
    expected |= {
        apply(lake, tenant_id, put("b", 3)): {"a": 2, "b": 3},
        apply(lake, tenant_id, delete("a"), delete("absent")): {"b": 3},
        apply(lake, tenant_id, delete("b")): {},
    }
    compact(lake, tenant_id)
    assert kinds(tenant_id) == []
    expected[resolve(tenant_id=tenant_id).snapshot_id] = {}
    expected[apply(lake, tenant_id, put("a", 9))] = {"a": 9}
    assert {at: numbers(lake, tenant_id, snapshot_id=at) for at in expected} == expected


def test_insert_on_a_keyed_table_is_an_upsert(lake: Lake, tenant_id: str) -> None:
    apply(lake, tenant_id, record("a", n=1, key=None))
    apply(lake, tenant_id, record("a", n=2, key=None))
    assert numbers(lake, tenant_id) == {"a": 2}


def test_deleted_row_does_not_come_back_with_an_older_write_that_is_replayed(lake: Lake, tenant_id: str) -> None:
    apply(lake, tenant_id, put("a", 1), put("c", 1))
    write(tenant_id, [put("a", 2), put("b", 2)])
    fail_oldest(tenant_id)
    apply(lake, tenant_id, delete("a"), put("c", 3))
    compact(lake, tenant_id)
    assert numbers(lake, tenant_id) == {"c": 3}
    assert kinds(tenant_id) == [True, False], "what is later than the failed write was not folded"
    replay(lake, tenant_id)
    assert numbers(lake, tenant_id) == {"b": 2, "c": 3}
    compact(lake, tenant_id)
    assert numbers(lake, tenant_id) == {"b": 2, "c": 3}
    assert kinds(tenant_id) == [True]


def test_fresh_files_beside_a_failed_write_are_gathered_and_keep_their_deletes(lake: Lake, tenant_id: str) -> None:
    write(tenant_id, [put("a", 1), put("b", 1)])
    fail_oldest(tenant_id)
    apply(lake, tenant_id, put("a", 2))
    apply(lake, tenant_id, delete("a"))
    assert len(compact(lake, tenant_id).slices) == 1
    assert kinds(tenant_id) == [False]
    assert numbers(lake, tenant_id) == {}
    replay(lake, tenant_id)
    assert numbers(lake, tenant_id) == {"b": 1}


def test_discarded_write_no_longer_holds_up_the_fold(lake: Lake, tenant_id: str) -> None:
    write(tenant_id, [put("a", 1)])
    fail_oldest(tenant_id)
    apply(lake, tenant_id, put("a", 2))
    compact(lake, tenant_id)
    assert kinds(tenant_id) == [False]
    event = IngestEvent.objects.get(tenant_id=tenant_id, state="failed")
    failed.discard(tenant_id=tenant_id, event_id=event.event_id, actor="test")
    compact(lake, tenant_id)
    assert kinds(tenant_id) == [True]
    assert numbers(lake, tenant_id) == {"a": 2}


VALUES: dict[str, list[JSON]] = {
    "bool": [True, False],
    "int32": [-(2**31), 0, 2**31 - 1],
    "int64": [-(2**63), 2**53 + 1, 2**63 - 1],
    "decimal(38,6)": ["-0.000001", "1.5", "12345678901234567890123456789012.345678"],
    "string": ["", "a", "A", "ä", "a\u0308", "a\u0000b", "x" * 300, "x" * 299 + "y", "🦆"],
    "date": ["0001-01-01", "2013-01-01", "9999-12-31"],
    "timestamp": ["1969-12-31T23:59:59.999999Z", "2013-01-01T00:00:00Z", "2013-01-01T00:00:00.000001Z"],
    "uuid": ["00000000-0000-0000-0000-000000000001", "ffffffff-ffff-ffff-ffff-ffffffffffff"],
}


@pytest.mark.parametrize("kind", VALUES)
def test_keys_of_every_type_are_told_apart_and_found_again(lake: Lake, kind: str) -> None:
    tenant_id = make_tenant()
    columns = [ParsedColumn(name="id", type=kind, nullable=False), ParsedColumn(name="n", type="int64")]
    make_table(tenant_id=tenant_id, columns=columns, primary_key_cols=["id"])
    keys = VALUES[kind]

    def put_all(n: int) -> None:
        write(tenant_id, [{"op": "upsert", "payload": {"id": key, "n": n}} for key in keys])
        assert lake.materialize(tenant_id) == 1

    put_all(1)
    compact(lake, tenant_id)
    put_all(2)
    write(tenant_id, [{"op": "delete", "payload": {"id": keys[0]}}])
    assert lake.materialize(tenant_id) == 1
    before = state_at(lake, tenant_id)
    assert [row["n"] for row in before.values()] == [2] * (len(keys) - 1)
    compact(lake, tenant_id)
    assert state_at(lake, tenant_id) == before
    assert kinds(tenant_id) == [True]


def test_key_of_several_columns_is_one_key(lake: Lake) -> None:
    tenant_id = make_tenant()
    columns = [ParsedColumn(name=name, type="string", nullable=False) for name in ("a", "b")]
    make_table(tenant_id=tenant_id, columns=[*columns, ParsedColumn(name="n", type="int64")], primary_key_cols="ba")

    def put_pair(a: str, b: str, n: int) -> dict[str, JSON]:
        return {"op": "upsert", "payload": {"a": a, "b": b, "n": n}}

    def state() -> set[tuple[str, str, int]]:
        return {(row["a"], row["b"], row["n"]) for row in rows_at(lake, tenant_id)}

    apply(lake, tenant_id, put_pair("x", "y", 1), put_pair("y", "x", 2), put_pair("x", "x", 3))
    compact(lake, tenant_id)
    apply(lake, tenant_id, put_pair("x", "y", 4), {"op": "delete", "payload": {"a": "y", "b": "x"}})
    expected = {("x", "y", 4), ("x", "x", 3)}
    assert state() == expected
    compact(lake, tenant_id)
    assert state() == expected


def test_fold_rewrites_only_the_folded_files_that_hold_its_keys(lake: Lake, tenant_id: str) -> None:
    for identity in "abcdef":
        apply(lake, tenant_id, put(identity, 1))
        compact(lake, tenant_id, min_fold_files=1, dead_share=0.0)
    untouched = set(DataFile.objects.filter(tenant_id=tenant_id, intervals__removed_in=None).values_list("path"))
    assert len(untouched) == 6
    apply(lake, tenant_id, put("c", 2))
    result = compact(lake, tenant_id, min_fold_files=1, dead_share=0.0)
    assert [(done.kind, done.input_files, done.output_files) for done in result.slices] == [
        ("clean", 1, 0),
        ("settle", 1, 1),
    ]
    live = set(DataFile.objects.filter(tenant_id=tenant_id, intervals__removed_in=None).values_list("path"))
    assert len(live & untouched) == 5
    compact(lake, tenant_id)
    assert kinds(tenant_id) == [True]
    assert numbers(lake, tenant_id) == dict.fromkeys("abdef", 1) | {"c": 2}


def test_folding_waits_until_it_pays(lake: Lake, tenant_id: str) -> None:
    apply(lake, tenant_id, *(put(str(number), 0) for number in range(1_000)))
    compact(lake, tenant_id)
    for number in range(20):
        assert not compact(lake, tenant_id, min_fold_files=2).slices
        apply(lake, tenant_id, put(str(number % 5), number))
    snapshot = resolve(tenant_id=tenant_id)
    result = compact(lake, tenant_id, min_fold_files=100)
    assert [(done.kind, done.input_files, done.output_rows) for done in result.slices] == [("gather", 20, 5)]
    assert kinds(tenant_id) == [True, False]
    result = compact(lake, tenant_id, min_fold_files=1, dead_share=0.005)
    assert [done.kind for done in result.slices] == ["clean", "settle"]
    assert numbers(lake, tenant_id)["4"] == 19
    assert numbers(lake, tenant_id) == numbers(lake, tenant_id, snapshot_id=snapshot.snapshot_id)
    assert resolve(tenant_id=tenant_id).visible_token == snapshot.visible_token
    assert visible_tokens(tenant_ids=[tenant_id]) == {tenant_id: 1_020}


@pytest.fixture
def divided(lake: Lake) -> str:
    """A tenant with a keyed table divided by region."""
    tenant_id = make_tenant()
    columns = [ParsedColumn(name=name, type="string", nullable=False) for name in ("region", "id")]
    definition = TableDefinition(
        name="events",
        columns=(*columns, ParsedColumn(name="n", type="int64")),
        primary_key_cols=("region", "id"),
        partition_spec={"fields": [{"column": "region", "transform": "identity"}]},
    )
    create_table(tenant_id=tenant_id, definition=definition, actor="test")
    return tenant_id


def put_in(region: str, identity: str, n: int) -> dict[str, JSON]:
    return {"op": "upsert", "payload": {"region": region, "id": identity, "n": n}}


def of_regions(lake: Lake, tenant_id: str) -> set[tuple[str, str, int]]:
    return {(row["region"], row["id"], row["n"]) for row in rows_at(lake, tenant_id)}


def partitions(tenant_id: str) -> list[str]:
    """The region of each live file, in the order of the alphabet; a mixed file has none."""
    live = DataFile.objects.filter(tenant_id=tenant_id, intervals__removed_in=None)
    return sorted(values.get("region", "") for values in live.values_list("partition_values", flat=True))


def test_partitions_of_a_keyed_table_are_folded_each_by_itself(lake: Lake, divided: str) -> None:
    apply(lake, divided, put_in("east", "a", 1), put_in("west", "a", 2))
    compact(lake, divided)
    assert partitions(divided) == ["east", "west"]
    apply(lake, divided, put_in("west", "a", 3), put_in("west", "b", 4))
    result = compact(lake, divided)
    assert [(done.kind, done.input_files) for done in result.slices] == [("clean", 1), ("settle", 1)]
    assert partitions(divided) == ["east", "west"]
    assert kinds(divided) == [True, True]
    assert of_regions(lake, divided) == {("east", "a", 1), ("west", "a", 3), ("west", "b", 4)}


def test_file_of_several_partitions_makes_the_table_one_partition(lake: Lake, divided: str) -> None:
    apply(lake, divided, put_in("east", "a", 1), put_in("west", "a", 2))
    compact(lake, divided)
    write(divided, [put_in(region, "a", 5) for region in ("east", "north", "west")])
    assert replace(lake, max_partitions=1).materialize(divided) == 1
    assert "" in partitions(divided)
    expected = {(region, "a", 5) for region in ("east", "north", "west")}
    assert of_regions(lake, divided) == expected
    compact(lake, divided)
    assert kinds(divided) == [True]
    assert of_regions(lake, divided) == expected
