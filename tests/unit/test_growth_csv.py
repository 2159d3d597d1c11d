"""CSV for a growing table: what texts without types are taken for, and what their columns become."""

import csv
import io
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from catalog.schema import Column, TableSchema
from duckmesh.kernel.errors import Invalid
from ingest.decode.options import BodyOptions
from tests.unit.body_cases import CSV, PLAIN, problems
from tests.unit.growth_cases import EMPTY, GrowingTable

WIDE = 2**53 + 1
BY_ID = BodyOptions(key_column="id")


def put(table: GrowingTable, *lines: str, options: BodyOptions = PLAIN) -> None:
    table.write_body(CSV, "".join(f"{line}\n" for line in lines).encode(), options=options)


@pytest.mark.parametrize(
    ("text", "type_", "value"),
    [
        ("1", "int64", 1),
        ("-0", "int64", 0),
        (str(WIDE), "int64:wide", WIDE),
        ("1.0", "float64", 1.0),
        ("1e-5", "float64", 1e-5),
        ("0.1234567890123456789", "string:number", "0.1234567890123456789"),
        ("007", "string", "007"),
        ("+1", "string", "+1"),
        ("NaN", "string", "NaN"),
        ("1e999", "string", "1e999"),
        ("true", "bool", True),
        ("True", "string", "True"),
        ("null", "string", "null"),
        ('"1"', "int64", 1),
        ('""', "string", ""),
        ('"{""a"":1}"', "string", '{"a":1}'),
        ("2013-01-01", "string", "2013-01-01"),
    ],
)
def test_a_text_is_what_it_looks_like(text: str, type_: str, value: object) -> None:
    table = GrowingTable()
    put(table, "v,w", f"{text},x", ",y")
    assert table.types == {"v": type_, "w": "string"}
    assert table.rows("v") == [value, None]


@pytest.mark.parametrize(
    ("first", "second", "type_", "values"),
    [
        ("1", "0.5", "float64", [1.0, 0.5]),
        (str(WIDE), "1.0", "string:number", [str(WIDE), "1"]),
        ("a", "1", "string", ["a", "1"]),
        ("a", "1.0", "string", ["a", "1.0"]),
        ("1", "a", "json", ["1", '"a"']),
        ("true", "1", "json", ["true", "1"]),
    ],
)
def test_texts_meet_as_values_do_and_a_string_column_takes_them_all(
    first: str, second: str, type_: str, values: list[object]
) -> None:
    table = GrowingTable()
    put(table, "v", first)
    put(table, "V", second)
    assert (table.types, table.rows("v")) == ({"v": type_}, values)


def test_words_and_digits_that_come_together_are_strings() -> None:
    table = GrowingTable()
    put(table, "code,n", "1,1", "A1,2", "true,3")
    assert table.types == {"code": "string", "n": "int64"}
    assert table.rows("code") == ["1", "A1", "true"]


def test_a_column_without_any_text_does_not_come() -> None:
    table = GrowingTable()
    put(table, "a,b", "1,", "2,")
    assert table.types == {"a": "int64"}
    put(table, "b,a", ",3", "x,")
    assert (table.types, table.rows("a"), table.rows("b")) == (
        {"a": "int64", "b": "string"},
        [1, 2, 3, None],
        [None, None, None, "x"],
    )


def test_a_column_with_a_type_of_its_own_takes_what_fits_it() -> None:
    columns = (
        Column(field_id=1, name="at", type="timestamp"),
        Column(field_id=2, name="n", type="int32"),
        Column(field_id=3, name="price", type="decimal(10,2)"),
    )
    table = GrowingTable(replace(EMPTY, schema=TableSchema(version=1, columns=columns), next_field_id=4))
    put(table, "at,n,price", "2013-01-01T10:00:00Z,1,1.50", options=BodyOptions(event_time_column="at"))
    assert table.types == {"at": "timestamp", "n": "int32", "price": "decimal(10,2)"}
    put(table, "at,n,price", "soon,4294967296,1.555")
    assert table.types == {"at": "json", "n": "int64", "price": "json"}
    assert table.rows("price") == ["1.5", "1.555"]


@pytest.mark.parametrize("value", ["1", "1.0", "0.5", str(WIDE), "x", "true", "1e999"])
def test_keys_and_hashes_know_nothing_of_the_types(value: str) -> None:
    content = f"id,v\n{value},{value}\n".encode()
    seen = set()
    for other in ('{"a":1}', '{"id":1,"v":1}', '{"id":"x","v":"x"}', '{"id":0.5,"v":0.5}', '{"id":[1],"v":[1]}'):
        table = GrowingTable()
        table.write(other)
        decoded = table.write_body(CSV, content, options=BY_ID)
        seen.add((decoded.key_hashes, decoded.payload_hashes))
    assert len(seen) == 1


def test_times_are_read_from_the_column_that_is_named() -> None:
    table = GrowingTable()
    content = b"at,n\n2013-01-01T10:00:00Z,1\n,2\n2013-01-01T09:00:00Z,3\n"
    decoded = table.write_body(CSV, content, options=BodyOptions(event_time_column="at"))
    assert decoded.min_event_time == datetime(2013, 1, 1, 9, tzinfo=UTC)
    assert decoded.max_event_time == datetime(2013, 1, 1, 10, tzinfo=UTC)
    found = problems(
        lambda: table.write_body(CSV, b"at\n2013-01-01T10:00:00Z\nsoon\n", options=BodyOptions(event_time_column="at"))
    )
    assert [(index, line, column) for index, line, column, _ in found] == [(1, 3, "at")]


def test_records_and_names_that_cannot_be_are_named() -> None:
    table = GrowingTable()

    def named(content: bytes) -> list[tuple[object, object, object]]:
        found = problems(lambda: table.write_body(CSV, content))
        return [(index, line, column) for index, line, column, _ in found]

    assert named(b"a b,_duckmesh_x,a,A\n1,2,3,4\n") == [(0, 1, "a b"), (0, 1, "_duckmesh_x"), (0, 1, "A")]
    assert named(b"a,b\n1,2\n3\n\xff,4\n5,6\n") == [(1, 3, None), (2, 4, "a")]
    assert named(b"a\n\x00\n") == [(0, 2, "a")]
    assert named(b"a,b\n,\n,\n")[0][2] is None
    assert table.shape is EMPTY
    with pytest.raises(Invalid, match="key_column"):
        table.write_body(CSV, b"a\n1\n", options=BY_ID)


def test_later_chunks_widen_what_earlier_ones_began() -> None:
    rows = [f"{n},{'x' * 90}," for n in range(60_000)]
    table = GrowingTable()
    put(table, "n,pad,late", *rows, "0.5,y,true")
    assert table.types == {"n": "float64", "pad": "string", "late": "bool"}
    assert (table.rows("n")[-2:], table.rows("late")[-2:]) == ([59999.0, 0.5], [None, True])


TEXTS = st.sampled_from(["", "1", "0.5", "-0.0", str(WIDE), "true", "x", "1e5", "1.50", "007", "a,b", 'q"', "é\n"])


@settings(max_examples=200)
@given(st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=6), st.integers(0, 5))
def test_requests_hold_the_texts_whatever_the_table_was(rows: list[tuple[str, str]], cut: int) -> None:
    table = GrowingTable()
    table.write('{"k":1}')
    for part in (rows[:cut], rows[cut:]):
        if part:
            sink = io.StringIO()
            csv.writer(sink, lineterminator="\n").writerows([("k", "a", "b"), *((0, *row) for row in part)])
            assert table.write_body(CSV, sink.getvalue().encode()).record_count == len(part)
    for position, name in enumerate("ab"):
        if name in table.types:
            found = table.rows(name)[1:]
            assert [value is None for value in found] == [row[position] == "" for row in rows]
            if table.types[name] == "string":
                assert [value or "" for value in found] == [row[position] for row in rows]
