"""Pruning by bounds: a query's answer never tells that files were left out, and where it can be seen they are."""

import itertools
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from catalog.readset import ReadFile, ReadSet, ReadTable
from catalog.schema import Column, TableSchema, arrow_schema
from query.cache import InPlace
from query.engine import view_sql
from query.gate import judge
from query.planner import Plan, plan
from query.predicates import TableUse, uses_from_json, uses_to_json
from query.request import Params
from storage.columns import FIELD_ID_KEY, OP_COLUMN, TOKEN_COLUMN, TOKEN_FIELD_ID, TYPE_KEY
from storage.parquet import write_parquet

NOW = datetime(2024, 5, 17, 12, tzinfo=UTC)
UUIDS = [f"{head}0000000-0000-4000-8000-00000000000{tail}" for head in "07f" for tail in "19"]
MOMENTS = ["1969-12-31 23:59:59.999999", "2013-01-01", "2013-01-01 10:00:00", "2013-01-01T10:00:00.5Z", "9999-12-31"]
POOLS: dict[str, list[Any]] = {
    "int32": [-(2**31), -1, 0, 1, 2, 2**31 - 1],
    "int64": [-(2**63), -(2**53) - 1, -1, 0, 1, 2, 3, 2**24 + 1, 2**53 + 1, 2**63 - 1],
    "float32": [-1e30, -0.0, 0.0, 0.5, 16777216.0, 1e30, float("inf")],
    "float64": [-1e300, -0.0, 0.1, 0.5, 1.0, 2.0**53, 1e300, 5e-324, float("-inf")],
    "decimal(10,2)": [Decimal(text) for text in ("-99999999.99", "0.00", "0.01", "1.00", "2.50", "99999999.99")],
    "decimal(38,0)": [Decimal(-(10**37)), Decimal(0), Decimal(1), Decimal(10**37)],
    "string": [
        "",
        "a",
        "A",
        "ab",
        "b",
        "ä",
        "é",
        "\U0001f600",
        "\uffff",
        "z" * 300,
        "z" * 299 + "y",
        "a\0b",
        "2013-01-01",
    ],
    "bool": [True, False],
    "date": [date(1970, 1, 1), date(2013, 1, 1), date(2013, 1, 2), date(9999, 12, 31), date(1, 1, 1)],
    "timestamp": [datetime.fromisoformat(text.rstrip("Z")) for text in [*MOMENTS, "0001-01-01"]],
    "uuid": UUIDS,
    "json": ["1", '"a"', "null"],
}
TYPES = list(POOLS)
NUMBERS = [
    "-1",
    "0",
    "1",
    "2",
    "0.1",
    "0.5",
    "2.5",
    "1.005",
    "2.50",
    "1e0",
    "1e300",
    "16777217",
    "9007199254740993",
    "0.011",
]
NUMBERS += ["9223372036854775807", "-9223372036854775808", "99999999.99", "100000000", "5::BIGINT"]
TEXTS = ["''", "'a'", "'ab'", "'A'", "'ä'", "'zz'", "'" + "z" * 300 + "'", "'2013-01-01'"]
TIMES = [f"'{text}'" for text in [*MOMENTS, "0001-01-01", "2013-01-01 09:59", "1970-01-01"]]
TIMES += [f"{kind} {text}" for kind in ("TIMESTAMP", "DATE", "TIMESTAMPTZ") for text in TIMES]
TIMES += ["now()", "today() - 7", "now() - INTERVAL 3 DAY", "CAST(now() AS TIMESTAMP) + INTERVAL '2 hours'"]
LITERALS: dict[str, list[str]] = {
    "string": TEXTS,
    "bool": ["true", "false"],
    "date": TIMES,
    "timestamp": TIMES,
    "uuid": [f"'{text}'" for text in (UUIDS[0], UUIDS[3].upper())] + [f"'{UUIDS[2]}'::UUID"],
    "json": ["'1'"],
}
WIDER = {"int32": ["int64", "float64", "decimal(38,0)"], "int64": ["float64", "decimal(38,0)", "string"]}
WIDER |= {"float32": ["float64"]}
FIELDS = {name: number for number, name in enumerate(("k", "a", "b"), start=1)}
metadata = {FIELD_ID_KEY: str(TOKEN_FIELD_ID).encode(), TYPE_KEY: b"int64"}
TOKEN_FIELD = pa.field(TOKEN_COLUMN, pa.int64(), metadata=metadata)


def schema_of(version: int, types: Mapping[str, str]) -> TableSchema:
    columns = (Column(field_id=FIELDS[name], name=name, type=type_) for name, type_ in types.items())
    return TableSchema(version=version, columns=tuple(columns))


def write(root: Path, schema: TableSchema, rows: Sequence[Mapping[str, Any]], *, folded: bool, keyed: bool) -> ReadFile:
    """A data file as the materialiser writes it, with its statistics as the catalog gives them back."""
    batch = pa.Table.from_pylist(
        [dict(row) for row in rows], schema=arrow_schema(schema, keyed=keyed).append(TOKEN_FIELD)
    )
    key = f"acme/{len(list(root.rglob('*.parquet')))}.parquet"
    (root / "acme").mkdir(exist_ok=True)
    written = write_parquet(batch, root / key)
    stats = {c.field_id: {"min": c.min, "max": c.max, "null_count": c.null_count} for c in written.columns}
    return ReadFile(
        path=key,
        row_count=len(rows),
        size_bytes=written.size_bytes,
        sha256=written.sha256,
        schema_version=schema.version,
        folded=folded,
        stats=tuple(json.loads(json.dumps(stats.get(field))) for field in FIELDS.values()),
    )


def read_set(*tables: ReadTable) -> ReadSet:
    return ReadSet(
        snapshot_id=1,
        snapshot_time=NOW,
        visible_token=1,
        tables={table.name: table for table in tables},
        issued_token=None,
        failed_event_id=None,
        token_is_void=False,
    )


def table_of(
    name: str,
    schema: TableSchema,
    files: Sequence[ReadFile],
    *,
    old: TableSchema | None = None,
    key: tuple[str, ...] = (),
) -> ReadTable:
    return ReadTable(
        table_id=1,
        name=name,
        schema=schema,
        primary_key_cols=key,
        files=tuple(files),
        other_schemas={old.version: old} if old else {},
        stat_fields=tuple(FIELDS.values()),
    )


@pytest.fixture(scope="module")
def duck() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect(config={"threads": 1}) as connection:
        connection.execute("SET GLOBAL TimeZone = 'UTC'")
        yield connection


def uses_of(duck: duckdb.DuckDBPyConnection, sql: str) -> tuple[TableUse, ...]:
    """What the gate finds, after its way from the runner."""
    row = duck.execute("SELECT json_serialize_sql(?::VARCHAR)", [sql]).fetchone()
    assert row is not None
    return uses_from_json(json.loads(json.dumps(uses_to_json(judge(row[0], sql=sql).insist().uses))))


def answer(duck: duckdb.DuckDBPyConnection, made: Plan, root: Path, sql: str, params: Params | None) -> list[str] | str:
    """The rows in some order of their own, or the kind of error that there is instead."""
    for view in made.views:
        duck.execute(f'CREATE OR REPLACE VIEW "{view.name}" AS {view_sql(view, below=f"{root}/")}')
    try:
        return sorted(map(repr, duck.execute(sql, params or []).fetchall()))
    except duckdb.Error as error:
        return type(error).__name__


def pruned(duck: duckdb.DuckDBPyConnection, read: ReadSet, root: Path, sql: str, params: Params | None = None) -> int:
    """How many files were left out, of which the answer tells nothing."""
    source, now = InPlace(root), datetime.now(UTC)
    whole = plan(read, tenant_id="acme", source=source)
    part = plan(read, tenant_id="acme", source=source, uses=uses_of(duck, sql), params=params, now=now)
    expected = answer(duck, whole, root, sql, params)
    if not isinstance(expected, str):  # a value in a file that is not read cannot be the one that does not fit
        assert answer(duck, part, root, sql, params) == expected
    assert part.files + part.pruned_files == whole.files
    return part.pruned_files


@st.composite
def conditions(draw: st.DrawFn, column: str, type_: str) -> tuple[str, list[Any]]:
    """A condition on the column, as SQL with its parameters."""
    literals = LITERALS.get(type_, NUMBERS)
    params: list[Any] = []

    def constant() -> str:
        if draw(st.integers(0, 3)):
            return draw(st.sampled_from(literals))
        values = [
            float(v) if isinstance(v, Decimal) else v for v in POOLS[type_] if v not in (float("inf"), float("-inf"))
        ]
        value = draw(st.sampled_from(values))
        params.append(value.isoformat() if isinstance(value, date) else value)
        return "?"

    form = draw(st.integers(0, 7))
    if form == 0:
        text = f"{column} IS {draw(st.sampled_from(['', 'NOT ']))}NULL"
    elif form == 1:
        text = f"{column} BETWEEN {constant()} AND {constant()}"
    elif form == 2:
        text = f"{column} IN ({', '.join(constant() for _ in range(draw(st.integers(1, 3))))})"
    elif form == 3 and type_ == "string":
        text = f"{column} LIKE {draw(st.sampled_from(['a%', 'z_', '%', 'ä', 'zzzz%']))!r}"
    else:
        operator = draw(st.sampled_from(["=", "<", "<=", ">", ">=", "<>"]))
        text = f"{column} {operator} {constant()}" if form > 4 else f"{constant()} {operator} {column}"
    return text, params


SHAPES = [
    "SELECT count(*), min(t.k) FROM t WHERE {0}",
    "SELECT t.k, t.a FROM t AS T WHERE {0} AND {1}",
    "SELECT t.k, u.k FROM t LEFT JOIN u ON t.k = u.k AND {1} WHERE {0}",
    "SELECT t.k, u.k FROM u LEFT JOIN t ON t.k = u.k AND {1} WHERE {0}",
    "SELECT t.k, u.k FROM u RIGHT JOIN t ON t.k = u.k AND {0} WHERE {1}",
    "SELECT t.k, u.k FROM t FULL JOIN u ON t.k = u.k AND {1} WHERE {0}",
    "SELECT t.k FROM t SEMI JOIN u ON t.k = u.k AND {1} WHERE {0}",
    "SELECT u.k FROM u ANTI JOIN t ON t.k = u.k AND {0}",
    "SELECT t.k FROM t ANTI JOIN u ON t.k = u.k AND {1} WHERE {0}",
    "SELECT u.k, t.k FROM u ASOF LEFT JOIN t ON u.k >= t.k WHERE {0}",
    "SELECT x.k, t.k FROM t AS x, t WHERE x.k = t.k AND {0}",
    "SELECT k FROM u WHERE k IN (SELECT t.k FROM t WHERE {0}) OR EXISTS (FROM t WHERE {1} AND t.k = u.k)",
    "WITH c AS (FROM t WHERE {0}) SELECT k FROM c UNION ALL SELECT k FROM t WHERE {1}",
    "WITH t AS (SELECT 1 AS k, a FROM t WHERE {0}) SELECT k FROM t",
    "SELECT t.k FROM u, LATERAL (SELECT t.k FROM t WHERE t.k = u.k AND {0}) AS t",
    "SELECT u.k FROM (u LEFT JOIN t ON u.k = t.k) LEFT JOIN t AS w ON w.k = t.k WHERE {0}",
]


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_answer_is_the_same_with_and_without_the_files_that_are_left_out(
    data: st.DataObject, duck: duckdb.DuckDBPyConnection
) -> None:
    stored = data.draw(st.sampled_from(TYPES), label="stored")
    shown = data.draw(st.sampled_from([stored, *WIDER.get(stored, [])]), label="shown")
    old, new = schema_of(1, {"k": "int32", "a": stored}), schema_of(2, {"k": "int64", "a": shown})
    files_of = st.lists(st.tuples(st.integers(0, 4), st.sampled_from([None, *POOLS[stored]])), min_size=1, max_size=3)
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)

        def files(least: int) -> list[ReadFile]:
            return [
                write(
                    root,
                    old if stored != shown else replace(new, version=2),
                    [{"k": k, "a": a, TOKEN_COLUMN: 1} for k, a in rows],
                    folded=False,
                    keyed=False,
                )
                for rows in data.draw(st.lists(files_of, min_size=least, max_size=4))
            ]

        read = read_set(table_of("t", new, files(1), old=old), table_of("u", new, files(0), old=old))
        for shape in data.draw(st.lists(st.sampled_from(SHAPES), min_size=4, max_size=4, unique=True)):
            first, given_first = data.draw(conditions("t.a", shown))
            second, given_second = data.draw(conditions("t.k" if "{1} WHERE" not in shape else "u.k", "int64"))
            if shape.find("{1}") > shape.find("{0}") or "{1}" not in shape:
                params = given_first + (given_second if "{1}" in shape else [])
            else:
                params = given_second + given_first
            try:
                pruned(duck, read, root, shape.format(first, second), params)
            except duckdb.BinderException:
                continue


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_no_old_row_of_a_keyed_table_shows_again(data: st.DataObject, duck: duckdb.DuckDBPyConnection) -> None:
    schema = schema_of(1, {"k": "int64", "a": "int64"})
    operations = data.draw(
        st.lists(st.tuples(st.integers(0, 3), st.none() | st.integers(0, 3), st.booleans()), min_size=1, max_size=12)
    )
    rows = [
        {"k": key, "a": None if gone else value, OP_COLUMN: int(gone), TOKEN_COLUMN: token}
        for token, (key, value, gone) in enumerate(operations, start=1)
    ]
    reach = data.draw(st.integers(0, len(rows)))
    last = {row["k"]: row for row in rows[:reach]}
    kept = [row for row in last.values() if not row[OP_COLUMN]]
    cut = data.draw(st.integers(0, len(kept)))
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        files = [write(root, schema, part, folded=True, keyed=True) for part in (kept[:cut], kept[cut:]) if part]
        fresh = iter(rows[reach:])
        while part := list(itertools.islice(fresh, data.draw(st.integers(1, 4)))):
            files.append(write(root, schema, part, folded=False, keyed=True))
        read = read_set(table_of("t", schema, files, key=("K",)))
        for column in ("a", "k", "a", "k"):
            condition, params = data.draw(conditions(column, "int64"))
            pruned(duck, read, root, f"SELECT k, a FROM t WHERE {condition}", params)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("lake")


@pytest.fixture(scope="module")
def days(root: Path) -> ReadSet:
    """Tables of ten files, one for each day of May 2013: `t` without a key, `u` with the key `k`, half of it folded."""
    schema = schema_of(1, {"k": "int64", "a": "timestamp", "b": "string"})
    first = datetime.fromisoformat("2013-05-01")
    rows = [
        [
            {
                "k": 10 * n + k,
                "a": first + timedelta(days=n, hours=k),
                "b": f"{n}x{k}",
                OP_COLUMN: 0,
                TOKEN_COLUMN: 1 + n,
            }
            for k in range(10)
        ]
        for n in range(10)
    ]
    plain = [write(root, schema, part, folded=False, keyed=False) for part in rows]
    keyed = [write(root, schema, part, folded=n < 5, keyed=True) for n, part in enumerate(rows)]
    return read_set(table_of("t", schema, plain), table_of("u", schema, keyed, key=("k",)))


KEPT: list[tuple[str, Params | None, int]] = [
    ("SELECT count(*) FROM t", None, 10),
    ("SELECT * FROM t WHERE a >= '2013-05-04' AND a < '2013-05-05'", None, 1),
    ("SELECT * FROM t WHERE A BETWEEN ? AND ?", ["2013-05-04", "2013-05-05"], 2),
    ("SELECT * FROM t AS d WHERE d.a = TIMESTAMP '2013-05-04 03:00:00'", None, 1),
    ("SELECT * FROM t WHERE a > $since", {"since": "2013-05-09T23:00:00Z"}, 1),
    ("SELECT * FROM t WHERE a::DATE = '2013-05-04'", None, 10),
    ("SELECT * FROM t WHERE a > now() - INTERVAL 7 DAY", None, 0),
    ("SELECT * FROM t WHERE a < now() - INTERVAL 7 DAY", None, 10),
    ("SELECT * FROM t WHERE k IN (5, 95)", None, 2),
    ("SELECT * FROM t WHERE k > 89.5", None, 1),
    ("SELECT * FROM t WHERE k >= 90 OR k < 10", None, 10),
    ("SELECT * FROM t WHERE b LIKE '3x%'", None, 1),
    ("SELECT * FROM t WHERE starts_with(b, '3')", None, 1),
    ("SELECT * FROM t WHERE b IS NULL", None, 0),
    ("SELECT * FROM t WHERE b COLLATE NOCASE = '3X1'", None, 10),
    ("SELECT k + 1000 AS k FROM t WHERE k = 5", None, 1),
    ("SELECT * FROM t x JOIN t y ON x.k = y.k WHERE x.k < 10 AND y.k < 20", None, 2),
    ("SELECT * FROM t x JOIN t y USING (k) WHERE k < 10", None, 10),
    ("SELECT (SELECT max(k) FROM t), * FROM t WHERE k < 10", None, 10),
    ("SELECT * FROM (FROM t WHERE k < 10) WHERE b = '0x1'", None, 1),
    ("SELECT * FROM t q(x, k, z) WHERE k = '2013-05-04'", None, 10),
    ("SELECT * FROM t TABLESAMPLE 1 ROWS WHERE k < 10", None, 10),
    ("SELECT * FROM u WHERE k < 10", None, 1),
    ("SELECT * FROM u WHERE a < '2013-05-02'", None, 10),
]


@pytest.mark.parametrize(("sql", "params", "kept"), KEPT)
def test_only_files_in_which_a_row_may_matter_are_read(
    sql: str, params: Params | None, kept: int, days: ReadSet, root: Path, duck: duckdb.DuckDBPyConnection
) -> None:
    name = "u" if " u " in sql else "t"
    read = replace(days, tables={name: days.tables[name]})
    if "TABLESAMPLE" in sql:
        assert plan(read, tenant_id="acme", source=InPlace(root), uses=uses_of(duck, sql), now=NOW).files == kept
    else:
        assert 10 - pruned(duck, read, root, sql, params) == kept


def test_folded_table_without_later_writes_is_pruned_by_every_column(
    days: ReadSet, root: Path, duck: duckdb.DuckDBPyConnection
) -> None:
    table = days.tables["u"]
    read = read_set(replace(table, files=table.files[:5]))
    assert pruned(duck, read, root, "SELECT * FROM u WHERE a < '2013-05-02'") == 4


LIES: list[Any] = [
    None,
    [["t"]],
    [["t", [["k", "~", [], []]]]],
    [["t", [["k", "=", [], []]]]],
    [["t", [["k", "=", [["int", 2**200, ""]], []]]]],
    [["t", [["k", "=", [["decimal", [1, 10**9], ""]], []]]]],
    [["t", [["k", "=", [["float", float("nan"), ""]], []]]]],
    [["t", [["k", "=", [["text", 5, ""]], []]]]],
    [["t", []]] * 10_000,
]


@pytest.mark.parametrize("lie", LIES)
def test_what_no_runner_says_is_not_believed(lie: Any) -> None:
    with pytest.raises((TypeError, ValueError)):
        uses_from_json(lie)
