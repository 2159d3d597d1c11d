"""Which Arrow value becomes which value of a column, which is refused, by row and column, and which columns are."""

import math
from datetime import UTC, date, datetime
from decimal import Decimal

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from duckmesh.kernel.errors import Invalid
from ingest.decode.options import BodyOptions
from tests.unit.columnar_cases import arrow_of, column_of, decode, parquet_of, refusals
from tests.unit.decode_cases import batch_of, make_schema

UUID = "123e4567-e89b-12d3-a456-426614174000"
NOON = datetime(2013, 1, 1, 12, tzinfo=UTC)
NAIVE_NOON = NOON.replace(tzinfo=None)
US = 1_000_000
NOON_SECONDS = int(NOON.timestamp())
FIRST, LAST = -62_135_596_800, 253_402_300_799  # seconds: the years 1 to 9999


def extension(type_: pa.DataType, values: list[object]) -> pa.Array:
    return pa.ExtensionArray.from_storage(type_, pa.array(values, type_.storage_type))


@pytest.mark.parametrize(
    ("array", "type_", "values"),
    [
        (pa.array([True, None]), "bool", [True, None]),
        (extension(pa.bool8(), [1, 0, None]), "bool", [True, False, None]),
        (pa.array([-128, 127], pa.int8()), "int32", [-128, 127]),
        (pa.array([255], pa.uint8()), "int32", [255]),
        (pa.array([65_535], pa.uint16()), "int32", [65_535]),
        (pa.array([2**31 - 1], pa.uint32()), "int32", [2**31 - 1]),
        (pa.array([-(2**31), 2**31 - 1], pa.int64()), "int32", [-(2**31), 2**31 - 1]),
        (pa.array([-(2**63), 2**63 - 1], pa.int64()), "int64", [-(2**63), 2**63 - 1]),
        (pa.array([2**63 - 1], pa.uint64()), "int64", [2**63 - 1]),
        (pa.array([1.0, -0.0, 2.0**53, -(2.0**63)]), "int64", [1, 0, 2**53, -(2**63)]),
        (pa.array([2.0], pa.float16()), "int32", [2]),
        (pa.array([Decimal("7.00")], pa.decimal128(10, 2)), "int64", [7]),
        (pa.array([2**53, -(2**53), 2**60], pa.int64()), "float64", [2.0**53, -(2.0**53), 2.0**60]),
        (pa.array([2**63], pa.uint64()), "float64", [2.0**63]),
        (pa.array([2**24, 2**30], pa.int32()), "float32", [2.0**24, 2.0**30]),
        (pa.array([0.5, 5e-324, 1.7976931348623157e308]), "float64", [0.5, 5e-324, 1.7976931348623157e308]),
        (pa.array([0.1], pa.float32()), "float64", [0.10000000149011612]),
        (pa.array([1.5], pa.float16()), "float32", [1.5]),
        (pa.array([0.5, 2.0**100]), "float32", [0.5, 2.0**100]),
        (pa.array([Decimal("0.1")], pa.decimal128(5, 1)), "float64", [0.1]),
        (pa.array([2**64 - 1], pa.uint64()), "decimal(20,0)", [Decimal(2**64 - 1)]),
        (pa.array([-5], pa.int8()), "decimal(3,2)", [Decimal("-5.00")]),
        (pa.array([Decimal("1.50")], pa.decimal128(10, 2)), "decimal(2,1)", [Decimal("1.5")]),
        (pa.array([Decimal("123.00")], pa.decimal256(50, 2)), "decimal(3,0)", [Decimal(123)]),
        (pa.array([Decimal("9" * 38)], pa.decimal256(40, 0)), "decimal(38,0)", [Decimal("9" * 38)]),
        (pa.array([0.5, 19.25]), "decimal(10,2)", [Decimal("0.50"), Decimal("19.25")]),
        (pa.array(["1.50", "1e1", None]), "decimal(4,2)", [Decimal("1.50"), Decimal("10.00"), None]),
        (pa.array(["é\0", "", None]), "string", ["é\0", "", None]),
        (pa.array(["x"], pa.large_string()), "string", ["x"]),
        (pa.array(["x", "longer than twelve bytes"], pa.string_view()), "string", ["x", "longer than twelve bytes"]),
        (pa.array(["x", None, "x"]).dictionary_encode(), "string", ["x", None, "x"]),
        (pa.array([b"\xff\0"], pa.large_binary()), "binary", [b"\xff\0"]),
        (pa.array([b"\xff\0"], pa.binary_view()), "binary", [b"\xff\0"]),
        (pa.array([b"abc"], pa.binary(3)), "binary", [b"abc"]),
        (pa.array([date(1, 1, 1), date(9999, 12, 31)], pa.date32()), "date", [date(1, 1, 1), date(9999, 12, 31)]),
        (pa.array([date(1969, 12, 31)], pa.date64()), "date", [date(1969, 12, 31)]),
        (pa.array(["2012-02-29", None]), "date", [date(2012, 2, 29), None]),
        (pa.array([NOON_SECONDS], pa.timestamp("s")), "timestamp", [NAIVE_NOON]),
        (pa.array([NOON_SECONDS * 1_000], pa.timestamp("ms", "Europe/Paris")), "timestamp", [NAIVE_NOON]),
        (pa.array([NOON_SECONDS * US], pa.timestamp("us", "UTC")), "timestamp", [NAIVE_NOON]),
        (pa.array([NOON_SECONDS * US * 1_000], pa.timestamp("ns", "+05:30")), "timestamp", [NAIVE_NOON]),
        (pa.array([-1_000], pa.timestamp("ns")), "timestamp", [datetime(1969, 12, 31, 23, 59, 59, 999_999)]),  # noqa: DTZ001
        (pa.array([FIRST], pa.timestamp("s")), "timestamp", [datetime(1, 1, 1)]),  # noqa: DTZ001
        (pa.array(["2013-01-01T13:00:00+01:00"]), "timestamp", [NAIVE_NOON]),
        (pa.array([bytes.fromhex(UUID.replace("-", "")), None], pa.binary(16)), "uuid", [UUID, None]),
        (extension(pa.uuid(), [bytes.fromhex(UUID.replace("-", ""))]), "uuid", [UUID]),
        (pa.array([UUID.upper()]), "uuid", [UUID]),
        (extension(pa.json_(), ['{"a": 1.50}', "null", None]), "json", ['{"a":1.50}', "null", None]),
        (pa.array(['"say"', '[1, {"a":2.50}]', None]), "json", ['"say"', '[1,{"a":2.50}]', None]),
        (pa.array([{"a": 'say "x"'}]), "json", ['{"a":"say \\"x\\""}']),
        (pa.array([["[1]", None]]), "list<json>", [["[1]", None]]),
        (pa.array([1, None]), "json", ["1", None]),
        (pa.array([1.0, 0.1, 1e23]), "json", ["1", "0.1", "1e+23"]),
        (pa.array([Decimal("1.50")], pa.decimal128(5, 2)), "json", ["1.5"]),
        (pa.array([NOON_SECONDS], pa.timestamp("s")), "json", ['"2013-01-01T12:00:00.000000Z"']),
        (
            pa.array([{"a": [1, None], "b": {"c": "x"}}, {"a": None, "b": None}, None]),
            "json",
            ['{"a":[1,null],"b":{"c":"x"}}', '{"a":null,"b":null}', None],
        ),
        (pa.array([[("k", 1), ("l", None)], [], None], pa.map_(pa.string(), pa.int8())), "json",
         ['{"k":1,"l":null}', "{}", None]),
        (pa.array([[1, None], [], None], pa.list_(pa.int8())), "list<int64>", [[1, None], [], None]),
        (pa.array([["x"], None], pa.large_list(pa.string())), "list<string>", [["x"], None]),
        (pa.array([[1.0, 2.0], None, [3.0, 4.0]], pa.list_(pa.float32(), 2)), "list<float32>",
         [[1.0, 2.0], None, [3.0, 4.0]]),
        (pa.array([[["2013-01-01"], None], []]), "list<list<date>>", [[[date(2013, 1, 1)], None], []]),
        (pa.array([["x", "y"], ["x"]], pa.list_(pa.dictionary(pa.int8(), pa.string()))), "list<string>",
         [["x", "y"], ["x"]]),
        (pa.array([[{"a": 1}], None]), "list<json>", [['{"a":1}'], None]),
        (pa.nulls(2), "int64", [None, None]),
        (pa.nulls(2), "list<json>", [None, None]),
    ],
)  # fmt: skip
def test_a_value_survives_exactly(array: pa.Array, type_: str, values: list[object]) -> None:
    padded = pa.concat_arrays([array, array]).slice(len(array))  # a body's arrays may begin anywhere
    for table in (column_of(array), column_of(padded)):
        for compression in (None, "zstd"):
            decoded = decode(arrow_of(table, compression=compression), make_schema(f"a {type_}", "b bool"))
            batch = batch_of(decoded)
            assert batch.column("a").to_pylist() == values
            assert batch.column("b").null_count == len(values)


@pytest.mark.parametrize(
    ("array", "type_", "row", "words"),
    [
        (pa.array([1, 2**31]), "int32", 1, "out of range for int32"),
        (pa.array([1, None, -(2**31) - 1]), "int32", 2, "out of range for int32"),
        (pa.array([1, 2**63], pa.uint64()), "int64", 1, "out of range for int64"),
        (pa.array([1.0, 1.5]), "int64", 1, "not a whole number"),
        (pa.array([2.0**63]), "int64", 0, "out of range for int64"),
        (pa.array([-(2.0**64)]), "int64", 0, "out of range for int64"),
        (pa.array([1.0, math.nan]), "int64", 1, "is NaN"),
        (pa.array([1.0, math.nan]), "float64", 1, "is NaN"),
        (pa.array([1.0, -math.inf]), "float64", 1, "is infinite"),
        (pa.array([math.nan], pa.float32()), "float32", 0, "is NaN"),
        (pa.array([math.inf], pa.float16()), "float32", 0, "is infinite"),
        (pa.array([0.5, math.nan]), "decimal(5,2)", 1, "is NaN"),
        (pa.array([0.5, 0.1]), "float32", 1, "lose precision"),
        (pa.array([1e300]), "float32", 0, "lose precision"),
        (pa.array([2**53, 2**53 + 1]), "float64", 1, "lose precision"),
        (pa.array([2**63 - 1]), "float64", 0, "lose precision"),
        (pa.array([2**64 - 1], pa.uint64()), "float64", 0, "lose precision"),
        (pa.array([2**24 + 1], pa.int32()), "float32", 0, "lose precision"),
        (pa.array([1, 1000]), "decimal(3,0)", 1, "out of range for decimal(3,0)"),
        (pa.array([Decimal("1.50"), Decimal("1.55")], pa.decimal128(5, 2)), "decimal(5,1)", 1, "lose precision"),
        (pa.array([Decimal("1.50"), Decimal("10.50")], pa.decimal128(5, 2)), "decimal(3,2)", 1, "out of range"),
        (pa.array([Decimal("7.50")], pa.decimal128(5, 2)), "int64", 0, "not a whole number"),
        (pa.array([0.1]), "decimal(10,2)", 0, "lose precision"),
        (pa.array(["1.5", "x"]), "decimal(5,2)", 1, "is not a number"),
        (pa.array([LAST + 1], pa.timestamp("s")), "timestamp", 0, "outside the years 1 to 9999"),
        (pa.array([(FIRST * US) - 1], pa.timestamp("us")), "timestamp", 0, "outside the years 1 to 9999"),
        (pa.array([2**62], pa.timestamp("s")), "timestamp", 0, "outside the years 1 to 9999"),
        (pa.array([1_000, 1_001], pa.timestamp("ns")), "timestamp", 1, "more than six digits"),
        (pa.array([-1], pa.timestamp("ns")), "timestamp", 0, "more than six digits"),
        (pa.array(["2013-01-01", "2013-01-01T00:00:00Z"]), "timestamp", 0, "not an RFC 3339 time"),
        (pa.array([2**31 - 1], pa.int32()).cast(pa.date32()), "date", 0, "outside the years"),
        (pa.array([86_400_000, 1], pa.int64()).view(pa.date64()), "date", 0, "are no date64"),
        (pa.array(["2013-02-29"]), "date", 0, "not a day of the calendar"),
        (pa.array([UUID, "123"]), "uuid", 1, "is not a UUID"),
        (extension(pa.json_(), ["1", "{"]), "json", 1, "not JSON"),
        (pa.array(["1", "text"]), "json", 1, "not JSON"),
        (extension(pa.json_(), ['{"a":1,"a":2}']), "json", 0, "repeats the key 'a'"),
        (pa.array([{"a": 1.0}, {"a": math.nan}]), "json", 1, "is NaN"),
        (pa.array([[("k", 1)], [("k", 1), ("k", 2)]], pa.map_(pa.string(), pa.int8())), "json", 1, "repeats the key"),
        (pa.array([[1], None, [1, 2, 2**40]]), "list<int32>", 2, "element 2 is out of range"),
        (pa.array([[[1.0], [0.5, math.nan]]]), "list<list<float64>>", 0, "element 1 element 1 is NaN"),
    ],
)  # fmt: skip
def test_a_value_that_would_change_is_refused(array: pa.Array, type_: str, row: int, words: str) -> None:
    [(index, column, reason)] = refusals(arrow_of(column_of(array)), make_schema(f"a {type_}"))
    assert (index, column) == (row, "a")
    assert words in reason


@pytest.mark.parametrize(
    ("array", "type_", "words"),
    [
        (pa.array([1]), "bool", "needs true or false, not int64"),
        (pa.array([1]), "string", "needs a string, not int64"),
        (pa.array(["1"]), "int64", "needs a number, not string"),
        (pa.array(["1"]), "float64", "needs a number, not string"),
        (pa.array([True]), "int64", "needs a number, not bool"),
        (pa.array(["x"]), "binary", "needs bytes, not string"),
        (pa.array([b"x"]), "string", "needs a string, not binary"),
        (pa.array([b"x"]), "uuid", "needs a UUID, not binary"),
        (pa.array([1]), "timestamp", "needs a timestamp, not int64"),
        (pa.array([date(2013, 1, 1)]), "timestamp", "needs a timestamp, not date32"),
        (pa.array([NOON]), "date", "needs a date, not timestamp"),
        (pa.array([1]), "list<int64>", "needs a list, not int64"),
        (pa.array([[1]]), "int64", "needs a number, not list"),
        (pa.array([[["x"]]]), "list<string>", "needs a string, not list"),
        (pa.array([{"a": 1}]), "string", "needs a string, not struct"),
        (pa.array([{"a": 1}]), "list<json>", "needs a list, not struct"),
        (pa.array([1], pa.time64("us")), "string", "has no place in a table"),
        (pa.array([1], pa.duration("s")), "int64", "has no place in a table"),
        (pa.array([100], pa.decimal128(5, -2)), "decimal(9,2)", "has no place in a table"),
        (pa.array([[1]], pa.list_view(pa.int64())), "list<int64>", "has no place in a table"),
        (pa.array([[1]], pa.list_(pa.duration("s"))), "json", "has no place in a table"),
        (pa.array([[(1, 2)]], pa.map_(pa.int64(), pa.int64())), "json", "keys that are no strings"),
    ],
)  # fmt: skip
def test_a_column_of_another_type_is_refused(array: pa.Array, type_: str, words: str) -> None:
    [(index, column, reason)] = refusals(arrow_of(column_of(array)), make_schema(f"a {type_}"))
    assert (index, column) == (0, "a")
    assert words in reason


def test_columns_are_matched_by_name_without_case() -> None:
    table = pa.table({"B": ["x"], "A": [1]})
    assert batch_of(decode(arrow_of(table), make_schema("a int64", "b string"))).to_pylist() == [{"a": 1, "b": "x"}]


def test_every_wrong_column_is_named() -> None:
    table = pa.Table.from_arrays([pa.array([1])] * 3, names=["a", "A", "zzz"])
    assert refusals(arrow_of(table), make_schema("a int64", "b string!", "c bool")) == [
        (0, "A", "gives the column a a second time (names compare without case)"),
        (0, "zzz", "unknown field"),
        (0, "b", "is missing and may not be null"),
    ]


def test_a_null_where_none_may_be_is_named() -> None:
    table = pa.table({"a": pa.array(["x", None]).dictionary_encode(), "b": [None, 1]})
    assert refusals(parquet_of(table), make_schema("a string!", "b int64!")) == [
        (0, "b", "may not be null"),
        (1, "a", "may not be null"),
    ]


def test_problems_are_named_by_the_row_of_the_body_and_counted() -> None:
    table = pa.table({"a": pa.array(range(2**31 - 50, 2**31 + 150))})
    found = refusals(arrow_of(table, max_chunksize=7), make_schema("a int32"))
    assert [index for index, _, _ in found] == list(range(50, 150))


@pytest.mark.parametrize("body", [arrow_of, parquet_of])
def test_a_body_of_many_batches_is_one_request(body: object) -> None:
    table = pa.table({"a": pa.array(range(1_000)), "b": [str(n % 7) for n in range(1_000)]})
    bytes_ = parquet_of(table, row_group_size=64) if body is parquet_of else arrow_of(table, max_chunksize=3)
    decoded = decode(bytes_, make_schema("a int64", "b string"))
    assert decoded.record_count == 1_000
    assert batch_of(decoded).select(["a", "b"]).to_pylist() == table.to_pylist()


@pytest.mark.parametrize("body", [arrow_of, parquet_of])
def test_a_body_without_rows_or_columns_is_refused(body: object) -> None:
    make = parquet_of if body is parquet_of else arrow_of
    with pytest.raises(Invalid, match="holds no records"):
        decode(make(pa.table({"a": pa.array([], pa.int64())})), make_schema("a int64"))
    with pytest.raises(Invalid, match="no columns"):
        decode(make(pa.table({})), make_schema("a int64"))


def test_parquet_keeps_nested_values_that_it_stores_once() -> None:
    table = pa.table(
        {
            "m": pa.array([[("k", "x")], [("k", "y"), ("l", "x")]] * 50, pa.map_(pa.string(), pa.string())),
            "l": [["x", "y"], ["x", None]] * 50,
            "s": [{"a": ["x"]}, None] * 50,
        }
    )
    for options in (
        {"row_group_size": 7},
        {"dictionary_pagesize_limit": 2, "data_page_size": 8, "write_batch_size": 4},
    ):
        batch = batch_of(decode(parquet_of(table, **options), make_schema("m json", "l list<string>", "s json")))
        assert batch.column("m").to_pylist() == ['{"k":"x"}', '{"k":"y","l":"x"}'] * 50
        assert batch.column("l").to_pylist() == table["l"].to_pylist()
        assert batch.column("s").to_pylist() == ['{"a":["x"]}', None] * 50


def test_a_delete_needs_the_key_only() -> None:
    schema = make_schema("id int64", "b string!")
    body = arrow_of(pa.table({"ID": [1, 2]}))
    batch = batch_of(decode(body, schema, primary_key=("id",), options=BodyOptions(op="delete")))
    assert batch.to_pylist() == [{"id": n, "b": None, "_duckmesh_op": 1} for n in (1, 2)]
    assert refusals(body, schema, primary_key=("id",)) == [(0, "b", "is missing and may not be null")]
    nulls = arrow_of(pa.table({"id": pa.array([1, None])}))
    assert refusals(nulls, schema, primary_key=("id",), options=BodyOptions(op="delete")) == [
        (1, "id", "may not be null")
    ]


def test_the_key_column_recognises_a_retry_in_another_format_and_width() -> None:
    columns = {
        "k": [1, 2, None],
        "f": [0.5, None, 1.0],
        "s": ["a", 'b"', "c"],
        "t": pa.array([1, 2, 3], pa.timestamp("us")),
    }
    table = pa.table(columns)
    options = BodyOptions(key_column="K", event_time_column="t")
    first = decode(arrow_of(table), make_schema("k int32", "f float32", "s string", "t timestamp"), options=options)
    again = decode(parquet_of(table), make_schema("k int64", "f float64", "s string", "t timestamp"), options=options)
    assert first.record_count == 3
    assert list(first.key_ordinals) == [0, 1]
    assert (first.key_hashes, first.payload_hashes) == (again.key_hashes, again.payload_hashes)
    assert first.min_event_time == datetime(1970, 1, 1, 0, 0, 0, 1, tzinfo=UTC)
    assert first.max_event_time == datetime(1970, 1, 1, 0, 0, 0, 3, tzinfo=UTC)


def test_keys_and_event_times_that_cannot_be_are_named() -> None:
    schema, options = make_schema("k string", "t string"), BodyOptions(key_column="k", event_time_column="t")
    table = pa.table({"k": ["x", "", "y" * 513], "t": ["2013-01-01T00:00:00Z", None, "noon"]})
    found = refusals(arrow_of(table), schema, options=options)
    assert [(index, column) for index, column, _ in found] == [(1, "k"), (2, "k"), (2, "t")]


def test_a_request_hash_is_of_the_bytes_and_the_options() -> None:
    schema = make_schema("a int64")
    body = arrow_of(pa.table({"a": [1]}))
    hashes = [
        decode(body, schema, request_key="k").request_hash,
        decode(body, schema, request_key="k", options=BodyOptions(key_column="a")).request_hash,
        decode(parquet_of(pa.table({"a": [1]})), schema, request_key="k").request_hash,
    ]
    assert len(set(hashes)) == 3
    assert decode(body, schema, request_key="other").request_hash == hashes[0]
    assert decode(body, schema).request_hash is None


@given(
    st.lists(st.tuples(
        st.none() | st.integers(-(2**63), 2**63 - 1),
        st.none() | st.floats(allow_nan=False, allow_infinity=False),
        st.none() | st.text(st.characters(exclude_categories=["Cs"])),
        st.none() | st.lists(st.none() | st.integers(-128, 127)),
        st.none() | st.datetimes(),
        st.none() | st.binary(),
    ), min_size=1),
    st.integers(1, 5),
)  # fmt: skip
def test_bodies_of_any_values_hold_what_pyarrow_says(rows: list[tuple[object, ...]], chunk: int) -> None:
    types = [pa.int64(), pa.float64(), pa.string(), pa.list_(pa.int8()), pa.timestamp("us"), pa.binary()]
    names = "abcdef"
    table = pa.Table.from_arrays(
        [pa.array(values, type_) for values, type_ in zip(zip(*rows, strict=True), types, strict=True)],
        names=list(names),
    )
    schema = make_schema("a int64", "b float64", "c string", "d list<int64>", "e timestamp", "f binary")
    for body in (arrow_of(table, max_chunksize=chunk), parquet_of(table, row_group_size=chunk)):
        assert batch_of(decode(body, schema)).to_pylist() == table.to_pylist()
