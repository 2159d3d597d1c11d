"""Tables that grow with their writes: published with them, at once from several sides, and read across versions."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import pytest

from catalog.change import parse_change
from catalog.definition import TableDefinition
from catalog.evolution import evolve_table
from catalog.models import Snapshot, TableSchemaVersion
from catalog.snapshots import resolve
from catalog.tables import TableInfo, create_table, drop_table, get_table
from ingest.accept import Accepted, AcceptPolicy, accept
from ingest.decode.batch import DecodedBatch
from ingest.errors import Backpressure, IdempotencyConflict, InvalidRecord, RateLimited
from ingest.publishing import Stale, WriteLimits, publish_growing
from tests.factories import make_tenant
from tests.lake import NO_LIMITS, Lake, Record, decoder, publication, write
from tests.reading import read_rows
from tests.together import Background, together

pytestmark = pytest.mark.django_db(transaction=True)

WIDE = 2**53 + 1


@pytest.fixture
def tenant_id() -> str:
    """A tenant with a growing table `events`."""
    tenant_id = make_tenant()
    create_table(tenant_id=tenant_id, definition=TableDefinition(name="events", columns=(), grows=True), actor="test")
    return tenant_id


def put(
    tenant_id: str, *payloads: Mapping[str, Any], key: str | None = None, request_key: str | None = None
) -> Accepted:
    named = {"idempotency_key": key} if key else {}
    return write(tenant_id, [{"payload": dict(payload), **named} for payload in payloads], request_key=request_key)


def rows_of(lake: Lake, tenant_id: str, *, snapshot_id: int | None = None) -> list[dict[str, Any]]:
    return read_rows(lake, tenant_id, "FROM events", snapshot_id=snapshot_id)


def types(tenant_id: str) -> dict[str, str]:
    return {column.name: column.type for column in get_table(tenant_id=tenant_id, name="events").schema.columns}


def version(tenant_id: str) -> int:
    return get_table(tenant_id=tenant_id, name="events").schema.version


def test_columns_appear_and_widen_with_the_writes_that_need_them(tenant_id: str, lake: Lake) -> None:
    steps: list[tuple[dict[str, Any], dict[str, str]]] = [
        ({"a": 1}, {"a": "int64"}),
        ({"a": 2, "b": "x"}, {"a": "int64", "b": "string"}),
        ({"a": 0.5}, {"a": "float64", "b": "string"}),
        ({"a": WIDE}, {"a": "string", "b": "string"}),
        ({"b": {"c": [1, None]}}, {"a": "string", "b": "json"}),
        ({"a": True}, {"a": "json", "b": "json"}),
    ]
    for number, (payload, expected) in enumerate(steps, start=2):
        put(tenant_id, payload)
        assert (types(tenant_id), version(tenant_id)) == (expected, number)
        if number % 2:
            lake.materialize(tenant_id)
    put(tenant_id, {"a": 1.0})
    assert version(tenant_id) == len(steps) + 1
    lake.materialize(tenant_id)
    rows = sorted(rows_of(lake, tenant_id), key=repr)
    assert rows == sorted(
        [
            {"a": "1", "b": None},
            {"a": "2", "b": '"x"'},
            {"a": "0.5", "b": None},
            {"a": str(WIDE), "b": None},
            {"a": None, "b": '{"c":[1,null]}'},
            {"a": "true", "b": None},
            {"a": "1", "b": None},
        ],
        key=repr,
    )


def test_an_old_snapshot_shows_the_old_columns(tenant_id: str, lake: Lake) -> None:
    put(tenant_id, {"a": 1})
    lake.materialize(tenant_id)
    old = resolve(tenant_id=tenant_id).snapshot_id
    put(tenant_id, {"a": 0.5, "b": True})
    lake.materialize(tenant_id)
    assert rows_of(lake, tenant_id, snapshot_id=old) == [{"a": 1}]
    assert sorted(rows_of(lake, tenant_id), key=repr) == [{"a": 0.5, "b": True}, {"a": 1.0, "b": None}]


@pytest.mark.parametrize("growers", [2, 8, 24])
def test_writers_that_grow_a_table_at_once_all_succeed(tenant_id: str, lake: Lake, growers: int) -> None:
    def grow(number: int) -> list[Accepted]:
        return [put(tenant_id, {"id": f"{number}-{n}", f"c{number}_{n}": n, "shared": number}) for n in range(2)]

    accepted = [a for each in together([partial(grow, number) for number in range(growers)]) for a in each]
    assert sorted(a.max_visibility_token for a in accepted) == list(range(1, 2 * growers + 1))
    lake.materialize(tenant_id)
    rows = {row["id"]: row for row in rows_of(lake, tenant_id)}
    names = {f"c{number}_{n}" for number in range(growers) for n in range(2)}
    assert set(types(tenant_id)) == names | {"id", "shared"}
    for number in range(growers):
        for n in range(2):
            given = {name: value for name, value in rows[f"{number}-{n}"].items() if value is not None}
            assert given == {"id": f"{number}-{n}", f"c{number}_{n}": n, "shared": number}


def test_writers_that_widen_one_column_at_once_agree(tenant_id: str, lake: Lake) -> None:
    values: list[object] = [1, 0.5, WIDE, 7, "a", True, {"b": 1}, 2.5]
    together([partial(put, tenant_id, {"v": value}) for value in values])
    lake.materialize(tenant_id)
    assert types(tenant_id) == {"v": "json"}
    found = sorted(row["v"] for row in rows_of(lake, tenant_id))
    assert found == sorted(["1", "0.5", str(WIDE), "7", '"a"', "true", '{"b":1}', "2.5"])


def test_a_write_that_is_refused_leaves_no_column_behind(tenant_id: str) -> None:
    put(tenant_id, {"a": 1}, key="k")
    before = get_table(tenant_id=tenant_id, name="events"), resolve(tenant_id=tenant_id)
    with pytest.raises(InvalidRecord):
        put(tenant_id, {"b": 1}, {"no name": 1})
    with pytest.raises(IdempotencyConflict):
        put(tenant_id, {"c": 1}, key="k")
    assert (get_table(tenant_id=tenant_id, name="events"), resolve(tenant_id=tenant_id)) == before


@pytest.mark.parametrize("limits", [WriteLimits(max_records_per_second=1), WriteLimits(max_pending_records=1)])
def test_a_write_beyond_a_limit_leaves_no_column_key_or_token_behind(tenant_id: str, limits: WriteLimits) -> None:
    two: list[Record] = [{"payload": {"a": n}, "idempotency_key": f"a-{n}"} for n in range(2)]
    last = write(tenant_id, two, limits=limits).max_visibility_token
    before = get_table(tenant_id=tenant_id, name="events"), resolve(tenant_id=tenant_id)
    more: list[Record] = [{"payload": {"b": n}, "idempotency_key": f"b-{n}"} for n in range(2)]
    with pytest.raises((RateLimited, Backpressure)):
        write(tenant_id, more, limits=limits)
    assert (get_table(tenant_id=tenant_id, name="events"), resolve(tenant_id=tenant_id)) == before
    again = write(tenant_id, more)
    assert (again.accepted_count, again.max_visibility_token) == (2, last + 2)


@pytest.mark.parametrize("widening", [0.5, WIDE, "text", [1]])
def test_a_retry_after_growth_is_a_duplicate_and_not_a_conflict(tenant_id: str, lake: Lake, widening: object) -> None:
    first, whole = put(tenant_id, {"v": 1}, key="k"), put(tenant_id, {"v": 1, "w": 2.0}, request_key="r")
    put(tenant_id, {"v": widening, "w": widening, "other": 1})
    again, replayed = put(tenant_id, {"v": 1}, key="k"), put(tenant_id, {"w": 2, "v": 1}, request_key="r")
    assert (again.accepted_count, again.duplicate_count) == (0, 1)
    assert again.max_visibility_token == first.max_visibility_token
    assert (replayed.replayed, replayed.max_visibility_token) == (True, whole.max_visibility_token)
    lake.materialize(tenant_id)
    assert len(rows_of(lake, tenant_id)) == 3


def test_a_retry_by_a_process_that_has_not_heard_of_the_growth_is_known(tenant_id: str) -> None:
    body: list[Record] = [{"payload": {"a": 1}}]
    tables: list[TableInfo] = []

    def decode(table: TableInfo) -> DecodedBatch:
        batch = decoder(body, request_key="r")(table)
        if not tables:
            Background(partial(write, tenant_id, body, request_key="r")).result()
        tables.append(table)
        return batch

    answer = accept(tenant_id=tenant_id, table="events", decode=decode, policy=AcceptPolicy(limits=NO_LIMITS))
    assert (answer.replayed, answer.accepted_count) == (True, 1)
    assert [len(table.schema.columns) for table in tables] == [0, 1]


def test_a_retry_is_not_answered_for_a_growing_table_that_is_gone(tenant_id: str) -> None:
    late = publication(tenant_id, [{"payload": {"a": 1}, "idempotency_key": "k"}])
    put(tenant_id, {"a": 1}, key="k")
    drop_table(tenant_id=tenant_id, name="events", actor="test")
    assert late.batch.growth is not None
    with pytest.raises(Stale):
        publish_growing(late, limits=NO_LIMITS, actor="test")


def test_a_growing_table_is_changed_by_its_owner_too(tenant_id: str, lake: Lake) -> None:
    put(tenant_id, {"a": 1, "b": "x", "c": WIDE})
    lake.materialize(tenant_id)
    change = parse_change({"rename": {"a": "amount"}, "drop": ["b"], "add": [{"name": "at", "type": "timestamp"}]})
    evolve_table(tenant_id=tenant_id, name="events", change=change, actor="test")
    put(tenant_id, {"amount": 0.5, "b": True, "c": 0.25, "at": "2013-01-01T10:00:00Z", "a": "new"})
    lake.materialize(tenant_id)
    assert types(tenant_id) == {"amount": "float64", "c": "string", "at": "timestamp", "b": "bool", "a": "string"}
    rows = sorted(rows_of(lake, tenant_id), key=lambda row: float(row["amount"]))
    assert [(row["amount"], row["b"], row["c"], row["a"]) for row in rows] == [
        (0.5, True, "0.25", "new"),
        (1.0, None, str(WIDE), None),
    ]


def test_a_table_that_has_all_its_columns_makes_no_versions(tenant_id: str) -> None:
    put(tenant_id, {"a": 1, "b": 0.5, "c": "x", "d": [1]})
    snapshots = Snapshot.objects.filter(tenant_id=tenant_id).count()
    for n in range(5):
        put(tenant_id, {"a": n, "B": float(n), "c": None, "d": {"n": n}})
    assert Snapshot.objects.filter(tenant_id=tenant_id).count() == snapshots
    table: TableInfo = get_table(tenant_id=tenant_id, name="events")
    assert TableSchemaVersion.objects.filter(table_id=table.table_id).count() == 2
