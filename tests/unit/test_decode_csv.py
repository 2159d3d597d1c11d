"""CSV bodies: what a text means, what is no CSV, and that both ways of reading it agree."""

import csv
import io
from dataclasses import replace
from datetime import date, datetime
from decimal import Decimal

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from duckmesh.kernel.errors import Invalid
from ingest.decode import streamed
from ingest.decode.csv.text import Block, is_well_quoted, records
from ingest.decode.envelope import read_envelope
from ingest.decode.hashing import record_key_hashes
from ingest.decode.options import BodyOptions
from tests.unit.body_cases import CSV, decode, problems, refusal
from tests.unit.decode_cases import LIMITS, batch_of, make_schema

PAIR = make_schema("a string", "b int64")
UUID = "123e4567-e89b-12d3-a456-426614174000"


def rows(body: str | bytes, *columns: str) -> list[dict[str, object]]:
    found: list[dict[str, object]] = batch_of(decode(CSV, body, make_schema(*columns))).to_pylist()
    return found


@pytest.mark.parametrize(
    ("type_", "text", "value"),
    [
        ("string", "x", "x"),
        ("string", '"x"', "x"),
        ("string", '""', ""),
        ("string", "", None),
        ("string", " x ", " x "),
        ("string", '"a,b\n""c"""', 'a,b\n"c"'),
        ("string", '"a\r\nb\rc"', "a\r\nb\rc"),
        ("string", "null", "null"),
        ("string", "\ufeffü", "\ufeffü"),
        ("int64", "9007199254740993", 2**53 + 1),
        ("int64", "1.0", 1),
        ("int64", "1e3", 1000),
        ("int64", "-0", 0),
        ("int64", '"7"', 7),
        ("int32", "-2147483648", -(2**31)),
        ("float64", "0.1", 0.1),
        ("float64", "1e300", 1e300),
        ("float32", "0.1", 0.10000000149011612),
        ("bool", "true", True),
        ("bool", "false", False),
        ("decimal(9,2)", "1.25", Decimal("1.25")),
        ("binary", "AP8=", b"\0\xff"),
        ("date", "2013-01-31", date(2013, 1, 31)),
        ("timestamp", "2013-01-01T10:00:00+01:00", datetime(2013, 1, 1, 9)),  # noqa: DTZ001 (columns hold UTC)
        ("uuid", UUID.upper(), UUID),
        ("json", '"{""a"": [1, ""x"", null]}"', '{"a":[1,"x",null]}'),
        ("json", '"""text"""', '"text"'),
        ("json", "1.50", "1.50"),
        ("json", "null", None),
        ("list<int64>", '"[1, null, 3]"', [1, None, 3]),
        ("list<float64>", '"[1, 0.5]"', [1.0, 0.5]),
        ("list<list<string>>", '"[[""a""], null]"', [["a"], None]),
        ("list<decimal(3,1)>", '"[1.5, ""2""]"', [Decimal("1.5"), Decimal("2.0")]),
    ],
)
def test_a_text_becomes_the_value_of_its_column(type_: str, text: str, value: object) -> None:
    assert rows(f"n,a\n1,{text}\n", f"a {type_}", "n int64") == [{"a": value, "n": 1}]
    doubted = rows(f'n,a\n1,{text}\n,"{UUID}"\n', f"a {type_}", "n int64") if type_ == "string" else []
    assert doubted in ([], [{"a": value, "n": 1}, {"a": UUID, "n": None}])


@pytest.mark.parametrize(
    ("type_", "text", "reason"),
    [
        ("int64", "x", "needs a number, not a string"),
        ("int64", " 1", "needs a number, not a string"),
        ("int64", "01", "needs a number, not a string"),
        ("int64", "+1", "needs a number, not a string"),
        ("int64", '"1,2"', "needs a number, not a string"),
        ("int64", "null", "needs a number, not a string"),
        ("int64", '""', "needs a number, not a string"),
        ("int64", "1.5", "would lose precision"),
        ("int64", "9223372036854775808", "out of range"),
        ("int32", "1e99", "out of range"),
        ("float64", "9007199254740993", "would lose precision"),
        ("float64", "1e400", "out of range"),
        ("float64", "1e-400", "too near to zero"),
        ("float64", "NaN", "NaN is not a JSON number"),
        ("bool", "True", "needs true or false, not a string"),
        ("bool", "1", "needs true or false, not a string"),
        ("decimal(3,1)", "1.25", "would lose precision"),
        ("binary", "x", "is not base64"),
        ("date", "31.1.2013", "is not a date"),
        ("timestamp", "yesterday", "is not an RFC 3339 time"),
        ("uuid", "x", "is not a UUID"),
        ("json", "{", "is no JSON"),
        ("json", '"{""a"":1,""a"":2}"', "repeats the key"),
        ("json", '"' + "[" * 5_000 + "]" * 5_000 + '"', "nests deeper"),
        ("list<int64>", "1", "needs a list, not a number"),
        ("list<int64>", "[true]", "element 0 needs a number"),
        ("list<int64>", "[1", "is no JSON"),
    ],
)
def test_a_text_that_is_no_value_is_named(type_: str, text: str, reason: str) -> None:
    found = problems(lambda: rows(f"n,a\n1,\n\n2,{text}\n", f"a {type_}", "n int64"))
    assert [problem[:3] for problem in found] == [(1, 4, "a")]
    assert reason in found[0][3]


@pytest.mark.parametrize(
    "body",
    [
        "a,b\nx,1\ny,2\n",
        "a,b\r\nx,1\r\ny,2",
        "\ufeffa,b\nx,1\ny,2\n",
        "\n\r\nA,B\n\nx,1\n\n\ny,2\n\n",
        '"a","b"\n"x","1"\n"y",2',
        "b,a\n1,x\n2,y\n",
    ],
)
def test_lines_end_and_columns_are_named_as_they_like(body: str) -> None:
    assert rows(body, "a string", "b int64") == [{"a": "x", "b": 1}, {"a": "y", "b": 2}]


@pytest.mark.parametrize("body", ["", "\n", "a,b", "a,b\n", "a,b\r\n\r\n", "\ufeff"])
def test_a_body_without_a_record_is_refused(body: str) -> None:
    assert "no records" in refusal(lambda: decode(CSV, body, PAIR))


def test_the_header_is_refused_by_name() -> None:
    found = problems(lambda: decode(CSV, "\na,c,A,\nx,1,y,z\n", PAIR))
    assert [(index, line, column) for index, line, column, _ in found] == [(0, 2, "c"), (0, 2, "A"), (0, 2, "")]
    assert "second time" in found[1][3]
    assert "The header line field 2" in refusal(lambda: decode(CSV, 'a,b"\nx,1\n', PAIR))


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (b"x", "has 1 fields, and the header 2"),
        (b"x,1,2", "has 3 fields, and the header 2"),
        (b'x"y,1', "holds a quote in a field that does not begin with one"),
        (b'"x"y,1', "goes on behind its closing quote"),
        (b' "x",1', "holds a quote in a field"),
        (b'"x,1', "holds a quote that is never closed"),
        (b"x\ry,1", "holds a carriage return that ends no line"),
        (b"x\0y,1", "holds a NUL"),
        (b"x\xff,1", "not UTF-8"),
    ],
)
def test_what_is_no_csv_is_named_by_its_line(record: bytes, reason: str) -> None:
    found = problems(lambda: decode(CSV, b'a,b\n"u\nv",0\n\n' + record + b"\n", PAIR))
    assert [problem[:2] for problem in found] == [(1, 5)]
    assert reason in found[0][3]


@pytest.mark.parametrize(
    "type_", ["int64", "float64", "bool", "decimal(9,2)", "date", "timestamp", "uuid", "binary", "json", "list<int64>"]
)
def test_bytes_that_are_not_utf_8_are_named_as_such_in_every_column(type_: str) -> None:
    ((index, line, column, reason),) = problems(lambda: decode(CSV, b"a\n\xff\n", make_schema(f"a {type_}")))
    assert (index, line, column) == (0, 2, "a")
    assert "not UTF-8" in reason


def test_problems_go_on_until_a_hundred_are_named() -> None:
    found = problems(lambda: decode(CSV, "a,b\n" + "x,y\n" * 60 + "x\n" * 300, PAIR))
    assert [index for index, _, _, _ in found] == [*range(100)]


def test_a_missing_column_is_null_or_refused() -> None:
    assert rows("b\n1\n", "a string", "b int64") == [{"a": None, "b": 1}]
    found = problems(lambda: rows("b\n1\n", "a string!", "b int64"))
    assert found == [(0, 2, "a", "is missing and may not be null")]
    found = problems(lambda: rows("a,b\n,1\n", "a string!", "b int64"))
    assert found == [(0, 2, "a", "may not be null")]


def test_many_blocks_are_one_request_and_lines_are_counted_through_them() -> None:
    record = '"x\n' + "y" * 2_000 + '",1\n'
    count = 2 * streamed.CHUNK_BYTES // len(record)
    decoded = decode(CSV, "a,b\n" + record * count, PAIR)
    assert decoded.record_count == count
    found = problems(lambda: decode(CSV, "a,b\n" + record * count + "x,y\n" + record * count + "z,z\n", PAIR))
    assert [problem[:2] for problem in found] == [(count, 2 * count + 2), (2 * count + 1, 4 * count + 3)]


def test_a_record_beyond_the_bound_is_named_and_not_held() -> None:
    limits = replace(LIMITS, max_line_bytes=1_000)
    assert problems(lambda: decode(CSV, "a,b\n" + "x" * 1_000 + ",1\ny,z\n", PAIR, limits=limits)) == [
        (0, 2, None, "the record is longer than 1000 bytes"),
        (1, 3, "b", "needs a number, not a string"),
    ]
    long = "x" * (6 * streamed.CHUNK_BYTES)
    for body, reason in ((long, "longer than"), (f'"{long}', "never closed"), ('"' + "\n" * len(long), "never closed")):
        found = problems(lambda body=body: decode(CSV, f"a,b\nu,1\n{body},1\nw,2\n", PAIR))  # type: ignore[misc]
        assert [problem[:2] for problem in found] == [(1, 3)]
        assert reason in found[0][3]


def test_a_narrow_body_for_a_wide_table_is_taken_in_small_batches() -> None:
    wide = make_schema(*(f"c{i} int64" for i in range(1_000)))
    decoded = decode(CSV, "c7\n" + "1\n" * 9_000 + '""\n'.replace('""', "2"), wide)
    with decoded.payload.open() as source:
        assert [batch.num_rows for batch in read_envelope(source)] == [4_000, 4_000, 1_001]
    found = problems(lambda: decode(CSV, "c7\n" + "1\n" * 9_000 + "x\n", wide))
    assert [problem[:2] for problem in found] == [(9_000, 9_002)]


def test_keys_and_times_and_deletes_come_from_columns() -> None:
    schema = make_schema("id int64", "at date", "name string!")
    options = BodyOptions(op="delete", key_column="id", event_time_column="at")
    decoded = decode(CSV, "id,at\n1,2013-01-01\n2,\n", schema, primary_key=("id",), options=options)
    assert decoded.key_hashes == b"".join(record_key_hashes(["1", "2"]))
    assert decoded.min_event_time == decoded.max_event_time
    assert str(decoded.min_event_time) == "2013-01-01 00:00:00+00:00"
    assert batch_of(decoded).column("_duckmesh_op").to_pylist() == [1, 1]
    found = problems(lambda: decode(CSV, 'id\n1\n""\n', schema, primary_key=("id",), options=BodyOptions(op="delete")))
    assert found == [(1, 3, "id", "needs a number, not a string")]
    found = problems(lambda: decode(CSV, "id,at\n,\n", schema, primary_key=("id",), options=BodyOptions(op="delete")))
    assert found == [(0, 2, "id", "may not be null")]


CELLS = (
    st.none()
    | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=6)
    | st.sampled_from(["", '"', ",", "\n", "\r\n", '""', 'a"b', " "])
)


def written(rows_: list[list[str | None]], *, line_end: str, quote_all: bool) -> str:
    def field(cell: str | None) -> str:
        if cell is None:
            return ""
        if quote_all or cell == "" or any(c in cell for c in '",\r\n'):
            return '"' + cell.replace('"', '""') + '"'
        return cell

    return "".join(",".join(map(field, row)) + line_end for row in rows_)


@given(
    st.lists(st.lists(CELLS, min_size=2, max_size=2), min_size=1, max_size=8),
    st.sampled_from(["\n", "\r\n"]),
    st.booleans(),
)
@settings(deadline=None)
def test_what_is_written_comes_back(cells: list[list[str | None]], line_end: str, quote_all: bool) -> None:
    body = f"a,b{line_end}" + written(cells, line_end=line_end, quote_all=quote_all)
    assert [[row["a"], row["b"]] for row in rows(body, "a string", "b string")] == cells


@given(st.lists(st.sampled_from(["a", '"', '""', ",", "\n", "\r\n", "\r", " ", "ü", "\xff"]), max_size=14).map("".join))
@example('"\n"\n,"a"')
@example('"",')
@settings(max_examples=300, deadline=None)
def test_what_the_fast_way_takes_the_exact_way_reads_the_same(text: str) -> None:
    data = ("a,b\n" + text).encode("latin-1")
    try:
        fast = batch_of(decode(CSV, data, make_schema("a string", "b string"))).to_pylist()
    except Invalid:  # whether it should be, the test of what is well quoted says
        return
    exact = [record.fields for record in records(Block(data=data, line=1))][1:]
    assert [(row["a"], row["b"]) for row in fast] == exact


@given(st.lists(st.sampled_from(["a", '"', '""', ",", "\n", "\r\n", "\r", " "]), max_size=14).map("".join))
@settings(max_examples=300, deadline=None)
def test_well_quoted_text_is_never_broken(text: str) -> None:
    found = [*records(Block(data=text.encode(), line=1))]
    if is_well_quoted(text.encode()):
        assert all(record.problem is None for record in found)
        strict = [*csv.reader(io.StringIO(text, newline=""), strict=True)]
        assert [[field or "" for field in record.fields] for record in found] == [row for row in strict if row]


def test_a_table_without_columns_takes_nothing() -> None:
    assert problems(lambda: decode(CSV, "a\n1\n", make_schema()))[0][2] == "a"
