"""What a change of a table may be: bodies, modes, and the columns that come of it."""

from collections.abc import Mapping
from typing import Any

import pytest

from catalog.change import parse_change
from catalog.compatibility import Evolved, evolve, widening_problem
from catalog.errors import SchemaIncompatible
from catalog.schema import Column, TableSchema, TableShape
from duckmesh.kernel.errors import Invalid

SCHEMA = TableSchema(
    version=4,
    columns=(
        Column(field_id=1, name="Id", type="int32", nullable=False),
        Column(field_id=2, name="n", type="int32"),
        Column(field_id=5, name="s", type="string", nullable=False),
        Column(field_id=6, name="x", type="float64", holds=""),
    ),
)
SHAPE = TableShape(schema=SCHEMA, primary_key=("Id",), next_field_id=9)
ROLES = {"id": "primary key"}


def change(mode: str = "backward", *, roles: Mapping[str, str] = ROLES, grows: bool = False, **body: Any) -> Evolved:
    shape = TableShape(schema=SCHEMA, primary_key=("Id",), grows=grows, next_field_id=9)
    return evolve(parse_change(body), shape=shape, roles=roles, mode=mode)


def shown(evolved: Evolved) -> list[tuple[int, str, str, bool]]:
    return [(column.field_id, column.name, column.type, column.nullable) for column in evolved.columns]


ID, N, S, X = [(column.field_id, column.name, column.type, column.nullable) for column in SCHEMA.columns]


@pytest.mark.parametrize("body", [{}, {"add": [], "drop": []}, {"widen": {"N": "INT32"}, "rename": {"n": "n"}}])
def test_nothing_to_change_changes_nothing(body: dict[str, Any]) -> None:
    evolved = change(**body)
    assert evolved.columns == SCHEMA.columns
    assert evolved.next_field_id == 9


def test_one_change_adds_widens_renames_and_drops_at_once() -> None:
    evolved = change(
        add=[{"name": "X", "type": "json"}, {"name": "n", "type": "bool"}],
        widen={"N": "int64"},
        rename={"N": "amount", "ID": "key"},
        drop=["x"],
    )
    assert shown(evolved) == [
        (1, "key", "int32", False),
        (2, "amount", "int64", True),
        S,
        (9, "X", "json", True),
        (10, "n", "bool", True),
    ]
    assert evolved.next_field_id == 11
    assert evolved.names == {"id": "key", "n": "amount", "s": "s"}


def test_two_columns_may_swap_their_names_and_a_name_its_case() -> None:
    assert shown(change(rename={"n": "s", "s": "N", "x": "X"})) == [
        ID, (2, "s", "int32", True), (5, "N", "string", False), (6, "X", "float64", True)
    ]  # fmt: skip
    for mode in ("forward", "full"):
        assert shown(change(mode, rename={"x": "X"}))[3][1] == "X"


def test_a_whole_schema_is_matched_by_name() -> None:
    wanted = [
        {"name": "s", "type": "string"},
        {"name": "y", "type": "list<int64>"},
        {"name": "ID", "type": "int64"},
        {"name": "n", "type": "decimal(12, 2)", "nullable": True},
    ]
    assert shown(change(schema_json={"columns": wanted})) == [
        (5, "s", "string", False),
        (9, "y", "list<int64>", True),
        (1, "ID", "int64", False),
        (2, "n", "decimal(12,2)", True),
    ]
    same = [{"name": c.name, "type": c.type, "nullable": c.nullable} for c in SCHEMA.columns]
    assert change(schema_json={"columns": same}).columns == SCHEMA.columns


def test_what_a_column_held_is_forgotten_with_its_type() -> None:
    wide = TableSchema(version=1, columns=(Column(field_id=1, name="a", type="int64", holds="wide"),))
    shape = TableShape(schema=wide, grows=True, next_field_id=2)
    (column,) = evolve(parse_change({"widen": {"a": "decimal(38,0)"}}), shape=shape, roles={}, mode="backward").columns
    assert column.holds == ""
    (column,) = evolve(parse_change({"rename": {"a": "b"}}), shape=shape, roles={}, mode="backward").columns
    assert column.holds == "wide"


REFUSED = [
    ("backward", {"widen": {"nope": "int64"}, "drop": ["gone"]}, {"nope", "gone"}),
    ("backward", {"rename": {"n": "S"}}, {"s"}),
    ("backward", {"add": [{"name": "N", "type": "int32"}]}, {"N"}),
    ("backward", {"add": [{"name": "y", "type": "int32", "nullable": False}]}, {"y"}),
    ("none", {"add": [{"name": "y", "type": "int32", "nullable": False}]}, {"y"}),
    ("backward", {"drop": ["ID"]}, {"Id"}),
    ("none", {"drop": ["ID"]}, {"Id"}),
    ("backward", {"widen": {"x": "float32", "n": "string", "s": "json", "id": "float64"}}, {"x", "n", "s", "Id"}),
    ("none", {"widen": {"x": "int64", "n": "string", "id": "json"}}, {"x", "n", "Id"}),
    ("backward", {"schema_json": {"columns": [{"name": "n", "type": "int32", "nullable": False}]}}, {"Id", "n"}),
    ("forward", {"widen": {"n": "int64"}, "rename": {"x": "y"}, "drop": ["s"]}, {"n", "x", "s"}),
    ("full", {"widen": {"n": "int64"}, "rename": {"x": "y"}, "drop": ["s"]}, {"n", "x", "s"}),
    ("backward", {"add": [{"name": f"c{n}", "type": "bool"} for n in range(1000)]}, {None}),
]


@pytest.mark.parametrize(("mode", "body", "columns"), REFUSED)
def test_every_column_that_does_not_fit_is_named(mode: str, body: dict[str, Any], columns: set[str | None]) -> None:
    with pytest.raises(SchemaIncompatible) as refused:
        change(mode, **body)
    errors = refused.value.context["errors"]
    assert isinstance(errors, list)
    assert {error["column"] for error in errors if isinstance(error, dict)} == columns
    assert refused.value.context["compatibility_mode"] == mode


@pytest.mark.parametrize(
    ("mode", "body"),
    [
        (mode, {"add": [{"name": "y", "type": "int32"}], "drop": ["n", "x"]})
        for mode in ("backward", "forward", "full", "none")
    ]
    + [
        ("backward", {"drop": ["s"]}),
        ("none", {"widen": {"n": "json", "s": "json", "x": "json"}}),
        ("backward", {"schema_json": {"columns": [{"name": "id", "type": "int32", "nullable": True}]}}),
    ],
)
def test_what_the_mode_allows_is_done(mode: str, body: dict[str, Any]) -> None:
    assert change(mode, **body).columns != SCHEMA.columns


@pytest.mark.parametrize("grows", [False, True])
def test_the_last_column_of_a_table_stays(grows: bool) -> None:
    with pytest.raises(SchemaIncompatible, match="at least one"):
        change(roles={}, grows=grows, drop=["id", "n", "s", "x"])


def test_a_table_that_has_not_grown_yet_can_be_given_its_first_columns() -> None:
    shape = TableShape(schema=TableSchema(version=1, columns=()), grows=True, next_field_id=1)
    body = {"add": [{"name": "a", "type": "date"}]}
    assert evolve(parse_change({}), shape=shape, roles={}, mode="full").columns == ()
    assert shown(evolve(parse_change(body), shape=shape, roles={}, mode="full")) == [(1, "a", "date", True)]


def test_partitions_hold_their_columns_type() -> None:
    with pytest.raises(SchemaIncompatible, match="divided"):
        change(roles={"n": "partitioning"}, widen={"n": "int64"})
    assert change(roles={"n": "sort order"}, widen={"n": "int64"})


@pytest.mark.parametrize(
    ("old", "new", "allowed"),
    [
        ("int32", "int64", True),
        ("int32", "float64", True),
        ("int32", "float32", False),
        ("int64", "int32", False),
        ("int64", "float64", False),
        ("float32", "float64", True),
        ("float64", "float32", False),
        ("float64", "decimal(38,10)", False),
        ("int32", "decimal(10,0)", True),
        ("int32", "decimal(12,2)", True),
        ("int32", "decimal(11,2)", False),
        ("int64", "decimal(19,0)", True),
        ("int64", "decimal(18,0)", False),
        ("decimal(10,2)", "decimal(12,4)", True),
        ("decimal(10,2)", "decimal(12,5)", False),
        ("decimal(10,2)", "decimal(10,1)", False),
        ("list<int32>", "list<int64>", True),
        ("list<list<int32>>", "list<list<decimal(10,0)>>", True),
        ("list<int64>", "list<float64>", False),
        ("int32", "list<int32>", False),
        ("string", "uuid", False),
        ("date", "timestamp", False),
        ("bool", "int32", False),
        ("int64", "string", False),
    ],
)
def test_a_type_may_only_become_one_that_holds_all_its_values(old: str, new: str, allowed: bool) -> None:
    for mode in ("backward", "none"):
        assert (widening_problem(old, new, mode=mode) is None) is allowed


@pytest.mark.parametrize(
    ("body", "word"),
    [
        ({"table_name": "x"}, "table_name"),
        ({"widen": []}, "widen"),
        ({"widen": {"n": 3}}, "widen"),
        ({"widen": {"n": "int63"}}, "int63"),
        ({"widen": {"n": "int64", "N": "int64"}}, "once"),
        ({"rename": {"n": "1x"}}, "1x"),
        ({"rename": {"n": "_duckmesh_x"}}, "_duckmesh"),
        ({"rename": {"n": None}}, "rename"),
        ({"drop": "n"}, "drop"),
        ({"drop": [1]}, "drop"),
        ({"drop": ["n"], "widen": {"N": "int64"}}, "dropped"),
        ({"add": {}}, "list"),
        ({"add": [{"name": "y"}]}, "type"),
        ({"add": [{"name": "y", "type": "bool"}, {"name": "Y", "type": "bool"}]}, "repeats"),
        ({"schema_json": {"columns": []}, "drop": ["n"]}, "together"),
        ({"schema_json": []}, "schema_json"),
        ({"schema_json": {"columns": [3]}}, "object"),
        ({"compatibility_mode": "sideways"}, "compatibility_mode"),
        ({"compatibility_mode": ["none"]}, "compatibility_mode"),
    ],
)
def test_a_body_that_says_nothing_sensible_is_refused(body: dict[str, Any], word: str) -> None:
    with pytest.raises(Invalid) as refused:
        parse_change(body)
    assert word in refused.value.message
