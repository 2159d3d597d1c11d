"""Partitions, sort order and slices: which rows share a file, in what order, and what the catalog says of each."""

import signal
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from catalog.buckets import murmur3
from catalog.definition import TableDefinition
from catalog.models import DataFile
from catalog.schema import ParsedColumn
from catalog.tables import TableInfo, create_table
from duckmesh.kernel.errors import JSON
from ingest.accept import AcceptPolicy, Staging, accept
from ingest.decode.batch import DecodedBatch
from ingest.decode.collect import Collector
from ingest.models import IngestEvent, IngestStaged
from storage.errors import StoreUnavailable
from storage.local import LocalStore
from storage.store import ObjectInfo
from tests.factories import make_tenant
from tests.integration.test_materializer_faults import STEPS, drain, objects, run_out, worker
from tests.lake import LIMITS, NO_LIMITS, Lake, write

pytestmark = pytest.mark.django_db(transaction=True)

COLUMNS = {"id": "string", "n": "int64", "at": "timestamp", "d": "date"}


@pytest.fixture
def tenant_id() -> str:
    return make_tenant()


def make_divided(
    tenant_id: str, *fields: tuple[str, str], sort: Sequence[str] = (), key: Sequence[str] = ()
) -> TableInfo:
    """A table of `COLUMNS` that is partitioned by these columns and transforms."""
    definition = TableDefinition(
        name="events",
        columns=tuple(ParsedColumn(name=name, type=kind) for name, kind in COLUMNS.items()),
        partition_spec={"fields": [{"column": c, "transform": t} for c, t in fields]} if fields else {},
        sort_cols=tuple(sort),
        primary_key_cols=tuple(key),
    )
    return create_table(tenant_id=tenant_id, definition=definition, actor="test")


def write_rows(tenant_id: str, *rows: dict[str, JSON], event_time: str | None = None) -> None:
    """The rows in one request, without keys."""
    told: dict[str, JSON] = {"event_time": event_time} if event_time else {}
    write(tenant_id, [{"payload": row, **told} for row in rows])


def files(lake: Lake, tenant_id: str) -> list[tuple[DataFile, list[dict[str, Any]]]]:
    """Each file with its rows, in the order in which they were written. Each is held against its row in the catalog."""
    found = []
    for file in DataFile.objects.filter(tenant_id=tenant_id).order_by("file_id"):
        rows = pq.read_table(lake.root / "objects" / file.path).to_pylist()
        tokens = [row["_duckmesh_token"] for row in rows]
        assert (file.row_count, file.min_token, file.max_token) == (len(rows), min(tokens), max(tokens))
        numbers = [row["n"] for row in rows if row["n"] is not None]
        stats = file.column_stats["2"]
        assert (stats["min"], stats["max"]) == (min(numbers, default=None), max(numbers, default=None))
        assert stats["null_count"] == len(rows) - len(numbers)
        found.append((file, rows))
    return found


def divided(lake: Lake, tenant_id: str) -> list[tuple[Any, list[Any]]]:
    """(partition, ids in their order) of each file."""
    return [(file.partition_values, [row["id"] for row in rows]) for file, rows in files(lake, tenant_id)]


def ids(lake: Lake, tenant_id: str) -> list[Any]:
    """The ids of all rows of all files, in the order of the tokens, which have no gap."""
    rows = sorted((row["_duckmesh_token"], row["id"]) for _, rows in files(lake, tenant_id) for row in rows)
    assert [token for token, _ in rows] == list(range(1, len(rows) + 1))
    return [identity for _, identity in rows]


def bucket(text: str, count: int) -> int:
    return (murmur3(text.encode()) & 0x7FFFFFFF) % count


LATE, EARLY = "2013-01-31T23:30:00Z", "2013-02-01T00:10:00+02:00"  # forty minutes earlier than it looks, in UTC


@pytest.mark.parametrize(
    ("field", "rows", "expected"),
    [
        (("at", "month"), [{"at": LATE}, {"at": "2013-02-01T00:00:00Z"}, {"at": None}], ["2013-01", "2013-02", None]),
        (("at", "day"), [{"at": LATE}, {"at": EARLY}, {"at": None}], ["2013-01-31", "2013-01-31", None]),
        (("at", "hour"), [{"at": LATE}, {"at": EARLY}, {"at": None}], ["2013-01-31-23", "2013-01-31-22", None]),
        (("d", "month"), [{"d": "2013-01-31"}, {"d": "1969-12-31"}, {"d": None}], ["2013-01", "1969-12", None]),
        (("n", "identity"), [{"n": 2**53 + 1}, {"n": -1}, {"n": None}], [2**53 + 1, -1, None]),
        (("id", "identity"), [{"id": ""}, {"id": "../*?[é"}, {"id": None}], ["", "../*?[é", None]),
        (
            ("id", "bucket[8]"),
            [{"id": "iceberg"}, {"id": "x"}, {"id": None}],
            [1210000089 % 8, bucket("x", 8), None],
        ),
    ],
)
def test_rows_of_one_partition_share_the_one_file_of_a_claim(
    lake: Lake, tenant_id: str, field: tuple[str, str], rows: list[dict[str, JSON]], expected: list[object]
) -> None:
    make_divided(tenant_id, field)
    write_rows(tenant_id, *rows)
    for row in rows:
        write_rows(tenant_id, row, row)
    assert lake.materialize(tenant_id) == 1
    found = files(lake, tenant_id)
    assert len(found) == len(set(expected)), "one file for each partition"
    values = [next(iter(file.partition_values.values())) for file, _ in found]
    assert set(values) == set(expected)
    tokens = {value: [row["_duckmesh_token"] for row in held] for value, (_, held) in zip(values, found, strict=True)}
    for token, value in enumerate([*expected, *(value for value in expected for _ in range(2))], start=1):
        assert token in tokens[value]
    assert all(held == sorted(held) for held in tokens.values())


def test_object_key_tells_the_partition(lake: Lake, tenant_id: str) -> None:
    make_divided(tenant_id, ("at", "day"), ("id", "identity"))
    write_rows(tenant_id, {"id": "a/b", "at": LATE}, {"id": None, "at": None})
    lake.materialize(tenant_id)
    keys = {file.path.rpartition("/")[0].removeprefix(f"{tenant_id}/events/") for file, _ in files(lake, tenant_id)}
    null = "__HIVE_DEFAULT_PARTITION__"
    assert keys == {"at_day=2013-01-31/id=a%2Fb", f"at_day={null}/id={null}"}


def test_smallest_partitions_beyond_the_cap_share_a_file(tenant_id: str, tmp_path: Path) -> None:
    lake = Lake(tmp_path, max_partitions=3)
    make_divided(tenant_id, ("n", "identity"))
    write_rows(tenant_id, *({"id": f"{n}-{i}", "n": n} for i in range(4) for n in range(6) if i < n))
    lake.materialize(tenant_id)
    found = divided(lake, tenant_id)
    assert [values for values, _ in found] == [{"n": 4}, {"n": 5}, {}]
    assert found[2][1] == ["1-0", "2-0", "3-0", "2-1", "3-1", "3-2"]
    assert [file.path.split("/")[2].split("=")[0] for file, _ in files(lake, tenant_id)] == ["n", "n", "date"]
    assert len(ids(lake, tenant_id)) == 14


def test_partitions_up_to_the_cap_have_a_file_each(tenant_id: str, tmp_path: Path) -> None:
    lake = Lake(tmp_path, max_partitions=3)
    make_divided(tenant_id, ("n", "identity"))
    write_rows(tenant_id, *({"id": str(n), "n": n} for n in range(3)))
    lake.materialize(tenant_id)
    assert [values for values, _ in divided(lake, tenant_id)] == [{"n": 0}, {"n": 1}, {"n": 2}]


@pytest.mark.parametrize("most", [2, 3, 5, 64])
def test_claim_larger_than_a_slice_still_has_few_files(tenant_id: str, tmp_path: Path, most: int) -> None:
    lake = Lake(tmp_path, slice_bytes=1_000, max_partitions=most)
    make_divided(tenant_id, ("n", "identity"))
    expected = []
    for request in range(40):
        rows = [{"id": f"{request}-{n}", "n": n if n < 4 else None} for n in range(5)]
        expected += [row["id"] for row in rows]
        write_rows(tenant_id, *rows)
    assert lake.materialize(tenant_id) == 1
    found = divided(lake, tenant_id)
    assert len({str(values) for values, _ in found}) == min(most, 5), "the smallest share one"
    for values, held in found:
        if values:
            assert {identity.split("-")[1] for identity in held} == {"4" if values["n"] is None else str(values["n"])}
    assert ids(lake, tenant_id) == expected
    assert all(len(held) <= 60 for _, held in found), "no file is much larger than a slice"


def test_undivided_claim_larger_than_a_slice_becomes_several_files(tenant_id: str, tmp_path: Path) -> None:
    lake = Lake(tmp_path, slice_bytes=1_000)
    make_divided(tenant_id)
    for request in range(40):
        write_rows(tenant_id, *({"id": f"{request}-{n}", "n": n} for n in range(5)))
    assert lake.materialize(tenant_id) == 1
    found = files(lake, tenant_id)
    assert len(found) > 4
    assert [file.min_token for file, _ in found][1:] == [file.max_token + 1 for file, _ in found][:-1]
    assert ids(lake, tenant_id) == [f"{request}-{n}" for request in range(40) for n in range(5)]


def test_event_times_of_a_file_are_those_of_its_own_envelopes(lake: Lake, tenant_id: str) -> None:
    make_divided(tenant_id, ("n", "identity"))
    for n, hour in ((1, 5), (2, 6), (1, 7), (3, 8)):
        write_rows(tenant_id, {"id": "x", "n": n}, event_time=f"2013-01-01T{hour:02}:00:00Z")
    write_rows(tenant_id, {"id": "x", "n": 4})
    lake.materialize(tenant_id)

    def hours(*both: int) -> tuple[datetime, ...]:
        return tuple(datetime(2013, 1, 1, hour, tzinfo=UTC) for hour in both)

    spans = {
        file.partition_values["n"]: (file.min_event_time, file.max_event_time) for file, _ in files(lake, tenant_id)
    }
    assert spans == {1: hours(5, 7), 2: hours(6, 6), 3: hours(8, 8), 4: (None, None)}


@pytest.mark.parametrize("partitioned", [False, True])
def test_files_are_sorted_and_equal_rows_stay_in_the_order_of_their_tokens(
    lake: Lake, tenant_id: str, partitioned: bool
) -> None:
    make_divided(tenant_id, *([("d", "day")] if partitioned else []), sort=["id", "at"])
    order = "cabbacbca"
    for place, letter in enumerate(order):
        write_rows(tenant_id, {"id": letter, "n": place}, {"id": None, "n": place}, {"id": letter, "at": LATE})
    lake.materialize(tenant_id)
    ((_, rows),) = files(lake, tenant_id)
    found = [(row["id"] is None, row["id"], row["at"] is None, row["_duckmesh_token"]) for row in rows]
    assert found == sorted(found, key=lambda row: (row[0], row[1] or "", row[2], row[3]))


def test_keyed_table_is_divided_by_its_key_with_its_deletes(lake: Lake, tenant_id: str) -> None:
    make_divided(tenant_id, ("id", "bucket[4]"), key=["id"])
    names = [f"k{n}" for n in range(20)]
    write(tenant_id, [{"payload": {"id": name, "n": 1}} for name in names])
    write(tenant_id, [{"op": "delete", "payload": {"id": name}} for name in names])
    lake.materialize(tenant_id)
    found = files(lake, tenant_id)
    assert {file.partition_values["id_bucket_4"] for file, _ in found} == {bucket(name, 4) for name in names}
    for file, rows in found:
        assert [row["_duckmesh_op"] for row in rows] == [0] * (len(rows) // 2) + [1] * (len(rows) // 2)
        assert {bucket(row["id"], 4) for row in rows} == {file.partition_values["id_bucket_4"]}


# Envelopes of many frames.


def frame(table: TableInfo, *numbers: int, columns: Sequence[str] = ("id", "n")) -> pa.RecordBatch:
    """Rows of these numbers, with only these columns of the table."""
    values = {"id": (pa.string(), [str(n) for n in numbers]), "n": (pa.int64(), list(numbers))}
    fields, arrays = [], []
    for column in table.schema.columns:
        if column.name in columns:
            kind, made = values[column.name]
            metadata = {"PARQUET:field_id": str(column.field_id), "duckmesh:type": column.type}
            fields.append(pa.field(column.name, kind, metadata=metadata))
            arrays.append(pa.array(made, kind))
    return pa.RecordBatch.from_arrays(arrays, schema=pa.schema(fields))


def write_frames(
    tenant_id: str, *frames: Sequence[int], staging: Staging | None = None, odd: Sequence[str] = ()
) -> int:
    """One request of these frames, each number under its own idempotency key; how many rows were accepted.

    Every other frame has only the columns `odd`, if they are given.
    """

    def decode(table: TableInfo) -> DecodedBatch:
        collector = Collector(limits=LIMITS, request_key=None)
        for place, numbers in enumerate(frames):
            batch = frame(table, *numbers, columns=odd) if odd and place % 2 else frame(table, *numbers)
            contents = b"".join(n.to_bytes(16, "big") for n in numbers)
            collector.add(batch, keys=[str(n) for n in numbers], contents=contents)
        return collector.finish(request_hash=None, wait_for_visibility=False, visibility_timeout_ms=None)

    policy = AcceptPolicy(limits=NO_LIMITS, staging=staging)
    return accept(tenant_id=tenant_id, table="events", decode=decode, policy=policy).accepted_count


def staged(lake: Lake) -> Staging:
    return Staging(store=lake.store, above_bytes=1)


@pytest.mark.parametrize("slice_bytes", [40, 10_000])
@pytest.mark.parametrize("in_store", [False, True])
def test_rows_of_every_frame_keep_their_tokens_around_the_duplicates(
    tenant_id: str, tmp_path: Path, slice_bytes: int, in_store: bool
) -> None:
    lake = Lake(tmp_path, slice_bytes=slice_bytes)
    staging = staged(lake) if in_store else None
    make_divided(tenant_id, ("n", "bucket[2]"))
    assert write_frames(tenant_id, [1, 2], [3], staging=staging) == 3
    assert write_frames(tenant_id, [2, 4], [5, 5, 3], [1, 2, 3], [6], [6, 7], staging=staging) == 4
    lake.materialize(tenant_id)
    assert ids(lake, tenant_id) == ["1", "2", "3", "4", "5", "6", "7"]


def test_frames_of_one_envelope_may_differ_in_their_columns(lake: Lake, tenant_id: str) -> None:
    make_divided(tenant_id)
    assert write_frames(tenant_id, [1], [2], [3], [3, 4], odd=["n"]) == 4
    lake.materialize(tenant_id)
    ((_, rows),) = files(lake, tenant_id)
    assert [(row["id"], row["n"]) for row in rows] == [("1", 1), (None, 2), ("3", 3), (None, 4)]


def last_frame(envelope: bytes) -> int:
    """Where the envelope's last frame begins: a mark of 4 bytes, then frames that begin with their length."""
    position = start = 4
    while position < len(envelope):
        start = position
        position += 16 + int.from_bytes(envelope[position : position + 8], "little")
    return start


def break_object(lake: Lake, how: str) -> None:
    (path,) = (lake.root / "objects" / row.path for row in IngestStaged.objects.all())
    whole = path.read_bytes()
    path.unlink()
    if how == "truncated":
        path.write_bytes(whole[:-20])
    elif how == "foreign":
        path.write_bytes(b"x" * len(whole))
    elif how == "without its last frame":
        path.write_bytes(whole[: last_frame(whole)])


@pytest.mark.parametrize("how", ["gone", "truncated", "foreign", "without its last frame"])
def test_staged_envelope_that_cannot_be_read_is_set_aside(lake: Lake, tenant_id: str, how: str) -> None:
    make_divided(tenant_id)
    write_frames(tenant_id, [1, 2], [3], staging=staged(lake))
    write_frames(tenant_id, [4])
    break_object(lake, how)
    drain(lake, tenant_id)
    states = IngestEvent.objects.filter(tenant_id=tenant_id).order_by("first_token").values_list("state", "attempts")
    assert list(states) == [("failed", lake.claim.max_attempts), ("committed", 0)]
    ((file, rows),) = files(lake, tenant_id)
    assert ([row["id"] for row in rows], file.min_token) == (["4"], 4)
    assert not list((lake.root / "scratch").iterdir())


class Away(LocalStore):
    """A store that does not answer when something is fetched."""

    def fetch(self, key: str, path: Path) -> None:
        raise StoreUnavailable("The store does not answer", key=key, file=path.name)


def test_staged_envelope_in_a_store_that_is_away_is_nobodys_attempt(lake: Lake, tenant_id: str) -> None:
    make_divided(tenant_id)
    write_frames(tenant_id, [1, 2], [3], staging=staged(lake))
    for _ in range(lake.claim.max_attempts * 2):
        assert lake.materialize(tenant_id, store=Away(root=lake.root / "objects")) == 0
    assert IngestEvent.objects.get(tenant_id=tenant_id).attempts == 0
    lake.materialize(tenant_id)
    assert ids(lake, tenant_id) == ["1", "2", "3"]


# Many files of one claim, and what goes wrong on the way.


class Failing(LocalStore):
    """A store that takes so many files and then no more."""

    def __init__(self, root: Path, takes: int) -> None:
        super().__init__(root=root)
        self._takes = iter(range(takes))

    def put_file(self, key: str, path: Path) -> ObjectInfo:
        if next(self._takes, None) is None:
            raise StoreUnavailable("The store has no room", key=key)
        return super().put_file(key, path)


@pytest.mark.parametrize("takes", [0, 1, 5, 19])
def test_store_that_fails_between_the_files_of_a_claim_is_nobodys_attempt(
    lake: Lake, tenant_id: str, takes: int
) -> None:
    make_divided(tenant_id, ("n", "identity"))
    write_rows(tenant_id, *({"id": str(n), "n": n} for n in range(20)))
    assert lake.materialize(tenant_id, store=Failing(lake.root / "objects", takes)) == 0
    assert not DataFile.objects.filter(tenant_id=tenant_id).exists()
    assert IngestEvent.objects.get(tenant_id=tenant_id).attempts == 0
    assert not list((lake.root / "scratch").iterdir())
    lake.materialize(tenant_id)
    assert ids(lake, tenant_id) == [str(n) for n in range(20)]


@pytest.mark.parametrize("step", STEPS)
def test_worker_killed_among_many_files_leaves_orphans_at_most(lake: Lake, tenant_id: str, step: str) -> None:
    make_divided(tenant_id, ("n", "identity"), sort=["id"])
    for request in range(3):
        write_rows(tenant_id, *({"id": f"{request}-{n}", "n": n} for n in range(5)))
    killed = worker(lake, tenant_id, f"materialize.{step}=kill")
    assert killed.communicate(timeout=60)[0] == ""
    assert killed.returncode == -signal.SIGKILL
    done = step == "after_commit"
    assert objects(lake) == (0 if step == "after_claim" else 5)
    assert DataFile.objects.filter(tenant_id=tenant_id).count() == (5 if done else 0)
    assert run_out(tenant_id) == (0 if done else 1)
    drain(lake, tenant_id)
    assert ids(lake, tenant_id) == [f"{request}-{n}" for request in range(3) for n in range(5)]
    named = set(DataFile.objects.filter(tenant_id=tenant_id).values_list("path", flat=True))
    stored = {info.key for info in lake.store.list("")}
    assert named <= stored
    assert len(stored - named) == (5 if step in ("after_put", "before_commit") else 0)
