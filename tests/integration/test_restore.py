"""A restore is an entry of the log: what came before it is replaced, what comes after it comes after it."""

from collections import Counter
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
from django.db import IntegrityError
from django.db.models.functions import Now

from catalog.change import TableChange
from catalog.errors import SnapshotExpired, SnapshotNotFound, SnapshotPinned
from catalog.evolution import evolve_table
from catalog.expire import expire_snapshots
from catalog.history import diff_snapshots, show_snapshot
from catalog.models import DataFile, SnapshotFile, SnapshotPin, TableDef, Tenant
from catalog.pins import list_pins, unpin_snapshot
from catalog.schema import ParsedColumn
from catalog.snapshots import first_failure, resolve
from catalog.tables import drop_table, get_table, tables_at
from duckmesh.kernel.errors import Conflict, NotFound
from ingest import bus, failed
from ingest.backlog import lag
from ingest.models import IngestEvent
from ingest.restores import Ordered, has_failed, order_restore, restored_in
from tests.factories import make_table, make_tenant
from tests.lake import CLAIM, Lake, fail_oldest, record, write, write_ids
from tests.reading import read_rows
from tests.tables import compact
from tests.together import together

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def tenant_id() -> str:
    tenant_id = make_tenant()
    make_table(tenant_id=tenant_id)
    return tenant_id


def ids(lake: Lake, tenant_id: str, snapshot_id: int | None = None, *, table: str = "events") -> list[str]:
    rows = read_rows(lake, tenant_id, f"SELECT id FROM {table} ORDER BY id", table=table, snapshot_id=snapshot_id)
    return [row["id"] for row in rows]


def latest(tenant_id: str) -> int:
    return resolve(tenant_id=tenant_id).snapshot_id


def wrote(lake: Lake, tenant_id: str, *identities: str, table: str = "events") -> int:
    """The records are visible; the snapshot that they are in."""
    write_ids(tenant_id, *identities, table=table)
    lake.materialize(tenant_id)
    return latest(tenant_id)


def order(tenant_id: str, snapshot_id: int) -> Ordered:
    return order_restore(tenant_id=tenant_id, snapshot_id=snapshot_id, actor="key:test")


def restored(lake: Lake, tenant_id: str, snapshot_id: int) -> int:
    """The snapshot that the restore became."""
    ordered = order(tenant_id, snapshot_id)
    lake.materialize(tenant_id)
    new = restored_in(ordered)
    assert new is not None
    return new


def test_a_restore_is_a_new_snapshot_with_the_old_contents_and_loses_nothing(lake: Lake, tenant_id: str) -> None:
    one = wrote(lake, tenant_id, "a", "b")
    two = wrote(lake, tenant_id, "c")
    new = restored(lake, tenant_id, one)
    assert new == two + 1 == latest(tenant_id)
    assert ids(lake, tenant_id) == ids(lake, tenant_id, one) == ["a", "b"]
    assert ids(lake, tenant_id, two) == ["a", "b", "c"]
    shown = show_snapshot(tenant_id=tenant_id, snapshot_id=new)
    assert (shown.snapshot.kind, shown.snapshot.created_by, shown.restored_from) == ("restore", "key:test", one)
    assert shown.snapshot.visible_token == 4, "the restore has a token of its own"
    assert shown.tables == show_snapshot(tenant_id=tenant_id, snapshot_id=one).tables
    assert diff_snapshots(tenant_id=tenant_id, from_id=one, to_id=new) == []
    (change,) = diff_snapshots(tenant_id=tenant_id, from_id=two, to_id=new)
    assert (change.removed.rows, change.added.rows) == (1, 0)
    back = restored(lake, tenant_id, two)
    assert ids(lake, tenant_id) == ["a", "b", "c"]
    assert ids(lake, tenant_id, new) == ["a", "b"]
    assert diff_snapshots(tenant_id=tenant_id, from_id=two, to_id=back) == []
    wrote(lake, tenant_id, "d")
    assert ids(lake, tenant_id) == ["a", "b", "c", "d"]
    assert show_snapshot(tenant_id=tenant_id, snapshot_id=latest(tenant_id)).tables[0].rows == 4


def test_what_was_accepted_before_a_restore_is_replaced_and_what_came_after_it_stays(
    lake: Lake, tenant_id: str
) -> None:
    one = wrote(lake, tenant_id, "a")
    before = write_ids(tenant_id, "before").max_visibility_token
    ordered = order(tenant_id, one)
    after = write_ids(tenant_id, "after").max_visibility_token
    assert (before, ordered.token, after) == (2, 3, 4)
    assert lake.materialize(tenant_id) == 3, "the restore is alone in its claim"
    new = restored_in(ordered)
    assert new is not None
    assert ids(lake, tenant_id, new - 1) == ["a", "before"]
    assert resolve(tenant_id=tenant_id, snapshot_id=new).visible_token == ordered.token
    assert ids(lake, tenant_id, new) == ["a"]
    assert ids(lake, tenant_id) == ["a", "after"]


def test_idempotency_keys_are_not_opened_again(lake: Lake, tenant_id: str) -> None:
    one = wrote(lake, tenant_id, "a")
    wrote(lake, tenant_id, "b")
    restored(lake, tenant_id, one)
    again = write_ids(tenant_id, "b")
    assert (again.accepted_count, again.duplicate_count) == (0, 1)
    assert ids(lake, tenant_id) == ["a"]


def test_tables_that_came_are_dropped_and_tables_that_went_are_the_same_again(lake: Lake, tenant_id: str) -> None:
    table_id = get_table(tenant_id=tenant_id, name="events").table_id
    one = wrote(lake, tenant_id, "a")
    drop_table(tenant_id=tenant_id, name="events", actor="test")
    gone = latest(tenant_id)
    make_table(tenant_id=tenant_id)
    make_table(tenant_id=tenant_id, name="other")
    taken = wrote(lake, tenant_id, "new")
    new = restored(lake, tenant_id, one)
    assert get_table(tenant_id=tenant_id, name="events").table_id == table_id
    with pytest.raises(NotFound):
        get_table(tenant_id=tenant_id, name="other")
    assert ids(lake, tenant_id) == ["a"]
    assert wrote(lake, tenant_id, "a", "b") == new + 1, "its keys are known still"
    assert ids(lake, tenant_id) == ["a", "b"]
    assert ids(lake, tenant_id, one) == ["a"]
    assert ids(lake, tenant_id, taken) == ["new"]
    assert tables_at(tenant_id=tenant_id, snapshot_id=gone) == {}
    empty = restored(lake, tenant_id, gone)
    assert tables_at(tenant_id=tenant_id, snapshot_id=empty) == {}
    assert [table.rows for table in show_snapshot(tenant_id=tenant_id, snapshot_id=new).tables] == [1]
    restored(lake, tenant_id, new)
    assert ids(lake, tenant_id) == ["a"]
    assert [each.change for each in diff_snapshots(tenant_id=tenant_id, from_id=taken, to_id=new)] == [
        "created",
        "dropped",
        "dropped",
    ]


def test_a_table_that_comes_back_empty_has_no_rows_in_its_totals(lake: Lake, tenant_id: str) -> None:
    empty = latest(tenant_id)
    wrote(lake, tenant_id, "a")
    drop_table(tenant_id=tenant_id, name="events", actor="test")
    new = restored(lake, tenant_id, empty)
    assert show_snapshot(tenant_id=tenant_id, snapshot_id=new).tables[0].rows == 0
    wrote(lake, tenant_id, "b")
    assert show_snapshot(tenant_id=tenant_id, snapshot_id=latest(tenant_id)).tables[0].rows == 1


def change(tenant_id: str, **steps: Any) -> None:
    evolve_table(
        tenant_id=tenant_id, name="events", change=TableChange(compatibility_mode="none", **steps), actor="test"
    )


def test_the_old_columns_are_the_next_version_under_their_old_field_ids(lake: Lake, tenant_id: str) -> None:
    one = wrote(lake, tenant_id, "a")
    then = get_table(tenant_id=tenant_id, name="events")
    change(tenant_id, rename={"n": "number"}, add=(ParsedColumn(name="extra", type="int64"),))
    change(tenant_id, drop=frozenset({"number"}))
    write(tenant_id, [{"payload": {"id": "b", "extra": 5}}])
    lake.materialize(tenant_id)
    wide = latest(tenant_id)
    restored(lake, tenant_id, one)
    now = get_table(tenant_id=tenant_id, name="events")
    assert now.schema.columns == then.schema.columns
    assert (now.schema.version, now.next_field_id) == (4, 4), "neither versions nor field ids are given twice"
    write(tenant_id, [{"payload": {"id": "c", "n": 7}}])
    lake.materialize(tenant_id)
    assert read_rows(lake, tenant_id, "SELECT * FROM events ORDER BY id") == [{"id": "a", "n": 0}, {"id": "c", "n": 7}]
    assert read_rows(lake, tenant_id, "SELECT * FROM events ORDER BY id", snapshot_id=wide) == [
        {"id": "a", "extra": None},
        {"id": "b", "extra": 5},
    ]
    change(tenant_id, add=(ParsedColumn(name="extra", type="string"),))
    assert get_table(tenant_id=tenant_id, name="events").schema.columns[-1].field_id == 4


def test_key_and_order_have_the_names_of_the_snapshot_again(lake: Lake) -> None:
    tenant_id = make_tenant()
    make_table(tenant_id=tenant_id, primary_key_cols=["id"])
    one = wrote(lake, tenant_id, "a")
    change(tenant_id, rename={"id": "name"})
    write(tenant_id, [{"op": "delete", "payload": {"name": "a"}}])
    lake.materialize(tenant_id)
    two = latest(tenant_id)
    restored(lake, tenant_id, one)
    assert get_table(tenant_id=tenant_id, name="events").primary_key_cols == ("id",)
    assert tables_at(tenant_id=tenant_id, snapshot_id=two)["events"].primary_key_cols == ("name",)
    assert ids(lake, tenant_id) == ["a"]
    assert read_rows(lake, tenant_id, "SELECT name FROM events", snapshot_id=two) == []
    write(tenant_id, [{"op": "delete", "payload": {"id": "a"}}])
    lake.materialize(tenant_id)
    assert ids(lake, tenant_id) == []


def test_writes_in_flight_lose_nothing_to_the_columns_that_come_back(lake: Lake, tenant_id: str) -> None:
    one = wrote(lake, tenant_id, "a")
    change(tenant_id, drop=frozenset({"n"}))
    change(tenant_id, add=(ParsedColumn(name="extra", type="json"),))
    ordered = order(tenant_id, one)
    write(tenant_id, [{"payload": {"id": "b", "extra": [1]}}])
    lake.materialize(tenant_id)
    assert restored_in(ordered) is not None
    assert read_rows(lake, tenant_id, "SELECT * FROM events ORDER BY id") == [
        {"id": "a", "n": 0, "extra": None},
        {"id": "b", "n": None, "extra": "[1]"},
    ]
    assert IngestEvent.objects.filter(tenant_id=tenant_id, state="failed").count() == 0
    restored(lake, tenant_id, one)
    assert read_rows(lake, tenant_id, "SELECT * FROM events") == [{"id": "a", "n": 0}]


def test_a_write_to_a_table_that_the_restore_drops_goes_with_it(lake: Lake, tenant_id: str) -> None:
    one = wrote(lake, tenant_id, "a")
    make_table(tenant_id=tenant_id, name="later")
    order(tenant_id, one)
    write_ids(tenant_id, "x", table="later")
    write_ids(tenant_id, "b")
    lake.materialize(tenant_id)
    states = IngestEvent.objects.filter(tenant_id=tenant_id).order_by("first_token").values_list("state", flat=True)
    assert list(states) == ["committed", "committed", "dropped", "committed"]
    assert ids(lake, tenant_id) == ["a", "b"]


def test_a_restore_waits_for_its_snapshot_and_keeps_it(lake: Lake, tenant_id: str) -> None:
    one = wrote(lake, tenant_id, "a")
    wrote(lake, tenant_id, "b")
    ordered = order(tenant_id, one)
    with pytest.raises(SnapshotPinned):
        expire_snapshots(tenant_id=tenant_id, snapshot_ids=[one])
    assert list_pins(tenant_id=tenant_id, after="", limit=10) == []
    with pytest.raises(NotFound):
        unpin_snapshot(tenant_id=tenant_id, name=bus.hold_of(ordered.event_id))
    lake.materialize(tenant_id)
    assert not SnapshotPin.objects.filter(tenant_id=tenant_id).exists()
    assert expire_snapshots(tenant_id=tenant_id, snapshot_ids=[one]) == [one]
    assert ids(lake, tenant_id) == ["a"]
    with pytest.raises(SnapshotExpired):
        order(tenant_id, one)
    with pytest.raises(SnapshotNotFound):
        order(tenant_id, 999)
    assert not SnapshotPin.objects.filter(tenant_id=tenant_id).exists(), "what is refused holds nothing"


def test_files_that_come_back_are_not_deleted(lake: Lake, tenant_id: str) -> None:
    one = wrote(lake, tenant_id, "a")
    compacted_from = SnapshotFile.objects.get(tenant_id=tenant_id, removed_in=None).file_id
    wrote(lake, tenant_id, "b")
    compact(lake, tenant_id)
    order(tenant_id, one)
    DataFile.objects.filter(file_id=compacted_from).update(unreferenced_since=Now())
    lake.materialize(tenant_id)
    assert DataFile.objects.get(file_id=compacted_from).unreferenced_since is None
    new = latest(tenant_id)
    wrote(lake, tenant_id, "c")
    two = latest(tenant_id)
    restored(lake, tenant_id, two)
    expire_snapshots(tenant_id=tenant_id, snapshot_ids=range(1, latest(tenant_id)))
    assert ids(lake, tenant_id) == ["a", "c"]
    assert DataFile.objects.get(file_id=compacted_from).unreferenced_since is None
    assert new < two


def test_a_file_that_is_marked_for_deletion_cannot_come_back(lake: Lake, tenant_id: str) -> None:
    one = wrote(lake, tenant_id, "a")
    file_id = SnapshotFile.objects.get(tenant_id=tenant_id, removed_in=None).file_id
    restored(lake, tenant_id, 1)
    ordered = order(tenant_id, one)
    DataFile.objects.filter(file_id=file_id).update(unreferenced_since=Now(), tombstoned_at=Now())
    claim = bus.claim(tenant_id=tenant_id, consumer_id="test", policy=CLAIM)
    assert claim is not None
    assert claim.restore is not None
    bus.release(claim)
    before = latest(tenant_id)
    lake.materialize(tenant_id, max_attempts=1)
    assert has_failed(ordered)
    assert ids(lake, tenant_id) == []
    assert latest(tenant_id) == before + 1, "the watermark goes past it"
    assert IntegrityError.__name__ in failed.get_failed(tenant_id=tenant_id, event_id=ordered.event_id).error


def test_a_restore_that_failed_stands_in_the_way_until_it_is_discarded(lake: Lake, tenant_id: str) -> None:
    one = wrote(lake, tenant_id, "a")
    table_id = get_table(tenant_id=tenant_id, name="events").table_id
    ordered = order(tenant_id, one)
    assert fail_oldest(tenant_id) == ordered.event_id
    assert has_failed(ordered)
    assert not SnapshotPin.objects.filter(tenant_id=tenant_id).exists()
    told = {"tenant_id": tenant_id, "token": ordered.token, "table_ids": [table_id]}
    assert first_failure(**told) == ordered.event_id  # type: ignore[arg-type]
    (event,) = failed.list_failed(tenant_id=tenant_id, table=None, after=0, limit=10)
    assert (event.event_id, event.table_name) == (ordered.event_id, "")
    with pytest.raises(Conflict):
        failed.replay(tenant_id=tenant_id, event_id=ordered.event_id, actor="test")
    assert failed.replay_all(tenant_ids=[tenant_id], actor="test") == []
    failed.discard(tenant_id=tenant_id, event_id=ordered.event_id, actor="test")
    assert first_failure(**told) is None  # type: ignore[arg-type]
    wrote(lake, tenant_id, "b")
    assert ids(lake, tenant_id) == ["a", "b"]


def test_a_failed_write_that_is_replayed_after_a_restore_is_in_the_latest_snapshot(lake: Lake, tenant_id: str) -> None:
    one = wrote(lake, tenant_id, "a")
    write_ids(tenant_id, "late")
    event_id = fail_oldest(tenant_id)
    new = restored(lake, tenant_id, one)
    failed.replay(tenant_id=tenant_id, event_id=event_id, actor="test")
    lake.materialize(tenant_id)
    assert ids(lake, tenant_id) == ["a", "late"]
    assert ids(lake, tenant_id, new) == ["a"]


def test_a_failed_write_loses_nothing_to_the_columns_that_come_back(lake: Lake, tenant_id: str) -> None:
    one = wrote(lake, tenant_id, "a")
    change(tenant_id, add=(ParsedColumn(name="extra", type="int64"),), widen={"n": "json"})
    write(tenant_id, [{"payload": {"id": "b", "extra": 5, "n": "text"}}])
    event_id = fail_oldest(tenant_id)
    restored(lake, tenant_id, one)
    failed.replay(tenant_id=tenant_id, event_id=event_id, actor="test")
    lake.materialize(tenant_id)
    assert read_rows(lake, tenant_id, "SELECT * FROM events ORDER BY id") == [
        {"id": "a", "n": "0", "extra": None},
        {"id": "b", "n": '"text"', "extra": 5},
    ]


def test_a_restore_is_no_record_but_has_a_token(lake: Lake, tenant_id: str) -> None:
    one = wrote(lake, tenant_id, "a")
    order(tenant_id, one)
    waiting = lag(tenant_id=tenant_id)
    assert (waiting.pending_events, waiting.token_lag, waiting.tables) == (0, 1, ())


def test_stored_bytes_and_files_stay_as_they_are(lake: Lake, tenant_id: str) -> None:
    one = wrote(lake, tenant_id, "a")
    wrote(lake, tenant_id, "b")
    stored = Tenant.objects.values("catalog__stored_bytes", "catalog__stored_files")
    before = stored.get(tenant_id=tenant_id)
    restored(lake, tenant_id, one)
    assert stored.get(tenant_id=tenant_id) == before


def test_compaction_that_a_restore_overtook_publishes_nothing(lake: Lake, tenant_id: str) -> None:
    one = wrote(lake, tenant_id, "a")
    for name in "bcd":
        wrote(lake, tenant_id, name)

    def both(number: int) -> None:
        if number:
            compact(lake, tenant_id)
        else:
            lake.materialize(tenant_id)

    ordered = order(tenant_id, one)
    together([partial(both, 0), partial(both, 1)])
    new = restored_in(ordered)
    assert new is not None
    assert ids(lake, tenant_id, new) == ids(lake, tenant_id) == ["a"]
    for number, names in enumerate(["a", "ab", "abc", "abcd"], start=one):
        assert ids(lake, tenant_id, number) == list(names)


def test_deletes_and_folds_are_as_they_were_and_later_operations_win(lake: Lake) -> None:
    tenant_id = make_tenant()
    make_table(tenant_id=tenant_id, primary_key_cols=["id"])

    def put(**numbers: int) -> None:
        write(tenant_id, [record(name, n=n, key=None) for name, n in numbers.items()])
        lake.materialize(tenant_id)

    def seen(snapshot_id: int | None = None) -> dict[str, int]:
        rows = read_rows(lake, tenant_id, "SELECT id, n FROM events", snapshot_id=snapshot_id)
        return {row["id"]: row["n"] for row in rows}

    put(a=1, b=1)
    compact(lake, tenant_id)
    put(b=2)
    one = latest(tenant_id)
    write(tenant_id, [{"op": "delete", "payload": {"id": "a"}}])
    put(b=3, c=3)
    compact(lake, tenant_id)
    two = latest(tenant_id)
    assert seen() == {"b": 3, "c": 3}
    restored(lake, tenant_id, one)
    assert seen() == {"a": 1, "b": 2}
    put(a=4)
    assert seen() == {"a": 4, "b": 2}
    compact(lake, tenant_id)
    assert seen() == {"a": 4, "b": 2}
    restored(lake, tenant_id, two)
    assert seen() == {"b": 3, "c": 3}
    put(b=5)
    compact(lake, tenant_id)
    assert seen() == {"b": 5, "c": 3}
    assert seen(one) == {"a": 1, "b": 2}


def test_a_restore_under_load_shows_everything_that_came_after_it(lake: Lake, tenant_id: str) -> None:
    one = wrote(lake, tenant_id, "base")
    tokens: dict[str, int] = {}

    def writer(who: str) -> Ordered | None:
        for number in range(25):
            name = f"{who}{number:02}"
            tokens[name] = write_ids(tenant_id, name).max_visibility_token
        return None

    def restorer() -> Ordered | None:
        return order(tenant_id, one)

    def worker() -> None:
        for _ in range(20):
            lake.materialize(tenant_id, seconds=1)

    results = together([partial(writer, "x"), partial(writer, "y"), restorer, worker])
    (ordered,) = (result for result in results if result is not None)
    lake.materialize(tenant_id)
    later = sorted(name for name, token in tokens.items() if token > ordered.token)
    assert ids(lake, tenant_id) == ["base", *later]
    assert Counter(IngestEvent.objects.filter(tenant_id=tenant_id).values_list("state", flat=True)) == {"committed": 52}


def test_a_worker_whose_lease_was_taken_over_cannot_restore(lake: Lake, tenant_id: str) -> None:
    one = wrote(lake, tenant_id, "a")
    wrote(lake, tenant_id, "b")
    ordered = order(tenant_id, one)
    late = bus.claim(tenant_id=tenant_id, consumer_id="late", policy=replace(CLAIM, lease=timedelta(0)))
    assert late is not None
    lake.materialize(tenant_id)
    before = latest(tenant_id)
    with pytest.raises(Conflict):
        bus.hold(late)
    assert latest(tenant_id) == before == restored_in(ordered)
    assert TableDef.objects.filter(tenant_id=tenant_id).count() == 1
