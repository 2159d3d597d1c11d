"""Types, columns and schemas as values."""

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from catalog.schema import (
    MAX_COLUMNS,
    Column,
    ParsedColumn,
    TableSchema,
    arrow_schema,
    arrow_type,
    columns_json,
    duckdb_type,
    from_stored,
    parse_columns,
    parse_schema,
    parse_type,
    schema_json,
    to_stored,
    with_field_ids,
)
from duckmesh.kernel.errors import Invalid

SIMPLE = (
    "bool",
    "int32",
    "int64",
    "float32",
    "float64",
    "string",
    "binary",
    "date",
    "timestamp",
    "json",
    "uuid",
)


@st.composite
def types(draw: st.DrawFn, depth: int = 4) -> str:
    kind = draw(st.sampled_from([*SIMPLE, "decimal", *(["list"] if depth else [])]))
    if kind == "decimal":
        precision = draw(st.integers(1, 38))
        return f"decimal({precision},{draw(st.integers(0, precision))})"
    return f"list<{draw(types(depth=depth - 1))}>" if kind == "list" else kind


def problems(columns: object) -> list[tuple[object, object, object]]:
    with pytest.raises(Invalid) as caught:
        parse_columns(columns)
    assert caught.value.code == "INVALID_REQUEST"
    errors = caught.value.context["errors"]
    assert isinstance(errors, list)
    return [(e["index"], e["column"], e["reason"]) for e in errors if isinstance(e, dict)]


@given(types())
def test_a_canonical_type_is_its_own_spelling_and_has_both_counterparts(text: str) -> None:
    assert str(parse_type(text)) == text
    assert isinstance(arrow_type(text), pa.DataType)
    assert duckdb_type(text).count("[]") == text.count("list<")


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        (" INT64 ", "int64"),
        ("Decimal( 10 , 2 )", "decimal(10,2)"),
        ("LIST < list<String> >", "list<list<string>>"),
        ("list<decimal(38,38)>", "list<decimal(38,38)>"),
        ("decimal(05,0)", "decimal(5,0)"),
    ],
)
def test_case_and_spaces_do_not_matter_in_a_type(text: str, canonical: str) -> None:
    assert str(parse_type(text)) == canonical


@pytest.mark.parametrize(
    "text",
    [
        *("", "int", "int 64", "varchar", "hugeint", "list", "list<>", "list<int64", "list<int64>>"),
        *("decimal", "decimal(0,0)", "decimal(39,0)", "decimal(5,6)", "decimal(5)", "decimal(-1,0)"),
        *("list<list<list<list<list<bool>>>>>", "x" * 10_000, "list<" * 5_000 + ">" * 5_000),
        *("int64;drop", "decimal(1\u0662,0)"),
    ],
)
def test_what_is_no_type_is_refused(text: str) -> None:
    with pytest.raises(Invalid):
        parse_type(text)


@pytest.mark.parametrize(
    ("text", "arrow", "duckdb"),
    [
        ("timestamp", pa.timestamp("us"), "TIMESTAMP"),
        ("uuid", pa.string(), "UUID"),
        ("json", pa.string(), "JSON"),
        ("decimal(38,3)", pa.decimal128(38, 3), "DECIMAL(38,3)"),
        ("list<list<date>>", pa.list_(pa.list_(pa.date32())), "DATE[][]"),
        ("binary", pa.binary(), "BLOB"),
    ],
)
def test_types_have_arrow_and_duckdb_counterparts(text: str, arrow: pa.DataType, duckdb: str) -> None:
    assert arrow_type(text) == arrow
    assert duckdb_type(text) == duckdb


def test_columns_default_to_nullable_and_may_be_named_by_keywords() -> None:
    parsed = parse_columns([{"name": "select", "type": "INT64"}, {"name": "_x", "type": "date", "nullable": False}])
    assert parsed == (
        ParsedColumn(name="select", type="int64", nullable=True),
        ParsedColumn(name="_x", type="date", nullable=False),
    )


def test_every_problem_of_every_column_is_named_at_once() -> None:
    found = problems(
        [
            {"name": "ok", "type": "int64"},
            {"name": "OK", "type": "nope"},
            {"name": "1st", "type": "int64", "nullable": "yes", "colour": 1},
            "carrier",
            {"type": "int64"},
            {"name": "_DuckMesh_token", "type": "int64"},
            {"name": "b", "type": 5},
            {"name": "é", "type": "bool"},
            {"name": "ok\n", "type": "bool"},
        ]
    )
    assert [index for index, _, _ in found] == [1, 1, 2, 2, 2, 3, 4, 5, 6, 7, 8]
    reasons = " | ".join(str(reason) for _, _, reason in found)
    for words in (
        "is not a type",
        "repeats the name",
        "unknown member 'colour'",
        "nullable must be",
        "the system's",
    ):
        assert words in reasons


def test_a_name_is_at_most_63_characters() -> None:
    assert len(parse_columns([{"name": "n" * 63, "type": "bool"}])) == 1
    assert problems([{"name": "n" * 64, "type": "bool"}])[0][1] == "n" * 64


def test_a_thousand_columns_are_the_most() -> None:
    columns = [{"name": f"c{i}", "type": "bool"} for i in range(MAX_COLUMNS)]
    assert len(parse_columns(columns)) == MAX_COLUMNS
    assert problems([*columns, {"name": "more", "type": "bool"}]) == []


@pytest.mark.parametrize("wrong", [None, [], "x", {}, {"columns": None}, {"columns": {}}, {"columns": [], "x": 1}])
def test_schema_json_is_an_object_with_a_list_of_columns(wrong: object) -> None:
    with pytest.raises(Invalid):
        parse_schema(wrong)


def test_field_ids_are_stored_and_never_shown() -> None:
    parsed = parse_schema({"columns": [{"name": "a", "type": "int32"}, {"name": "B", "type": "list<uuid>"}]})
    schema = TableSchema(version=3, columns=with_field_ids(parsed, first=7))
    assert [c.field_id for c in schema.columns] == [7, 8]
    assert from_stored(to_stored(schema.columns), version=3) == schema
    assert columns_json(schema)[1] == {"name": "B", "type": "list<uuid>", "nullable": True}
    assert parse_schema(schema_json(schema)) == parsed


def test_columns_are_found_without_case() -> None:
    schema = TableSchema(version=1, columns=(Column(field_id=1, name="Carrier", type="string"),))
    assert schema.column("cARRIER") is schema.columns[0]
    assert schema.column("carriers") is None


def test_arrow_fields_carry_field_id_and_logical_type() -> None:
    schema = TableSchema(version=1, columns=(Column(field_id=4, name="id", type="uuid", nullable=False),))
    plain, keyed = arrow_schema(schema, keyed=False), arrow_schema(schema, keyed=True)
    assert plain.field("id").metadata == {b"PARQUET:field_id": b"4", b"duckmesh:type": b"uuid"}
    assert plain.names == ["id"]
    assert keyed.names == ["id", "_duckmesh_op"]
    assert keyed.field("_duckmesh_op").type == pa.int8()
    assert keyed.field("_duckmesh_op").metadata[b"PARQUET:field_id"] == b"2147483001"
