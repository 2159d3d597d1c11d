"""Arrow to JSON: every digit of every type, as DuckDB itself sends them."""

import json
from datetime import datetime

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import ipc

from query.duckdb_types import element_type, member_types
from query.engine import Engine, EngineSettings
from query.instants import date_texts, interval_text, timestamp_texts
from query.request import RunRequest
from query.results import json_rows


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    return Engine(tenant_dir=str(tmp_path_factory.mktemp("tenant")), settings=EngineSettings(threads=1))


def answer_text(engine: Engine, sql: str) -> str:
    """The rows of the statement as the text of one JSON array."""
    pieces: list[bytes] = []
    ran = engine.run(RunRequest(sql=sql), emit=lambda piece, _more: pieces.append(piece))
    with ipc.open_stream(b"".join(pieces)) as reader:
        return "[" + b",".join(json_rows(batch, column_types=ran.column_types) for batch in reader).decode() + "]"


NUMBERS = [
    ("9007199254740993::BIGINT", "9007199254740993"),
    ("(-9223372036854775808)::BIGINT", "-9223372036854775808"),
    ("18446744073709551615::UBIGINT", "18446744073709551615"),
    ("170141183460469231731687303715884105727::HUGEINT", "170141183460469231731687303715884105727"),
    ("-99999999999999999999999999999999999999::HUGEINT", "-99999999999999999999999999999999999999"),
    ("340282366920938463463374607431768211455::UHUGEINT", "340282366920938463463374607431768211455"),
    ("repeat('9', 60)::BIGNUM", "9" * 60),
    ("sum(x::BIGINT) FROM range(3) r(x)", "3"),
    ("[1::HUGEINT, NULL]", "[1,null]"),
    ("{'a': 1::HUGEINT, 'HUGEINT x, \"': 1::DECIMAL(38,0)}", '{"a":1,"HUGEINT x, \\"":"1"}'),
    ("0.1::FLOAT", "0.1"),
    ("0.1::DOUBLE + 0.2::DOUBLE", "0.30000000000000004"),
    ("'nan'::FLOAT", '"NaN"'),
    ("'inf'::DOUBLE", '"Infinity"'),
    ("['-inf'::DOUBLE, NULL, 1]", '["-Infinity",null,1.0]'),
    ("1.50::DECIMAL(10,2)", '"1.50"'),
    ("0::DECIMAL(18,10)", '"0.0000000000"'),
    ("'-0.0000000000000000000000000000000000001'::DECIMAL(38,37)", '"-0.0000000000000000000000000000000000001"'),
    ("99999999999999999999999999999999999999::DECIMAL(38,0)", '"99999999999999999999999999999999999999"'),
    ("true", "true"),
    ("NULL", "null"),
]
MOMENTS = [
    ("TIMESTAMP '2013-01-01 10:00:00'", '"2013-01-01T10:00:00Z"'),
    ("TIMESTAMP '2013-01-01 10:00:00.5'", '"2013-01-01T10:00:00.500000Z"'),
    ("TIMESTAMPTZ '2013-01-01 10:00:00+02'", '"2013-01-01T08:00:00Z"'),
    ("TIMESTAMP_NS '2013-01-01 10:00:00.123456789'", '"2013-01-01T10:00:00.123456789Z"'),
    ("TIMESTAMP_NS '2013-01-01 10:00:00.123456'", '"2013-01-01T10:00:00.123456Z"'),
    ("TIMESTAMP_MS '2013-01-01 10:00:00.25'", '"2013-01-01T10:00:00.250000Z"'),
    ("TIMESTAMP_S '1969-12-31 23:59:59'", '"1969-12-31T23:59:59Z"'),
    ("'infinity'::TIMESTAMP", '"Infinity"'),
    ("'-infinity'::TIMESTAMPTZ", '"-Infinity"'),
    ("TIMESTAMP '12013-01-01 00:00:00.5'", '"+12013-01-01T00:00:00.500000Z"'),
    ("DATE '2013-01-31'", '"2013-01-31"'),
    ("DATE '0044-03-15 (BC)'", '"-0043-03-15"'),
    ("'infinity'::DATE", '"Infinity"'),
    ("[DATE '0001-01-01', DATE '9999-12-31', NULL]", '["0001-01-01","9999-12-31",null]'),
    ("TIME '10:00:00'", '"10:00:00"'),
    ("TIME '10:00:00.5'", '"10:00:00.500000"'),
    ("TIME '24:00:00'", '"24:00:00"'),
    ("TIME_NS '10:00:00.123456789'", '"10:00:00.123456789"'),
    ("TIMETZ '10:00:00+02:30'", '"10:00:00+02:30"'),
    ("INTERVAL '14 months 3 days 4 hours 5.5 seconds'", '"P1Y2M3DT4H5.5S"'),
    ("INTERVAL '-500 milliseconds'", '"PT-0.5S"'),
    ("INTERVAL '0 days'", '"PT0S"'),
]
OTHERS = [
    ("'a\"b\\' || chr(10) || 'é' || chr(0)", '"a\\"b\\\\\\né\\u0000"'),
    ("'[1, null]'::JSON", '"[1, null]"'),
    ("'null'::JSON", '"null"'),
    ("""'{"a": NaN}'::JSON""", '"{\\"a\\": NaN}"'),
    ("'ca6e0ed2-6e6b-4d0e-a8a2-36ddfdd1ffb8'::UUID", '"ca6e0ed2-6e6b-4d0e-a8a2-36ddfdd1ffb8"'),
    ("'\\xFF\\x00'::BLOB", '"/wA="'),
    ("'10101'::BIT", '"10101"'),
    ("'y'::ENUM('x', 'y')", '"y"'),
    ("[[1], NULL, []]", "[[1],null,[]]"),
    ("[1, NULL]::INTEGER[2]", "[1,null]"),
    ("[{'a': 1, 'b': NULL}, NULL]", '[{"a":1,"b":null},null]'),
    ("row(1, 'x')", '[1,"x"]'),
    ("MAP{1: 'a', 2: NULL}", '{"1":"a","2":null}'),
    ("MAP{DATE '2013-01-01': [1.5]}", '{"2013-01-01":["1.5"]}'),
    ("NULL::MAP(INTEGER, INTEGER)", "null"),
    ("union_value(n := 2)", "2"),
]


@pytest.mark.parametrize(("expression", "expected"), [*NUMBERS, *MOMENTS, *OTHERS])
def test_value_keeps_every_digit(engine: Engine, expression: str, expected: str) -> None:
    assert answer_text(engine, f"SELECT {expression}") == f"[[{expected}]]"


def test_rows_of_several_batches_are_one_list(engine: Engine) -> None:
    rows = json.loads(
        answer_text(
            engine,
            "SELECT i, [i, i + 1], {'a': [i]}, MAP{i: i}, [i, NULL]::BIGINT[2],"
            " CASE WHEN i % 2 = 0 THEN i::UNION(n BIGINT, s VARCHAR) ELSE ('s' || i)::UNION(n BIGINT, s VARCHAR) END,"
            " CASE WHEN i % 3 > 0 THEN [DATE '2000-01-01' + i::INTEGER] END FROM range(40_000) r(i)",
        )
    )
    assert len(rows) == 40_000
    assert rows[2][:6] == [2, [2, 3], {"a": [2]}, {"2": 2}, [2, None], 2]
    assert rows[39_999] == [
        39_999,
        [39_999, 40_000],
        {"a": [39_999]},
        {"39999": 39_999},
        [39_999, None],
        "s39999",
        None,
    ]
    assert rows[1][6] == ["2000-01-02"]


@settings(max_examples=200, deadline=None)
@given(st.datetimes(), st.integers(-(2**31) + 2, 2**31 - 2))
def test_slow_and_fast_ways_of_writing_instants_agree(instant: datetime, day: int) -> None:
    one = pa.array([instant], pa.timestamp("us"))
    # A value out of the fast way's range makes its whole array take the slow one.
    far = pa.array([2**60], pa.int64()).view(pa.timestamp("us"))
    assert timestamp_texts(one)[0] == timestamp_texts(pa.concat_arrays([one, far]))[0]
    days = pa.array([day], pa.int32()).view(pa.date32())
    far_day = pa.array([2**30], pa.int32()).view(pa.date32())
    assert date_texts(days)[0] == date_texts(pa.concat_arrays([days, far_day]))[0]


def test_each_part_of_an_interval_has_its_own_sign() -> None:
    assert interval_text(-14, 3, -3_661_500_000_000) == "P-1Y-2M3DT-1H-1M-1.5S"


def test_names_of_nested_types_come_apart_at_the_right_places() -> None:
    name = 'STRUCT(a INTEGER, "b, (c" HUGEINT[], d MAP(VARCHAR, STRUCT(x DECIMAL(38,0))), "e ""q" TIME WITH TIME ZONE)'
    expected = ["INTEGER", "HUGEINT[]", "MAP(VARCHAR, STRUCT(x DECIMAL(38,0)))", "TIME WITH TIME ZONE"]
    assert member_types(name, count=4, named=True) == expected
    assert member_types(expected[2], count=2, named=False) == ["VARCHAR", "STRUCT(x DECIMAL(38,0))"]
    assert element_type("HUGEINT[3][]") == "HUGEINT[3]"
    assert member_types("", count=2, named=True) == ["", ""]
