"""Pruning by the buckets of a partitioned table: an answer never tells of it, and only files of the bucket are read."""

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from catalog.partitions import partition_fields, split
from catalog.readset import ReadFile, ReadTable
from catalog.schema import Column, TableSchema, arrow_schema
from query.bucketing import buckets_of
from query.request import Params
from storage.columns import TOKEN_COLUMN
from tests.unit.test_pruning import POOLS, TOKEN_FIELD, conditions, duck, pruned, read_set, table_of, write

__all__ = ["duck"]  # the fixture

Row = dict[str, Any]
INFINITE = (float("inf"), float("-inf"))


def divided(
    root: Path, schema: TableSchema, rows: Sequence[Row], *, columns: Sequence[str], count: int, most: int
) -> list[ReadFile]:
    """Files as a claim leaves them: one for each partition, but for the smallest that share one."""
    spec = {"fields": [{"column": column, "transform": f"bucket[{count}]"} for column in columns]}
    batch = pa.Table.from_pylist(list(rows), schema=arrow_schema(schema, keyed=False).append(TOKEN_FIELD))
    return [
        replace(
            write(root, schema, part.rows.to_pylist(), folded=False, keyed=False), partition_values=dict(part.values)
        )
        for part in split(batch, partition_fields(spec, schema=schema), most=most)
    ]


def bucketed(table: ReadTable, *, columns: Sequence[str], count: int) -> ReadTable:
    held = (column.field_id for column in table.schema.columns if column.name in columns)
    return replace(table, buckets=tuple((field_id, count) for field_id in held))


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_answer_is_the_same_with_and_without_the_buckets_that_are_left_out(
    data: st.DataObject, duck: duckdb.DuckDBPyConnection
) -> None:
    type_ = data.draw(st.sampled_from(list(POOLS)), label="type")
    count = data.draw(st.sampled_from([1, 2, 3, 16]), label="buckets")
    former = data.draw(st.sampled_from(["a", "b"]), label="former name")
    values = st.sampled_from([None, *POOLS[type_]])
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        # The two columns may have changed their names since the files were written.
        old = schema_of(1, {former: type_, "b" if former == "a" else "a": "int64"})
        new = schema_of(2, {"a": type_, "b": "int64"})
        files = [
            file
            for rows in data.draw(st.lists(st.lists(values, min_size=1, max_size=8), min_size=1, max_size=3))
            for file in divided(
                root,
                old,
                [{"k": n, "a": n, "b": n} | {former: value, TOKEN_COLUMN: 1} for n, value in enumerate(rows)],
                columns="ab",
                count=count,
                most=data.draw(st.integers(2, 20)),
            )
        ]
        read = read_set(bucketed(table_of("t", new, files, old=old), columns="ab", count=count))
        for condition, params in data.draw(
            st.lists(st.one_of(conditions("t.a", type_), equalities("t.a", type_)), min_size=4, max_size=4)
        ):
            try:
                pruned(duck, read, root, f"SELECT k, a FROM t WHERE {condition}", params)
            except duckdb.BinderException:
                continue


@st.composite
def equalities(draw: st.DrawFn, column: str, type_: str) -> tuple[str, list[Any]]:
    """The column is one of some values that it may have."""
    known = st.sampled_from(POOLS[type_]).map(as_parameter).filter(lambda value: value not in INFINITE)
    values = draw(st.lists(known, min_size=1, max_size=3))
    return f"{column} IN ({', '.join('?' for _ in values)})", values


def as_parameter(value: Any) -> Any:
    """The value as a request gives it."""
    if isinstance(value, Decimal):
        return float(value)
    return value.isoformat() if isinstance(value, date) else value


def schema_of(version: int, types: dict[str, str]) -> TableSchema:
    """The columns `k` and those of `types`, the first of which has the id 2."""
    columns = [("k", "int32"), *types.items()]
    return TableSchema(
        version=version,
        columns=tuple(
            Column(field_id=number, name=name, type=type_) for number, (name, type_) in enumerate(columns, 1)
        ),
    )


KEPT: list[tuple[str, Params | None, int]] = [
    ("SELECT k FROM t", None, 8),
    ("SELECT k FROM t WHERE a = 'value 5'", None, 1),
    ("SELECT k FROM t WHERE a = ?", ["value 5"], 1),
    ("SELECT k FROM t WHERE a IN ('value 5', 'value 5')", None, 1),
    ("SELECT k FROM t WHERE a = 'value 5' AND k > 0", None, 1),
    ("SELECT x.k FROM t x JOIN t y USING (k) WHERE x.a = 'value 5'", None, 8),
    ("SELECT k FROM t WHERE a = 'value 5' OR a = 'value 6'", None, 8),
    ("SELECT k FROM t WHERE a >= 'value 5' AND a <= 'value 5'", None, 8),
    ("SELECT k FROM t WHERE a <> 'value 5'", None, 8),
    ("SELECT k FROM t WHERE lower(a) = 'value 5'", None, 8),
]


@pytest.mark.parametrize(("sql", "params", "kept"), KEPT)
def test_only_the_files_of_the_bucket_are_read(
    sql: str, params: Params | None, kept: int, duck: duckdb.DuckDBPyConnection, tmp_path: Path
) -> None:
    schema = schema_of(1, {"a": "string"})
    rows = [{"k": n, "a": f"value {n}", TOKEN_COLUMN: 1} for n in range(400)]
    files = divided(tmp_path, schema, rows, columns="a", count=8, most=8)
    assert len(files) == 8
    # Without bounds, as where every file spans all values.
    files = [replace(file, stats=tuple(None for _ in file.stats)) for file in files]
    read = read_set(bucketed(table_of("t", schema, files), columns="a", count=8))
    assert 8 - pruned(duck, read, tmp_path, sql, params) == kept


def test_files_of_several_buckets_are_always_read(duck: duckdb.DuckDBPyConnection, tmp_path: Path) -> None:
    schema = schema_of(1, {"a": "int64"})
    rows = [{"k": n, "a": n, TOKEN_COLUMN: 1} for n in range(400)]
    files = divided(tmp_path, schema, rows, columns="a", count=8, most=3)
    assert [bool(file.partition_values) for file in files] == [True, True, False]
    files = [replace(file, stats=tuple(None for _ in file.stats)) for file in files]
    read = read_set(bucketed(table_of("t", schema, files), columns="a", count=8))
    kept = {3 - pruned(duck, read, tmp_path, f"SELECT k FROM t WHERE a = {n}") for n in range(40)}
    assert kept == {1, 2}


def test_buckets_are_those_of_the_values_as_they_are_stored() -> None:
    """Numbers of the Iceberg specification, appendix B, where they are the same."""
    assert buckets_of([34], kind="int32", count=2**31 - 1) == buckets_of([34], kind="int64", count=2**31 - 1)
    assert buckets_of([34], kind="int64", count=2**31 - 1) == {2017239379}
    assert buckets_of(["iceberg"], kind="string", count=2**31 - 1) == {1210000089}
    assert buckets_of(["2017-11-16"], kind="date", count=1000) == {(-653330422 & 0x7FFFFFFF) % 1000}
    assert buckets_of([0.5], kind="float64", count=4) is None
    assert buckets_of([10**40], kind="decimal(10,2)", count=4) is None
