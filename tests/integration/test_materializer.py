"""Pending envelopes become snapshots: in token order, whole, once, whatever fails on the way."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from django.db import connection

from catalog.manifests import files_at
from catalog.models import Snapshot
from catalog.snapshots import latest_issued_token, resolve, visible_tokens
from catalog.tables import drop_table
from ingest.backlog import lag
from ingest.models import IngestEvent, IngestPayload
from storage.local import LocalStore
from storage.store import ObjectInfo
from tests.factories import make_table, make_tenant
from tests.lake import Lake, record, write, write_ids
from tests.together import Background, together

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def tenant_id() -> str:
    tenant_id = make_tenant()
    make_table(tenant_id=tenant_id)
    return tenant_id


def states(tenant_id: str) -> list[str]:
    events = IngestEvent.objects.filter(tenant_id=tenant_id).order_by("first_token")
    return list(events.values_list("state", flat=True))


def check_every_snapshot(lake: Lake, tenant_id: str, tables: Sequence[str]) -> list[int]:
    """Each snapshot holds exactly the rows up to its watermark; the watermarks, oldest first."""
    watermarks = []
    for snapshot in Snapshot.objects.filter(tenant_id=tenant_id, kind="ingest").order_by("snapshot_id"):
        found = sorted(
            token for table in tables for _, token in lake.tokens(tenant_id, table, snapshot_id=snapshot.snapshot_id)
        )
        assert found == list(range(1, snapshot.visible_token + 1)), snapshot.snapshot_id
        watermarks.append(snapshot.visible_token)
    assert watermarks == sorted(watermarks)
    return watermarks


def test_one_claim_across_tables_is_one_snapshot(tenant_id: str, lake: Lake) -> None:
    make_table(tenant_id=tenant_id, name="other")
    for n in range(3):
        write_ids(tenant_id, f"e{n}")
        write_ids(tenant_id, f"o{n}", table="other")
    before = resolve(tenant_id=tenant_id).snapshot_id
    assert lake.materialize(tenant_id) == 1
    assert resolve(tenant_id=tenant_id).snapshot_id == before + 1
    assert lake.tokens(tenant_id) == [("e0", 1), ("e1", 3), ("e2", 5)]
    assert lake.tokens(tenant_id, "other") == [("o0", 2), ("o1", 4), ("o2", 6)]
    assert not IngestPayload.objects.exists()


def test_token_of_one_table_waits_for_the_lower_tokens_of_the_others(tenant_id: str, lake: Lake) -> None:
    tables = ["events", "b", "c"]
    for name in tables[1:]:
        make_table(tenant_id=tenant_id, name=name)
    for n in range(30):
        write_ids(tenant_id, f"{n}-1", f"{n}-2", table=tables[(n * n) % 3])
    lake.materialize(tenant_id, max_envelopes=4)
    watermarks = check_every_snapshot(lake, tenant_id, tables)
    assert watermarks == [8, 16, 24, 32, 40, 48, 56, 60]


@pytest.mark.parametrize("workers", [2, 10])
def test_workers_beside_writers_publish_everything_once_and_in_order(tenant_id: str, lake: Lake, workers: int) -> None:
    make_table(tenant_id=tenant_id, name="other")
    rounds = 15

    def writer(number: int) -> None:
        for n in range(rounds):
            write_ids(tenant_id, f"{number}-{n}-1", f"{number}-{n}-2", table=("events", "other")[n % 2])

    def worker() -> None:
        while visible_tokens(tenant_ids=[tenant_id])[tenant_id] < 4 * rounds * 2:
            lake.materialize(tenant_id, max_envelopes=3)

    everybody: list[Callable[[], None]] = [partial(writer, number) for number in range(4)]
    together(everybody + [worker] * workers)
    check_every_snapshot(lake, tenant_id, ["events", "other"])
    rows = lake.rows(tenant_id) | lake.rows(tenant_id, "other")
    assert rows == {f"{number}-{n}-{i}": 1 for number in range(4) for n in range(rounds) for i in (1, 2)}


def test_duplicates_inside_an_envelope_are_not_written(tenant_id: str, lake: Lake) -> None:
    write_ids(tenant_id, "a", "c")
    write_ids(tenant_id, "b", "a", "b", "d", "c", "d", "e")
    lake.materialize(tenant_id)
    assert lake.tokens(tenant_id) == [("a", 1), ("c", 2), ("b", 3), ("d", 4), ("e", 5)]


def test_keyed_table_keeps_the_operation_of_each_row(lake: Lake) -> None:
    tenant_id = make_tenant()
    table = make_table(tenant_id=tenant_id, primary_key_cols=["id"])
    write(tenant_id, [record("a", n=1), record("b", n=2)])
    write(tenant_id, [{"op": "delete", "payload": {"id": "a"}}])
    lake.materialize(tenant_id)
    at = resolve(tenant_id=tenant_id).snapshot_id
    (file,) = files_at(tenant_id=tenant_id, snapshot_id=at, table_ids=[table.table_id])[table.table_id]
    rows = pq.read_table(lake.root / "objects" / file.path).sort_by("_duckmesh_token").to_pylist()
    assert [(row["id"], row["n"], row["_duckmesh_token"], row["_duckmesh_op"]) for row in rows] == [
        ("a", 1, 1, 0),
        ("b", 2, 2, 0),
        ("a", None, 3, 1),
    ]


def test_catalog_row_tells_the_truth_of_the_file(tenant_id: str, lake: Lake) -> None:
    write(tenant_id, [{**record("b", n=5), "event_time": "2013-01-01T10:00:00Z"}, record("a", n=None)])
    write(tenant_id, [{**record("c", n=-7), "event_time": "2012-06-30T23:59:59.999999Z"}])
    lake.materialize(tenant_id)
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT row_count, min_token, max_token, min_event_time::text, max_event_time::text, level, size_bytes,"
            " path FROM data_file WHERE tenant_id = %s",
            [tenant_id],
        )
        ((*figures, size, path),) = cursor.fetchall()
    assert figures == [3, 1, 3, "2012-06-30 23:59:59.999999+00", "2013-01-01 10:00:00+00", 0]
    assert (lake.root / "objects" / path).stat().st_size == size
    assert path.startswith(f"{tenant_id}/events/date=")


def test_strings_with_a_nul_character_are_written_and_bounded(tenant_id: str, lake: Lake) -> None:
    strings = ["\0", "a\0b", "a", "b\0", "\U0010ffff\0z"]
    write(tenant_id, [record(string, key=None) for string in strings])
    lake.materialize(tenant_id)
    assert lake.rows(tenant_id) == dict.fromkeys(strings, 1)
    with connection.cursor() as cursor:
        cursor.execute("SELECT column_stats->'1'->>'min', column_stats->'1'->>'max' FROM data_file")
        low, high = cursor.fetchone()
    assert all(low.encode() <= string.encode() for string in strings)
    assert high is None or all(string.encode() <= high.encode() for string in strings)


def test_pending_writes_of_a_dropped_table_go_with_it(tenant_id: str, lake: Lake) -> None:
    make_table(tenant_id=tenant_id, name="other")
    write_ids(tenant_id, "gone-1", "gone-2")
    write_ids(tenant_id, "kept", table="other")
    drop_table(tenant_id=tenant_id, name="events", actor="test")
    make_table(tenant_id=tenant_id)
    write_ids(tenant_id, "new")
    lake.materialize(tenant_id)
    assert visible_tokens(tenant_ids=[tenant_id]) == {tenant_id: 4}
    assert states(tenant_id) == ["dropped", "committed", "committed"]
    assert lake.rows(tenant_id) == {"new": 1}
    assert lake.rows(tenant_id, "other") == {"kept": 1}
    assert not IngestPayload.objects.exists()


def test_only_writes_of_dropped_tables_still_move_the_watermark(tenant_id: str, lake: Lake) -> None:
    write_ids(tenant_id, "gone")
    drop_table(tenant_id=tenant_id, name="events", actor="test")
    lake.materialize(tenant_id)
    assert visible_tokens(tenant_ids=[tenant_id]) == {tenant_id: latest_issued_token(tenant_id=tenant_id)}


class Meddling(LocalStore):
    """A store that lets something happen elsewhere when the first file has been put."""

    def __init__(self, root: Path, meddle: Callable[[], object]) -> None:
        super().__init__(root=root)
        self._meddle = [meddle]

    def put_file(self, key: str, path: Path) -> ObjectInfo:
        info = super().put_file(key, path)
        while self._meddle:
            Background(self._meddle.pop()).result()
        return info


def recreate(tenant_id: str) -> None:
    drop_table(tenant_id=tenant_id, name="events", actor="test")
    make_table(tenant_id=tenant_id)


def test_table_recreated_while_its_file_was_written_gets_nothing_of_it(tenant_id: str, lake: Lake) -> None:
    make_table(tenant_id=tenant_id, name="other")
    write_ids(tenant_id, "old")
    write_ids(tenant_id, "kept", table="other")
    lake.materialize(tenant_id, store=Meddling(lake.root / "objects", partial(recreate, tenant_id)))
    assert states(tenant_id) == ["dropped", "committed"]
    assert visible_tokens(tenant_ids=[tenant_id]) == {tenant_id: 2}
    assert lake.rows(tenant_id) == {}
    assert lake.rows(tenant_id, "other") == {"kept": 1}


def test_lag_counts_records_by_what_they_wait_for(tenant_id: str, lake: Lake) -> None:
    make_table(tenant_id=tenant_id, name="other")
    write_ids(tenant_id, "a", "b", "c")
    write_ids(tenant_id, "d", table="other")
    before = lag(tenant_id=tenant_id)
    assert (before.accepted_events, before.claimed_events, before.pending_events) == (4, 0, 4)
    assert (before.token_lag, before.latest_visibility_token, before.latest_issued_token) == (4, 0, 4)
    assert {table.table_name: table.pending_events for table in before.tables} == {"events": 3, "other": 1}

    def look() -> None:
        during = lag(tenant_id=tenant_id)
        assert (during.accepted_events, during.claimed_events, during.pending_events) == (1, 3, 4)

    lake.materialize(tenant_id, store=Meddling(lake.root / "objects", partial(look)), max_envelopes=1)
    after = lag(tenant_id=tenant_id)
    assert (after.pending_events, after.token_lag, after.latest_visibility_token) == (0, 0, 4)
    assert (after.oldest_pending_lag_ms, after.tables) == (0, ())
    assert after.latest_snapshot_id == resolve(tenant_id=tenant_id).snapshot_id
