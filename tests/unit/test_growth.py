"""What a growing table makes of the fields of a request: its columns, in which order, and what it refuses."""

from dataclasses import replace

import pytest

from catalog.schema import Column, TableSchema
from ingest.decode.fast import decode_fast
from ingest.decode.growth import Growth
from ingest.decode.plan import plan_of
from ingest.decode.refusals import Doubt
from ingest.errors import InvalidRecord
from tests.unit.decode_cases import LIMITS
from tests.unit.growth_cases import EMPTY, GrowingTable, body

WIDE = 2**53 + 1


def refused(table: GrowingTable, *payloads: str, max_columns: int = 1_000) -> list[tuple[object, object, str]]:
    """(index, column, reason) of each problem; the table is as before."""
    before = table.shape
    with pytest.raises(InvalidRecord) as caught:
        table.write(*payloads, limits=replace(LIMITS, max_columns=max_columns))
    assert table.shape is before
    errors = caught.value.context["errors"]
    assert isinstance(errors, list)
    return [(e["index"], e["column"], str(e["reason"])) for e in errors if isinstance(e, dict)]


@pytest.mark.parametrize(
    ("literal", "type_"),
    [
        ("true", "bool"),
        ("0", "int64"),
        ("-0", "int64"),
        (str(2**53), "int64"),
        (str(2**60), "int64"),
        (str(2**53 + 1), "int64:wide"),
        (str(-(2**63)), "int64"),
        (str(2**63 - 1), "int64:wide"),
        ("1.0", "float64"),
        ("-0.0", "float64"),
        ("1e0", "float64"),
        ("0.1", "float64"),
        ("1e20", "float64"),
        ("100000000000000000000", "float64"),
        ("1.2345678901234566e17", "float64"),
        ("0.10000000000000001", "float64"),
        ("0.90000000000000001", "string:number"),
        (str(2**64 - 1), "string:number"),
        (str(2**64), "string:number"),
        ("0.1234567890123456789", "string:number"),
        ("9007199254740993.0", "string:number"),
        ("1e-400", "string:number"),
        ('""', "string"),
        ('"2013-01-01T10:00:00Z"', "string"),
        ('"1"', "string"),
        ("[]", "json"),
        ("{}", "json"),
    ],
)
def test_a_value_becomes_the_narrowest_type_that_keeps_it(literal: str, type_: str) -> None:
    table = GrowingTable()
    table.write(f'{{"v":{literal}}}')
    assert table.types == {"v": type_}


@pytest.mark.parametrize(
    ("literals", "type_", "values"),
    [
        (["1", "0.5"], "float64", [1.0, 0.5]),
        (["1", "2.0"], "float64", [1.0, 2.0]),
        ([str(2**60), "0.5"], "float64", [float(2**60), 0.5]),
        (["1", str(WIDE)], "int64:wide", [1, WIDE]),
        ([str(WIDE), "0.5"], "string:number", [str(WIDE), "0.5"]),
        ([str(WIDE), "1.0"], "string:number", [str(WIDE), "1"]),
        (["1", "1.0", "1e0", str(WIDE)], "string:number", ["1", "1", "1", str(WIDE)]),
        (["0.5", str(WIDE), '"a"'], "json", ["0.5", str(WIDE), '"a"']),
        (["1", '"1"'], "json", ["1", '"1"']),
        (["true", "1"], "json", ["true", "1"]),
        (["true", '"true"'], "json", ["true", '"true"']),
        (["1.5", '{"b":1.50,"a":[1e2]}', "-0.0"], "json", ["1.5", '{"b":1.50,"a":[1e2]}', "0"]),
        (['"a\\u0001\\n\\u001f\\\\u001f"', "1"], "json", ['"a\\u0001\\n\\u001F\\\\u001f"', "1"]),
    ],
)
def test_what_two_types_meet_in_does_not_depend_on_who_was_first(
    literals: list[str], type_: str, values: list[object]
) -> None:
    for order in (literals, literals[::-1]):
        expected = values if order is literals else values[::-1]
        apart, together = GrowingTable(), GrowingTable()
        for literal in order:
            apart.write(f'{{"v":{literal}}}')
        together.write(*(f'{{"v":{literal}}}' for literal in order))
        assert apart.types == together.types == {"v": type_}
        assert apart.rows("v") == together.rows("v") == expected


def test_columns_come_in_the_order_in_which_their_fields_did() -> None:
    table = GrowingTable()
    table.write('{"z":1,"nothing":null}', '{"a":"x","Z":2,"nothing":null}')
    table.write('{"b":[1],"A":"y"}')
    assert [(c.field_id, c.name) for c in table.shape.schema.columns] == [(1, "z"), (2, "a"), (3, "b")]
    assert table.rows("z") == [1, 2, None]
    assert table.rows("a") == [None, "x", "y"]


def test_a_request_that_asks_for_nothing_new_changes_nothing() -> None:
    table = GrowingTable()
    table.write('{"a":1}')
    assert table.write('{"a":2}', '{"A":3}', "{}", '{"new":null}').growth is None
    assert table.rows("a") == [1, 2, 3, None, None]


def test_a_table_that_has_stopped_growing_is_decoded_the_fast_way() -> None:
    table = GrowingTable()
    table.write('{"i":1,"f":0.5,"s":"a","n":9007199254740993,"t":0.12345678901234567890,"j":[1],"b":true}')
    plan = plan_of(table.shape)
    text = '{"i":2,"f":0.1234567890123456,"s":"b","n":9007199254740995,"t":7,"j":{"x":1},"b":false}'
    more = ['{"f":3}', '{"f":-1.2345678901234568e-05,"s":"v 1.22.333.4444.55555.6"}', '{"f":0.10000000000000001}']
    assert len(decode_fast(body([text, *more]), plan, max_records=10, hash_all=True).ops) == 4
    for text in ('{"i":9007199254740993}', '{"f":0.12345678901234567890}', '{"f":[0.1]}', '{"t":"a"}', '{"b":1}'):
        with pytest.raises(Doubt):
            decode_fast(body([text]), plan, max_records=10, hash_all=True)


def test_names_that_no_column_may_have_are_refused_by_name() -> None:
    table = GrowingTable()
    problems = refused(table, '{"a":1}', '{"a b":1,"_duckmesh_x":1,"":null}')
    assert [(index, column) for index, column, _ in problems] == [(1, "a b"), (1, "_duckmesh_x"), (1, "")]
    assert all(reason.startswith("cannot become a column: ") for _, _, reason in problems)


def test_a_column_too_many_is_refused_by_name() -> None:
    table = GrowingTable()
    problems = refused(table, '{"a":1,"b":2}', '{"c":3,"A":4}', max_columns=2)
    assert problems == [(1, "c", "would be a column more than the table may have")]
    table.write('{"a":1,"b":2}', '{"c":null,"A":4}')


def test_values_that_nobody_could_read_are_refused_and_add_no_column() -> None:
    table = GrowingTable()
    problems = refused(table, '{"a":1,"big":1e999}', '{"nan":NaN,"bad":"\\ud800","deep":' + "[" * 70 + "]" * 70 + "}")
    assert [(index, column) for index, column, _ in problems] == [(0, "big"), (1, "nan"), (1, "bad"), (1, "deep")]


def test_rows_without_any_column_are_refused() -> None:
    problems = refused(GrowingTable(), "{}", '{"a":null}')
    assert [reason for _, _, reason in problems] == [
        "the table has no columns yet, and no field of the request is one"
    ] * 2


def test_a_bad_value_in_the_first_write_is_the_only_problem_that_is_named() -> None:
    assert [(index, column) for index, column, _ in refused(GrowingTable(), '{"v":NaN}', '{"w":1e999}')] == [
        (0, "v"),
        (1, "w"),
    ]


def test_a_column_with_a_type_of_its_own_takes_what_fits_it_and_else_becomes_json() -> None:
    columns = (
        Column(field_id=1, name="at", type="timestamp"),
        Column(field_id=2, name="n", type="int32"),
        Column(field_id=3, name="f", type="float32"),
    )
    table = GrowingTable(replace(EMPTY, schema=TableSchema(version=1, columns=columns), next_field_id=4))
    table.write('{"at":"2013-01-01T10:00:00Z","n":1}')
    assert table.types == {"at": "timestamp", "n": "int32", "f": "float32"}
    table.write('{"at":"soon","n":4294967296,"f":1}')
    assert table.types == {"at": "json", "n": "int64", "f": "float64"}
    assert table.rows("at") == ['"2013-01-01T10:00:00.000000Z"', '"soon"']
    table.write('{"n":0.5}')
    assert table.rows("n") == [1.0, 4294967296.0, 0.5]


def test_a_shape_that_holds_all_is_the_very_same() -> None:
    table = GrowingTable()
    table.write('{"a":1}')
    growth = Growth(table.shape, max_columns=1)
    growth.see({"A": 2, "b": 3})
    assert growth.shape is table.shape


@pytest.mark.parametrize(
    "literal",
    ["1", "1.0", "1e0", "0.50", "1e22", "0.10000000000000001", '"a"', "true", str(WIDE), "0.12345678901234567890"],
)
@pytest.mark.parametrize("other", ["1", "0.5", str(WIDE), "0.1234567890123456789", '"b"', "[1]"])
def test_an_honest_retry_is_recognised_after_the_table_has_grown(literal: str, other: str) -> None:
    table = GrowingTable()
    payload = f'{{"v":{literal}}}'
    first = table.write(payload, key="k"), table.write(payload, request_key="k")
    table.write(f'{{"V":{other},"a":1}}')
    again = table.write(payload, key="k"), table.write(payload, request_key="k")
    assert [x.payload_hashes for x in first] == [x.payload_hashes for x in again]
    assert [x.request_hash for x in first] == [x.request_hash for x in again]
