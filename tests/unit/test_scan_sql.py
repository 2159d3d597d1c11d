"""Files of several schema versions, read in one schema: real files, real DuckDB."""

import datetime as dt
import json
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from uuid import UUID

import duckdb
import pytest

from storage.reading import Changed, Part, ScanColumn, parts_sql, scan_sql, uniform_scan_sql

TOKEN = ScanColumn(field_id=2_147_483_000, name="_duckmesh_token", duckdb_type="BIGINT")


def column(field_id: int, name: str, duckdb_type: str) -> ScanColumn:
    return ScanColumn(field_id=field_id, name=name, duckdb_type=duckdb_type)


def write(path: Path, select: str, **field_ids: int) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    ids = ", ".join(f'"{name}": {field_id}' for name, field_id in field_ids.items())
    target = str(path).replace("'", "''")
    with duckdb.connect() as db:
        db.execute(f"COPY ({select}) TO '{target}' (FORMAT parquet, ROW_GROUP_SIZE 2048, FIELD_IDS {{{ids}}})")
    return str(path)


def read(sql: str) -> list[tuple[object, ...]]:
    with duckdb.connect() as db:
        return db.execute(sql).fetchall()


@pytest.fixture
def versions(tmp_path: Path) -> list[str]:
    """Version 1 of a table, and version 2: renamed, widened, one column dropped, three added."""
    old = write(
        tmp_path / "old.parquet",
        "SELECT 1::INTEGER AS a, 1.5::DECIMAL(10,2) AS d, [1, NULL]::INTEGER[] AS l, "
        "'x' AS gone, 7::BIGINT AS _duckmesh_token",
        a=1, d=2, l=3, gone=4, _duckmesh_token=2_147_483_000,
    )  # fmt: skip
    new = write(
        tmp_path / "new.parquet",
        "SELECT 2::BIGINT AS renamed, 2.25::DECIMAL(12,4) AS d, [3]::BIGINT[] AS l, "
        "'00000000-0000-0000-0000-000000000001'::UUID AS u, '{\"k\": 1}'::JSON AS j, "
        "TIMESTAMP '2013-01-01 05:00' AS t, 8::BIGINT AS _duckmesh_token",
        renamed=1, d=2, l=3, u=5, j=6, t=7, _duckmesh_token=2_147_483_000,
    )  # fmt: skip
    return [old, new]


SECOND = [
    column(1, "renamed", "BIGINT"),
    column(2, "d", "DECIMAL(12,4)"),
    column(3, "l", "BIGINT[]"),
    column(5, "u", "UUID"),
    column(6, "j", "JSON"),
    column(7, "t", "TIMESTAMP"),
    TOKEN,
]


def test_files_of_two_versions_read_as_one_schema(versions: list[str]) -> None:
    rows = read(f"SELECT * FROM {scan_sql(versions, SECOND)} ORDER BY 1")
    assert rows == [
        (1, Decimal("1.5000"), [1, None], None, None, None, 7),
        (
            2,
            Decimal("2.2500"),
            [3],
            UUID(int=1),
            '{"k": 1}',
            dt.datetime.fromisoformat("2013-01-01T05:00"),
            8,
        ),
    ]


def test_the_schema_does_not_depend_on_which_file_comes_first(versions: list[str]) -> None:
    described = [
        read(f"DESCRIBE SELECT * FROM {scan_sql(paths, SECOND)}")
        for paths in (versions, versions[::-1], versions[:1], [])
    ]
    assert described[0] == described[1] == described[2] == described[3]
    assert [(row[0], row[1]) for row in described[0]] == [(c.name, c.duckdb_type) for c in SECOND]


def test_names_that_changed_places_follow_their_field_ids(tmp_path: Path) -> None:
    path = write(tmp_path / "f.parquet", "SELECT 1::INTEGER AS a, 2::INTEGER AS b", a=1, b=2)
    swapped = [column(2, "a", "INTEGER"), column(1, "b", "INTEGER")]
    assert read(f"SELECT a, b FROM {scan_sql([path], swapped)}") == [(2, 1)]


@pytest.mark.parametrize("form", [scan_sql, uniform_scan_sql])
def test_names_and_paths_are_quoted(tmp_path: Path, form: Callable[..., str]) -> None:
    name = 'it\'s "odd" -- ; é'
    quoted = name.replace('"', '""')
    select = f'SELECT 1::INTEGER AS "{quoted}"'
    path = write(tmp_path / "it's {a,b} #1" / "f.parquet", select, **{quoted: 1})
    rows = read(f"SELECT * FROM {form([path], [column(1, name, 'INTEGER')])}")
    assert rows == [(1,)]
    assert read(f"DESCRIBE SELECT * FROM {form([path], [column(1, name, 'INTEGER')])}")[0][0] == name


@pytest.mark.parametrize("form", [scan_sql, uniform_scan_sql])
def test_partition_directories_add_no_columns(tmp_path: Path, form: Callable[..., str]) -> None:
    path = write(tmp_path / "date=2013-01-01" / "hour=05" / "f.parquet", "SELECT 9::INTEGER AS hour", hour=1)
    with duckdb.connect() as db:
        result = db.execute(f"SELECT * FROM {form([path], [column(1, 'hour', 'INTEGER')])}")
        assert [entry[0] for entry in result.description] == ["hour"]
        assert result.fetchall() == [(9,)]


def test_uniform_scan_hides_columns_that_were_not_asked_for(versions: list[str]) -> None:
    assert read(f"SELECT * FROM {uniform_scan_sql(versions[1:], SECOND[:1])}") == [(2,)]


@pytest.mark.parametrize("form", [scan_sql, uniform_scan_sql])
@pytest.mark.parametrize("path", ["/a/*.parquet", "/a/?.parquet", "/a[b]/c.parquet"])
def test_a_path_that_duckdb_would_expand_is_refused(form: Callable[..., str], path: str) -> None:
    with pytest.raises(ValueError, match="pattern"):
        form([path], [TOKEN])


@pytest.mark.parametrize(
    "columns",
    [
        [],
        [column(1, "a", "BIGINT"), column(1, "b", "BIGINT")],
        [column(1, "a", "BIGINT"), column(2, "A", "BIGINT")],
    ],
)
def test_ambiguous_columns_are_refused(columns: list[ScanColumn]) -> None:
    with pytest.raises(ValueError, match="column"):
        scan_sql(["/f.parquet"], columns)


def test_filters_on_widened_and_missing_columns_are_exact_and_prune_row_groups(tmp_path: Path) -> None:
    select = "SELECT i::INTEGER AS a, (i / 10)::DECIMAL(10,2) AS d, hash(i)::VARCHAR AS s FROM range(200000) t(i)"
    path = write(tmp_path / "f.parquet", select, a=1, d=2, s=3)
    wanted = [
        column(1, "a", "BIGINT"),
        column(2, "d", "DECIMAL(18,4)"),
        column(3, "s", "VARCHAR"),
        column(9, "z", "TIMESTAMP"),
    ]
    scan = scan_sql([path], wanted)

    def bytes_read(where: str) -> int:
        with duckdb.connect() as db:
            db.execute("PRAGMA enable_profiling = 'no_output'")
            db.execute(f"SELECT max(s) FROM {scan} WHERE {where}").fetchall()
            return int(json.loads(db.get_profiling_information(format="json"))["total_bytes_read"])

    assert read(f"SELECT count(*) FROM {scan} WHERE a > 199990") == [(9,)]
    assert read(f"SELECT a FROM {scan} WHERE d = 100.1") == [(1001,)]
    assert read(f"SELECT count(*) FROM {scan} WHERE z IS NULL") == [(200_000,)]
    assert read(f"SELECT count(*) FROM {scan} WHERE z > '2013-01-01'") == [(0,)]
    assert bytes_read("a = 199999") < bytes_read("a % 2 = 0")


def test_parts_of_several_versions_read_as_one_and_each_prunes_row_groups(tmp_path: Path) -> None:
    fields = {"a": 1, "d": 2, "s": 3}
    select = "SELECT i::{a} AS a, (i / 10)::DOUBLE AS d, hash(i)::VARCHAR AS s FROM range({first}, {last}) t(i)"
    old = write(tmp_path / "old.parquet", select.format(a="INTEGER", first=0, last=100_000), **fields)
    new = write(tmp_path / "new.parquet", select.format(a="BIGINT", first=100_000, last=200_000), **fields)
    columns = [column(1, "a", "BIGINT"), column(2, "d", "DOUBLE"), column(3, "s", "VARCHAR")]
    parts = [Part(files=(new,), uniform=True), Part(files=(old,), changed=(Changed(field_id=1),)), Part(files=())]
    scan = parts_sql(parts, columns)

    def bytes_read(where: str) -> int:
        with duckdb.connect() as db:
            db.execute("PRAGMA enable_profiling = 'no_output'")
            db.execute(f"SELECT max(s) FROM {scan} WHERE {where}").fetchall()
            return int(json.loads(db.get_profiling_information(format="json"))["total_bytes_read"])

    assert read(f"SELECT count(*), sum(a), count(d) FROM {scan}") == [(200_000, 199_999 * 100_000, 200_000)]
    for where, unpruned in (("a = 5", "a % 2 = 0"), ("a = 199999", "a % 2 = 0"), ("d = 0.5", "d % 2 = 0")):
        assert bytes_read(where) < bytes_read(unpruned), where


def test_parts_without_files_are_an_empty_relation() -> None:
    described = read(f"DESCRIBE SELECT * FROM {parts_sql([], [column(1, 'a', 'BIGINT')])}")
    assert [(row[0], row[1]) for row in described] == [("a", "BIGINT")]
    with pytest.raises(ValueError, match="column"):
        parts_sql([], [])


WIDENINGS = [
    ("INTEGER", "BIGINT", ["5", "2500.5", "3000000000", "-3000000000", "9223372036854775807", "0.5::DOUBLE"]),
    ("INTEGER", "DOUBLE", ["5", "2500.5", "0.1", "3000000000", "2500.5::DOUBLE"]),
    ("BIGINT", "DOUBLE", ["5", "2500.5", "0.1", "1e300"]),
    ("FLOAT", "DOUBLE", ["0.1", "2500.5", "0.3::FLOAT"]),
    ("INTEGER", "DECIMAL(18,3)", ["5", "2500.5", "0.1", "2500.001"]),
    ("BIGINT", "DECIMAL(25,2)", ["5", "2500.5", "0.1"]),
    ("DECIMAL(10,2)", "DECIMAL(18,4)", ["5", "2500.5051", "0.1", "0.0951"]),
    ("INTEGER", "VARCHAR", ["'5'", "'9'", "'2500'", "'a'"]),
    ("BIGINT", "VARCHAR", ["'5'", "'9'", "'2500'", "''"]),
    ("DOUBLE", "VARCHAR", ["'5.0'", "'9'", "'2500.0'"]),
    ("BOOLEAN", "VARCHAR", ["'true'", "'f'"]),
]


@pytest.mark.parametrize(("stored", "shown", "constants"), WIDENINGS)
def test_every_filter_on_a_widened_column_means_what_it_says(
    tmp_path: Path, stored: str, shown: str, constants: list[str]
) -> None:
    value = "i % 2 = 0" if stored == "BOOLEAN" else "i" if stored in ("INTEGER", "BIGINT") else "i / 10"
    select = f"SELECT CASE WHEN i % 100 = 7 THEN NULL ELSE CAST({value} AS {stored}) END AS x FROM range(6000) t(i)"
    paths = [write(tmp_path / f"{part}.parquet", f"{select} WHERE i % 2 = {part}", x=1) for part in (0, 1)]
    scan = scan_sql(paths, [column(1, "x", shown)])
    plain = f"(SELECT CAST(x AS {shown}) AS x FROM rows)"  # nothing can be pushed into a file from here
    wheres = [
        where
        for constant in constants
        for operator in ("=", "<>", "<", "<=", ">", ">=", "IS DISTINCT FROM")
        for where in (f"x {operator} {constant}", f"NOT (x {operator} {constant})")
    ]
    wheres += [f"x IN ({', '.join(constants)})", f"x BETWEEN {constants[0]} AND {constants[1]}"]
    queries = [f"SELECT count(*), min(x), max(x) FROM {{}} WHERE {where}" for where in wheres]
    queries += [
        "SELECT count(*), count(x), min(x), max(x) FROM {}",
        "SELECT x FROM {} ORDER BY x DESC NULLS LAST LIMIT 5",
        f"SELECT count(*) FROM {{}} r JOIN (SELECT unnest([{', '.join(constants)}]) AS k) ON r.x = k",
    ]
    with duckdb.connect() as db:
        db.execute(f"CREATE TABLE rows AS {select}")
        for query in queries:
            assert db.execute(query.format(scan)).fetchall() == db.execute(query.format(plain)).fetchall(), query
