"""What a value of one version of a column is in another: expressions of real DuckDB, and batches of the bus."""

import math
from decimal import Decimal
from typing import Any

import duckdb
import msgspec
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from catalog.schema import Column, TableSchema, arrow_schema, duckdb_type
from ingest.decode.growing_values import json_text
from ingest.decode.number_text import number_text
from ingest.decode.numbers import Number
from storage.conversion import conversion_sql, is_convertible
from storage.parquet import conform

OTHER = Column(field_id=2, name="b", type="int64")
FLOATS = st.floats(allow_nan=False, allow_infinity=False)


def shown(values: list[Any], from_type: str, to_type: str, *, from_holds: str = "", to_holds: str = "") -> list[Any]:
    """The values through `conform`, which runs the expression."""
    source = one_column(from_type, from_holds)
    rows = pa.table([pa.array(values, source.field(0).type)], schema=source)
    return list(conform(rows, one_column(to_type, to_holds)).column(0).to_pylist())


def one_column(type_: str, holds: str = "") -> pa.Schema:
    column = Column(field_id=1, name="c", type=type_, holds=holds)
    return arrow_schema(TableSchema(version=1, columns=(column,)), keyed=False)


@given(st.lists(FLOATS, min_size=1, max_size=20))
def test_a_float_as_text_is_its_digits_if_whole_else_the_shortest_that_reads_back(values: list[float]) -> None:
    texts = shown(values, "float64", "string", to_holds="number")
    assert [float(text) for text in texts] == values
    expected = [str(int(v)) if v.is_integer() and -(2**63) <= v < 2**63 else repr(v) for v in values]
    assert texts == expected
    assert shown(values, "float64", "json") == expected


@given(st.integers(-(2**63), 2**63 - 1))
def test_an_integer_as_text_does_not_depend_on_the_way_through_the_versions(value: int) -> None:
    assert shown([value], "int64", "string", to_holds="number") == [str(value)]
    assert shown([value], "int64", "json") == [str(value)]
    if int(float(value)) == value and value < 2**63 - 1:
        assert shown([float(value)], "float64", "string", to_holds="number") == [str(value)]
    assert shown([str(value)], "string", "json", from_holds="number") == [str(value)]
    decimals = shown([value], "int64", "decimal(22,3)")
    assert shown(decimals, "decimal(22,3)", "json") == [str(value)]


@pytest.mark.parametrize(
    ("from_type", "value", "text"),
    [
        ("bool", True, "true"),
        ("string", "1", '"1"'),
        ("string", 'a"\0é', '"a\\"\\u0000é"'),
        ("uuid", "00000000-0000-0000-0000-00000000000a", '"00000000-0000-0000-0000-00000000000a"'),
        ("binary", b"\xff\x00", '"/wA="'),
        ("list<string>", ["a", None, '"'], '["a",null,"\\""]'),
        ("list<list<float64>>", [[1.0, 0.5, None], None, []], "[[1,0.5,null],null,[]]"),
        ("list<json>", ['{"a": [1]}', '"x"'], '[{"a":[1]},"x"]'),
        ("list<uuid>", ["00000000-0000-0000-0000-00000000000a"], '["00000000-0000-0000-0000-00000000000a"]'),
        ("list<bool>", [], "[]"),
        ("float32", 0.5, "0.5"),
        ("float32", 2.0**-149, "1.401298464324817e-45"),
        ("decimal(4,2)", Decimal("-10.50"), "-10.5"),
        ("decimal(4,2)", Decimal("-0.05"), "-0.05"),
        ("decimal(2,2)", Decimal("0.05"), "0.05"),
        ("decimal(2,2)", Decimal("-0.50"), "-0.5"),
        ("decimal(2,2)", Decimal("0.00"), "0"),
        ("decimal(38,38)", Decimal("-1e-38"), "-0." + 37 * "0" + "1"),
    ],
)
def test_everything_can_be_json(from_type: str, value: Any, text: str) -> None:
    assert shown([value, None], from_type, "json") == [text, None]
    assert shown([[value, None], [], None], f"list<{from_type}>", "list<json>") == [[text, None], [], None]


def test_what_has_no_exact_image_is_not_convertible() -> None:
    for from_type, to_type in [
        ("int64", "int32"),
        ("float64", "float32"),
        ("int64", "decimal(20,2)"),
        ("decimal(10,2)", "decimal(12,1)"),
        ("decimal(10,2)", "decimal(11,4)"),
        ("float64", "decimal(38,10)"),
        ("json", "string"),
        ("list<int64>", "list<int32>"),
        ("list<int32>", "int64"),
        ("int32", "list<int32>"),
        ("bool", "int32"),
    ]:
        assert not is_convertible(from_type=from_type, from_holds="", to_type=to_type, to_holds="")
        with pytest.raises(ValueError, match="cannot be shown"):
            conversion_sql("x", from_type=from_type, from_holds="", to_type=to_type, to_holds="")


def test_text_that_may_be_no_number_never_becomes_a_column_of_numbers() -> None:
    assert is_convertible(from_type="string", from_holds="number", to_type="string", to_holds="")
    assert not is_convertible(from_type="string", from_holds="", to_type="string", to_holds="number")


def test_the_result_has_the_type_that_queries_announce() -> None:
    with duckdb.connect() as db:
        for from_type, to_type in [("int32", "decimal(12,2)"), ("list<int32>", "list<float64>"), ("date", "json")]:
            sql = conversion_sql("x", from_type=from_type, from_holds="", to_type=to_type, to_holds="")
            row = db.execute(f"SELECT typeof({sql}) FROM (SELECT NULL::{duckdb_type(from_type)} AS x)").fetchone()
            assert row == (duckdb_type(to_type),)


# Batches.


def test_columns_are_found_by_field_id() -> None:
    old = arrow_schema(
        TableSchema(
            version=1,
            columns=(
                Column(field_id=1, name="a", type="int32"),
                Column(field_id=2, name="gone", type="string"),
                Column(field_id=3, name="b", type="string"),
            ),
        ),
        keyed=True,
    )
    new = arrow_schema(
        TableSchema(
            version=2,
            columns=(
                Column(field_id=3, name="a", type="string"),
                Column(field_id=4, name="gone", type="list<float64>"),
                Column(field_id=1, name="b", type="decimal(12,2)"),
            ),
        ),
        keyed=True,
    )
    rows = pa.table([[1, None], ["x", "y"], ["p", None], [0, 1]], schema=old)
    made = conform(rows, new)
    assert made.schema.equals(new, check_metadata=True)
    assert [[None if v is None else str(v) for v in column.to_pylist()] for column in made.columns] == [
        ["p", None],
        [None, None],
        ["1.00", None],
        ["0", "1"],
    ]


def test_columns_of_the_same_type_are_the_same_memory() -> None:
    schema = one_column("string")
    rows = pa.table([pa.chunked_array([["a"], ["b"]])], schema=schema)
    assert conform(rows, schema).column(0).chunk(1).buffers()[2].address == rows.column(0).chunk(1).buffers()[2].address


def test_no_rows_are_no_trouble() -> None:
    assert shown([], "float64", "json") == []
    assert math.isinf(shown([math.inf], "float32", "float64")[0])


# What decoding spells and what DuckDB spells is one text.


@given(st.lists(FLOATS | st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=20))
def test_numbers_are_spelled_as_decoding_spells_them(values: list[float]) -> None:
    for type_, kind in (("int64", int), ("float64", float)):
        of_type = [value for value in values if isinstance(value, kind)]
        literals: list[Number] = [v if isinstance(v, int) else msgspec.Raw(repr(v).encode()) for v in of_type]
        assert shown(of_type, type_, "string", to_holds="number") == [number_text(literal) for literal in literals]


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=1, max_size=20))
def test_strings_are_escaped_in_json_as_decoding_escapes_them(values: list[str]) -> None:
    assert shown(values, "string", "json") == [json_text(value) for value in values]


def test_each_character_is_escaped_in_json_as_decoding_escapes_it() -> None:
    values = [chr(code) for code in [*range(0x800), 0x2028, 0x2029, 0xFEFF, 0xFFFD, 0xFFFE, 0x10FFFF]]
    assert shown(values, "string", "json") == [json_text(value) for value in values]


def test_rows_keep_their_order_however_many_and_however_chunked() -> None:
    old = TableSchema(version=1, columns=(Column(field_id=1, name="a", type="int64"), OTHER))
    new = TableSchema(version=2, columns=(Column(field_id=1, name="a", type="string", holds="number"), OTHER))
    chunks = [pa.array(range(start, start + 7_919)) for start in range(0, 100 * 7_919, 7_919)]
    rows = pa.table([pa.chunked_array(chunks), pa.chunked_array(chunks)], schema=arrow_schema(old, keyed=False))
    made = conform(rows, arrow_schema(new, keyed=False))
    assert made.column(0).cast(pa.int64()).equals(made.column(1))
