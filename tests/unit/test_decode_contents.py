"""A value that is stored is one content for its key, however it was spelled and whatever the format."""

import json
from datetime import UTC, date, datetime
from decimal import Decimal
from uuid import UUID

import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from catalog.schema import TableSchema
from ingest.decode.batch import DecodedBatch
from ingest.decode.options import BodyOptions
from tests.unit import body_cases, columnar_cases, decode_cases
from tests.unit.body_cases import CSV, NDJSON
from tests.unit.columnar_cases import arrow_of, parquet_of
from tests.unit.decode_cases import make_schema

KEY = BodyOptions(key_column="k")
MANY = 60  # more than are looked at one by one


def hashes(literal: str, schema: TableSchema, *, beside: str = "null") -> set[bytes]:
    """The hashes of one value in JSON and in NDJSON, alone and among others; `beside` is what the others hold."""
    payloads = [f'{{"k":"a","v":{literal}}}'] + [f'{{"k":"b{n}","v":{beside}}}' for n in range(MANY)]
    found = set()
    for some in (payloads[:1], payloads):
        records = ",".join(f'{{"idempotency_key":"k{n}","payload":{payload}}}' for n, payload in enumerate(some))
        found.add(first_hash(decode_cases.decode(f'{{"records":[{records}]}}', schema)))
        found.add(first_hash(body_cases.decode(NDJSON, "\n".join(some), schema, options=KEY)))
    return found


def csv_hashes(text: str, schema: TableSchema) -> set[bytes]:
    lines = ["k,v", f"a,{text}", *(f"b{n},{text}" for n in range(MANY))]
    bodies = ("\n".join(some) for some in (lines[:2], lines))
    return {first_hash(body_cases.decode(CSV, body, schema, options=KEY)) for body in bodies}


def columnar_hashes(array: pa.Array, schema: TableSchema) -> set[bytes]:
    table = pa.table({"k": ["a"], "v": array})
    bodies = (arrow_of(table), parquet_of(table))
    return {first_hash(columnar_cases.decode(body, schema, options=KEY)) for body in bodies}


def first_hash(decoded: DecodedBatch) -> bytes:
    return decoded.payload_hashes[:16]


@pytest.mark.parametrize(
    ("type_", "spellings", "text", "array"),
    [
        ("int64", ["100", "100.0", "1e2"], "100", pa.array([100])),
        ("int64", ["9007199254740993", "9007199254740993.0"], "9007199254740993", pa.array([2**53 + 1])),
        ("float64", ["1", "1.0", "1e0"], "1.0", pa.array([1.0])),
        ("float64", ["0", "-0.0", "0.0"], "-0.0", pa.array([-0.0])),
        ("float64", ["100000", "1e5"], "1e+5", pa.array([1e5])),
        ("float64", ["1e16", "10000000000000000"], "1e16", pa.array([1e16])),
        ("float64", ["1e22", "10000000000000000000000"], "1e22", pa.array([1e22])),
        ("float64", ["1e-5", "0.00001"], "1e-05", pa.array([1e-5])),
        ("float64", ["5e-324"], "5e-324", pa.array([5e-324])),
        ("float64", ["1234567890123456.8"], "1234567890123456.8", pa.array([1234567890123456.8])),
        ("float32", ["7", "7.0"], "7", pa.array([7.0], pa.float32())),
        ("decimal(10,2)", ['"1.50"', '"1.5"', "1.5", "15e-1"], "1.50", pa.array([Decimal("1.50")])),
        ("decimal(10,2)", ['"100"', "100", "100.00", "1e2"], "100", pa.array([Decimal("100.00")])),
        ("decimal(10,2)", ['"-0.00"', "0", "-0.0"], "0.00", pa.array([Decimal("0.00")])),
        ("decimal(38,10)", ['"1e-10"', "0.0000000001"], "1e-10", pa.array([Decimal("0.0000000001")])),
        (
            "timestamp",
            ['"2013-01-01T10:00:00Z"', '"2013-01-01T12:00:00.000+02:00"', '"2013-01-01 10:00:00"'],
            "2013-01-01t10:00:00z",
            pa.array([datetime(2013, 1, 1, 10, tzinfo=UTC)], pa.timestamp("s")),
        ),
        (
            "timestamp",
            ['"2013-01-01T10:00:00.5Z"', '"2013-01-01T10:00:00.500000Z"'],
            "2013-01-01T10:00:00.50Z",
            pa.array([datetime(2013, 1, 1, 10, 0, 0, 500_000, tzinfo=UTC)], pa.timestamp("us")),
        ),
        ("date", ['"2013-01-01"'], "2013-01-01", pa.array([date(2013, 1, 1)])),
        (
            "uuid",
            ['"ABCDEF00-0000-0000-0000-000000000001"', '"abcdef00000000000000000000000001"'],
            "abcdef00-0000-0000-0000-000000000001",
            pa.array([UUID("abcdef00-0000-0000-0000-000000000001").bytes], pa.uuid()),
        ),
        ("list<float64>", ["[1, 0.5, null]", "[1.0, 5e-1, null]"], '"[1,0.5,null]"', pa.array([[1.0, 0.5, None]])),
        ("list<list<float64>>", ["[[1], null]", "[[1.0], null]"], '"[[1],null]"', pa.array([[[1.0], None]])),
        ("list<decimal(5,2)>", ['["1.50"]', "[1.5]"], '"[1.50]"', pa.array([[Decimal("1.50")]])),
        (
            "list<timestamp>",
            ['["2013-01-01T10:00:00Z"]', '["2013-01-01T11:00:00+01:00"]'],
            '"[""2013-01-01T10:00:00Z""]"',
            pa.array([[datetime(2013, 1, 1, 10, tzinfo=UTC)]]),
        ),
    ],
)
def test_a_value_is_one_content_in_every_spelling_and_format(
    type_: str, spellings: list[str], text: str, array: pa.Array
) -> None:
    schema = make_schema("k string", f"v {type_}")
    found = {one for spelling in spellings for one in hashes(spelling, schema, beside=spellings[0])}
    assert len(found) == 1
    assert csv_hashes(text, schema) == found
    assert columnar_hashes(array, schema) == found


@given(st.floats(allow_nan=False, allow_infinity=False))
@example(1e-06)
@example(-9.5e-06)
@example(1e16)
@settings(max_examples=300, deadline=None)
def test_a_float_is_one_content_in_json_and_arrow(value: float) -> None:
    schema = make_schema("k string", "v float64")
    assert columnar_hashes(pa.array([value]), schema) == hashes(json.dumps(value), schema)
