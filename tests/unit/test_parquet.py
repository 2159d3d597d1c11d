"""Data files as written: what a reader, the planner's pruning and the integrity check rely on."""

import hashlib
import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import duckdb
import pyarrow as pa
import pytest

from storage.errors import DataFileCorrupt, StoreUnavailable, UnwritableData
from storage.parquet import FooterInfo, WrittenFile, read_footer, write_parquet
from storage.proof import CONTENT_HASH_ALGORITHM, GOLDEN_SQL, GOLDEN_SUM, ContentProof, proof_sql
from storage.reading import ScanColumn

ARROW = {
    "bool": pa.bool_(),
    "int32": pa.int32(),
    "int64": pa.int64(),
    "float32": pa.float32(),
    "float64": pa.float64(),
    "decimal(10,2)": pa.decimal128(10, 2),
    "decimal(38,2)": pa.decimal128(38, 2),
    "string": pa.string(),
    "binary": pa.binary(),
    "date": pa.date32(),
    "timestamp": pa.timestamp("us"),
    "json": pa.string(),
    "uuid": pa.string(),
    "list<int64>": pa.list_(pa.int64()),
    "list<uuid>": pa.list_(pa.string()),
    "list<float64>": pa.list_(pa.float64()),
    "list<list<string>>": pa.list_(pa.list_(pa.string())),
}


def make_table(**columns: tuple[str, list[Any]]) -> pa.Table:
    """A table of `name=(logical type, values)`; field ids count from 1."""
    fields = [
        pa.field(
            name,
            ARROW[kind],
            metadata={b"PARQUET:field_id": str(index).encode(), b"duckmesh:type": kind.encode()},
        )
        for index, (name, (kind, _)) in enumerate(columns.items(), 1)
    ]
    arrays = [pa.array(values, field.type) for field, (_, values) in zip(fields, columns.values(), strict=True)]
    return pa.Table.from_arrays(arrays, schema=pa.schema(fields))


def bounds_of(path: Path, kind: str, values: list[Any]) -> tuple[object, object, int]:
    stats = write_parquet(make_table(c=(kind, values)), path).columns[0]
    return stats.min, stats.max, stats.null_count


def rows_of(path: Path, what: str = "*") -> list[tuple[Any, ...]]:
    with duckdb.connect() as db:
        db.execute("SET TimeZone = 'UTC'")
        return db.execute(f"SELECT {what} FROM read_parquet('{path}')").fetchall()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "f.parquet"


def test_every_type_survives_with_its_nulls(path: Path) -> None:
    moment = datetime.fromisoformat("1969-12-31T23:59:59.999999")
    identity = "ffffffff-0000-0000-0000-000000000001"
    values: dict[str, tuple[str, list[Any]]] = {
        "a": ("bool", [True, None]),
        "b": ("int32", [-(2**31), None]),
        "c": ("int64", [2**53 + 1, None]),
        "d": ("float32", [0.5, None]),
        "e": ("float64", [1e-300, None]),
        "f": ("decimal(38,2)", [Decimal("-123456789012345678901234567890.12"), None]),
        "g": ("string", ["zero \0 byte, é", None]),
        "h": ("binary", [b"\xff\x00", None]),
        "i": ("date", [date(1, 1, 1), None]),
        "j": ("timestamp", [moment, None]),
        "k": ("json", ['{"a": [1, null]}', None]),
        "l": ("uuid", [identity, None]),
        "m": ("list<int64>", [[1, None], None]),
        "n": ("list<uuid>", [[identity, None], []]),
        "o": ("list<list<string>>", [[["x"], [], None], None]),
    }
    write_parquet(make_table(**values), path)
    expected = {name: list(column) for name, (_, column) in values.items()}
    expected["l"] = [UUID(identity), None]
    expected["n"] = [[UUID(identity), None], []]
    assert rows_of(path) == list(zip(*expected.values(), strict=True))
    with duckdb.connect() as db:
        types = [row[1] for row in db.execute(f"DESCRIBE SELECT * FROM read_parquet('{path}')").fetchall()]
    assert types == [
        *("BOOLEAN", "INTEGER", "BIGINT", "FLOAT", "DOUBLE", "DECIMAL(38,2)", "VARCHAR", "BLOB", "DATE"),
        *("TIMESTAMP", "JSON", "UUID", "BIGINT[]", "UUID[]", "VARCHAR[][]"),
    ]


def test_the_file_describes_itself(path: Path) -> None:
    table = make_table(a=("int64", [1, 2, 3]), l=("list<int64>", [[1], None, []]))
    table = table.append_column("_duckmesh_token", pa.array([7, 8, 9], pa.int64()))
    written = write_parquet(table.append_column("_duckmesh_op", pa.array([0, 1, 0], pa.int8())), path)
    assert read_footer(path) == FooterInfo(rows=3, field_ids=(1, 2, 2_147_483_000, 2_147_483_001))
    assert written.row_count == written.content_count == 3
    assert written.size_bytes == path.stat().st_size
    assert written.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert [(c.field_id, c.min, c.max, c.null_count) for c in written.columns] == [
        *((1, 1, 3, 0), (2, None, None, 1), (2_147_483_000, 7, 9, 0), (2_147_483_001, 0, 1, 0)),
    ]


def test_files_are_compressed_in_row_groups_of_the_measured_size(path: Path) -> None:
    write_parquet(make_table(a=("int64", list(range(250_000)))), path)
    with duckdb.connect() as db:
        groups = db.execute(
            f"SELECT row_group_num_rows, compression FROM parquet_metadata('{path}') ORDER BY row_group_id"
        ).fetchall()
    assert groups == [(122_880, "ZSTD"), (122_880, "ZSTD"), (4_240, "ZSTD")]


@pytest.mark.parametrize(
    ("kind", "values", "low", "high"),
    [
        ("bool", [True, False], False, True),
        ("int32", [3, -3], -3, 3),
        ("int64", [2**63 - 1, -(2**63)], -(2**63), 2**63 - 1),
        ("float64", [1.5, -0.1], -0.1, 1.5),
        ("float32", [0.1], 0.10000000149011612, 0.10000000149011612),
        ("float64", [float("inf"), 1.0], 1.0, None),
        ("decimal(10,2)", [Decimal("10.00"), Decimal("-2.5")], "-2.50", "10.00"),
        ("string", ["b", "a", "é"], "a", "é"),
        ("string", ["", ""], "", ""),
        ("binary", [b"a", b"b"], None, None),
        ("date", [date(2013, 1, 2), date(1, 1, 1)], "0001-01-01", "2013-01-02"),
        (
            "timestamp",
            [datetime.fromisoformat("2013-01-01T05:00"), datetime.fromisoformat("2013-01-01T05:00:00.000001")],
            "2013-01-01T05:00:00",
            "2013-01-01T05:00:00.000001",
        ),
        ("json", ["1", "2"], None, None),
        (
            "uuid",
            ["ffffffff-0000-0000-0000-000000000001", "10000000-0000-0000-0000-000000000001"],
            "10000000-0000-0000-0000-000000000001",
            "ffffffff-0000-0000-0000-000000000001",
        ),
        ("uuid", ["FFFFFFFF-0000-0000-0000-000000000001"], None, None),
        ("list<int64>", [[1], [2]], None, None),
    ],
)
def test_bounds_are_typed(path: Path, kind: str, values: list[Any], low: object, high: object) -> None:
    assert bounds_of(path, kind, [*values, None]) == (low, high, 1)


def test_a_column_of_nulls_has_no_bounds(path: Path) -> None:
    assert bounds_of(path, "int64", [None, None]) == (None, None, 2)


def test_moments_that_do_not_sort_as_text_give_no_bound(path: Path) -> None:
    table = make_table(c=("timestamp", [0, 0]))
    far = pa.array([2**62, -(2**61)], pa.int64()).cast(pa.timestamp("us"))
    stats = write_parquet(table.set_column(0, table.schema.field(0), far), path).columns[0]
    assert (stats.min, stats.max) == (None, None)


@pytest.mark.parametrize("kind", ["float32", "float64"])
@pytest.mark.parametrize("position", [0, 130_000, 259_999])
def test_nan_in_any_row_group_leaves_no_bounds(path: Path, kind: str, position: int) -> None:
    values = [1.0] * 260_000
    values[position] = float("nan")
    assert bounds_of(path, kind, values) == (None, None, 0)
    assert rows_of(path, "count(*) FILTER (c > 5)") == [(1,)]


@pytest.mark.parametrize(
    ("text", "low", "high"),
    [
        ("x" * 256, "x" * 256, "x" * 256),
        ("x" * 257, "x" * 256, "x" * 255 + "y"),
        ("é" * 129, "é" * 128, "é" * 127 + "ê"),
        ("a" + "é" * 129, "a" + "é" * 127, "a" + "é" * 126 + "ê"),
        ("a" + "\U0010ffff" * 100, "a" + "\U0010ffff" * 63, "b"),
        ("\U0010ffff" * 100, "\U0010ffff" * 64, None),
        ("\ud7ff" * 100, "\ud7ff" * 85, "\ud7ff" * 84 + "\ue000"),
        ("a\0b", "a", "a\1"),
        ("\0", "", "\1"),
        ("x" * 300 + "\0", "x" * 256, "x" * 255 + "y"),
    ],
)
def test_bounds_of_strings_that_are_cut_stay_bounds(path: Path, text: str, low: str, high: str | None) -> None:
    assert bounds_of(path, "string", [text]) == (low, high, 0)
    assert low <= text
    assert high is None or high >= text


def test_a_row_group_of_long_strings_widens_the_bounds(path: Path) -> None:
    low, high, _ = bounds_of(path, "string", ["\U0010ffff" * 100] * 122_880 + ["a"])
    assert (low, high) == ("a", None)


def test_rows_keep_their_order_unless_a_sort_is_asked_for(path: Path) -> None:
    table = make_table(a=("int64", [3, 1, 2]), b=("string", ["x", "x", "a"]))
    write_parquet(table, path)
    assert rows_of(path, "a") == [(3,), (1,), (2,)]
    write_parquet(table, path, sort_by=["b", "a"])
    assert rows_of(path, "a") == [(2,), (1,), (3,)]


@pytest.mark.parametrize(("kind", "value"), [("uuid", "no uuid"), ("json", "{"), ("list<uuid>", ["no uuid"])])
def test_a_value_of_another_type_leaves_no_file(path: Path, kind: str, value: object) -> None:
    with pytest.raises(UnwritableData):
        write_parquet(make_table(c=(kind, [value])), path)
    assert not path.exists()


def test_a_directory_that_is_not_there_is_the_disks_fault(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable):
        write_parquet(make_table(c=("int64", [1])), tmp_path / "absent" / "f.parquet")


def test_an_empty_table_and_a_column_without_id_are_refused(path: Path) -> None:
    with pytest.raises(ValueError, match="empty"):
        write_parquet(make_table(c=("int64", [])), path)
    with pytest.raises(ValueError, match="field id"):
        write_parquet(pa.table({"c": [1]}), path)


def test_odd_paths_and_names_are_quoted(tmp_path: Path) -> None:
    path = tmp_path / "it's [odd] {é}.parquet"
    table = make_table(a=("int64", [1])).rename_columns(['we"ird'])
    assert write_parquet(table, path).columns[0].min == 1
    assert path.exists()


@pytest.mark.parametrize("content", [b"", b"PAR1 not really PAR1", b"x" * 5000])
def test_a_file_that_is_not_parquet_is_corrupt(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(DataFileCorrupt):
        read_footer(path)


# The content proof.


def proof_of(path: Path, **columns: tuple[str, list[Any]]) -> ContentProof:
    return _proof(write_parquet(make_table(**columns), path))


def _proof(written: WrittenFile) -> ContentProof:
    return ContentProof(count=written.content_count, hash_sum=written.content_hash)


def test_the_hash_is_the_one_that_proofs_were_recorded_with() -> None:
    assert CONTENT_HASH_ALGORITHM == "duckdb-hash-sum/1"
    with duckdb.connect() as db:
        assert db.execute(GOLDEN_SQL).fetchall() == [(GOLDEN_SUM,)]


def test_a_recorded_proof_is_still_the_proof(path: Path) -> None:
    proof = proof_of(
        path,
        a=("int64", [1, None]),
        s=("string", ["x", None]),
        f=("float64", [-0.0, None]),
        u=("uuid", ["00000000-0000-0000-0000-000000000001", None]),
        l=("list<list<string>>", [[["a"], None], None]),
    )
    assert proof == ContentProof(count=2, hash_sum=24_563_668_960_791_947_654)


def test_the_proof_of_a_file_read_back_is_the_proof_recorded(path: Path) -> None:
    columns: dict[str, tuple[str, list[Any]]] = {
        "j": ("json", ['{"a": 1}', None]),
        "u": ("uuid", ["FFFFFFFF-0000-0000-0000-000000000001", None]),
        "f": ("float32", [0.1, -0.0]),
        "l": ("list<float64>", [[-0.0, None], []]),
    }
    recorded = proof_of(path, **columns)
    types = ["JSON", "UUID", "FLOAT", "DOUBLE[]"]
    scanned = [
        ScanColumn(field_id=i, name=name, duckdb_type=kind)
        for i, (name, kind) in enumerate(zip(columns, types, strict=True), 1)
    ]
    with duckdb.connect() as db:
        count, hash_sum = db.execute(proof_sql(f"read_parquet('{path}')", scanned[::-1])).fetchall()[0]
    assert ContentProof(count=count, hash_sum=hash_sum) == recorded


def test_proofs_add_up_over_files_and_ignore_the_order_of_rows(tmp_path: Path) -> None:
    first = proof_of(tmp_path / "1", a=("int64", [1, 2]), b=("string", ["x", "y"]))
    second = proof_of(tmp_path / "2", a=("int64", [3]), b=("string", ["z"]))
    both = proof_of(tmp_path / "3", a=("int64", [3, 2, 1]), b=("string", ["z", "y", "x"]))
    assert first + second == both


@pytest.mark.parametrize(
    ("kind", "one", "other"),
    [
        ("int64", [1, 1, 2], [1, 2, 2]),
        ("list<int64>", [None], [[]]),
        ("list<int64>", [[None]], [[]]),
        ("list<int64>", [[1, 2]], [[2, 1]]),
        ("list<list<string>>", [[["a", "b"]]], [[["a"], ["b"]]]),
        ("list<list<string>>", [[[]]], [[None]]),
        ("list<float64>", [[0.0]], [[-0.0]]),
        ("float32", [0.0], [-0.0]),
        ("float64", [0.0], [-0.0]),
        ("float64", [None], [float("nan")]),
        ("string", [""], [None]),
        ("bool", [False], [None]),
    ],
)
def test_different_contents_have_different_proofs(tmp_path: Path, kind: str, one: list[Any], other: list[Any]) -> None:
    assert proof_of(tmp_path / "1", c=(kind, one)) != proof_of(tmp_path / "2", c=(kind, other))


def test_values_that_changed_rows_change_the_proof(tmp_path: Path) -> None:
    one = proof_of(tmp_path / "1", a=("int64", [1, 2]), b=("int64", [10, 20]))
    assert one != proof_of(tmp_path / "2", a=("int64", [1, 2]), b=("int64", [20, 10]))
    assert one != proof_of(tmp_path / "3", a=("int64", [10, 20]), b=("int64", [1, 2]))


# One DuckDB per process.


def test_threads_write_at_once(tmp_path: Path) -> None:
    def write(index: int) -> int:
        table = make_table(a=("int64", list(range(index, index + 1000))))
        return int(write_parquet(table, tmp_path / f"{index}.parquet").columns[0].min or 0)

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(write, range(40))) == list(range(40))


@pytest.fixture
def forked() -> Iterator[Any]:
    with multiprocessing.get_context("fork").Pool(1) as pool:
        yield pool
        pool.close()
        pool.join()


def _write_in_child(path: str) -> int:
    return write_parquet(make_table(a=("int64", [1, 2, 3])), Path(path)).row_count


def test_a_forked_child_writes_with_a_database_of_its_own(path: Path, tmp_path: Path, forked: Any) -> None:
    write_parquet(make_table(a=("int64", [1])), path)
    assert forked.apply(_write_in_child, (str(tmp_path / "child.parquet"),)) == 3
