"""Which JSON value becomes which value of a column, and which is refused, by name."""

from datetime import date, datetime
from decimal import Decimal

import pytest

from tests.unit.decode_cases import batch_of, body_of, body_with, decode, make_schema, refusals

UUID = "123e4567-e89b-12d3-a456-426614174000"
MIDNIGHT = datetime(2013, 1, 1)  # noqa: DTZ001 (columns hold UTC without saying so)


@pytest.mark.parametrize(
    ("type_", "literal", "value"),
    [
        ("bool", "true", True),
        ("int32", "-2147483648", -(2**31)),
        ("int32", "2147483647", 2**31 - 1),
        ("int64", "9007199254740993", 2**53 + 1),
        ("int64", "-9223372036854775808", -(2**63)),
        ("int64", "9223372036854775807", 2**63 - 1),
        ("int64", "1.0", 1),
        ("int64", "1e2", 100),
        ("int64", "120e-1", 12),
        ("int64", "-0", 0),
        ("int64", "9007199254740993.0", 2**53 + 1),
        ("float64", "1", 1.0),
        ("float64", "9007199254740992", 2.0**53),
        ("float64", "0.1", 0.1),
        ("float64", "0.10000000000000001", 0.1),
        ("float64", "1e23", 1e23),
        ("float64", "1.7976931348623157e308", 1.7976931348623157e308),
        ("float64", "1152921504606847000", 2.0**60),
        ("float64", "0e-999", 0.0),
        ("float64", "5e-324", 5e-324),
        ("float32", "0.5", 0.5),
        ("float32", "0.1", 0.10000000149011612),
        ("float32", "16777216", 2.0**24),
        ("float32", "16777218", 16777218.0),
        ("float32", "1e10", 1e10),
        ("float32", "3.4028234663852886e38", 3.4028234663852886e38),
        ("decimal(10,2)", "1.5", Decimal("1.50")),
        ("decimal(10,2)", '"12345678.90"', Decimal("12345678.90")),
        ("decimal(10,2)", "1e3", Decimal("1000.00")),
        ("decimal(10,2)", "1.5000", Decimal("1.50")),
        ("decimal(10,2)", "7", Decimal("7.00")),
        (
            "decimal(38,10)",
            "1234567890123456789012345678.0123456789",
            Decimal("1234567890123456789012345678.0123456789"),
        ),
        ("decimal(38,38)", "0." + "1" * 38, Decimal("0." + "1" * 38)),
        ("decimal(38,0)", "9" * 38, Decimal("9" * 38)),
        ("string", r'"a\u0000b"', "a\0b"),
        ("string", r'"\ud83d\ude00"', "😀"),
        ("string", '"é\\"\\\\"', 'é"\\'),
        ("string", '""', ""),
        ("string", '"say \\"x\\": y"', 'say "x": y'),
        ("binary", '"AAEC/w=="', b"\x00\x01\x02\xff"),
        ("binary", '""', b""),
        ("date", '"2012-02-29"', date(2012, 2, 29)),
        ("date", '"0001-01-01"', date(1, 1, 1)),
        ("timestamp", '"2013-01-01T00:00:00Z"', MIDNIGHT),
        ("timestamp", '"2013-01-01T05:30:00+05:30"', MIDNIGHT),
        ("timestamp", '"2012-12-31t19:00:00.000-05:00"', MIDNIGHT),
        ("timestamp", '"2013-01-01T00:00:00"', MIDNIGHT),
        ("timestamp", '"2013-01-01 00:00:00.123456000z"', MIDNIGHT.replace(microsecond=123456)),
        ("timestamp", '"9999-12-31T23:59:59.999999Z"', datetime.max),  # noqa: DTZ901
        ("uuid", f'"{UUID.upper()}"', UUID),
        ("uuid", f'"{UUID.replace("-", "")}"', UUID),
        ("json", "1152921504606846977", "1152921504606846977"),
        ("json", " [1e2, 0.10 ,-0.0, 1.0] ", "[1e2,0.10,-0.0,1.0]"),
        ("json", '{"b": {"a" : null}, "a":"\\u0000\\u00e9"}', '{"b":{"a":null},"a":"\\u0000é"}'),
        ("json", '"text"', '"text"'),
        ("json", "9" * 300, "9" * 300),
        ("json", "[" * 64 + "]" * 64, "[" * 64 + "]" * 64),
        ("list<int64>", "[1,null,9007199254740993]", [1, None, 2**53 + 1]),
        ("list<list<float32>>", "[[0.5],[],null,[1]]", [[0.5], [], None, [1.0]]),
        ("list<decimal(3,1)>", '[1,"2.5",3.5]', [Decimal("1.0"), Decimal("2.5"), Decimal("3.5")]),
        ("list<date>", '["2013-01-01"]', [date(2013, 1, 1)]),
        ("list<timestamp>", '["2013-01-01T00:00:00Z",null]', [MIDNIGHT, None]),
        ("list<uuid>", f'["{UUID}"]', [UUID]),
        ("list<json>", '[{"a": 1.50}, null, "x"]', ['{"a":1.50}', None, '"x"']),
        ("list<string>", "[]", []),
        ("int64", "null", None),
        ("json", "null", None),
    ],
)
def test_a_value_survives_exactly(type_: str, literal: str, value: object) -> None:
    batch = batch_of(decode(body_with(literal), make_schema(f"a {type_}", "b bool")))
    assert batch.column("a").to_pylist() == [value]
    assert batch.column("b").to_pylist() == [None]


@pytest.mark.parametrize(
    ("type_", "literal", "words"),
    [
        ("bool", "1", "true or false, not a number"),
        ("bool", '"true"', "not a string"),
        ("int32", "2147483648", "out of range for int32"),
        ("int64", "9223372036854775808", "out of range for int64"),
        ("int64", "-9223372036854775809", "out of range for int64"),
        ("int64", "18446744073709551616", "out of range"),
        ("int64", "1" * 5_000, "more than 1000 characters"),
        ("decimal(5,2)", "0." + "1" * 2_000_000, "more than 1000 characters"),
        ("json", "0." + "1" * 2_000_000, "out of the range"),
        ("int64", "1.5", "lose precision"),
        ("int64", "9007199254740992.5", "lose precision"),
        ("int64", "1e-1", "lose precision"),
        ("int64", "1e400", "out of range"),
        ("int64", "1e999999999", "out of range"),
        ("int64", "1e-999999999", "lose precision"),
        ("int64", "true", "not true or false"),
        ("int64", '"1"', "not a string"),
        ("int64", "[1]", "not a list"),
        ("int64", "{}", "not an object"),
        ("int64", "NaN", "NaN is not a JSON number"),
        ("float64", "9007199254740993", "lose precision"),
        ("float64", "9007199254740993.0", "lose precision"),
        ("float64", "1152921504606846977", "lose precision"),
        ("float64", "1e400", "out of range for float64"),
        ("float64", "-1e400", "out of range for float64"),
        ("float64", "1" * 400, "out of range for float64"),
        ("float64", "1e-400", "lose precision"),
        ("float64", "-0." + "0" * 400 + "1", "lose precision"),
        ("float64", "NaN", "NaN is not a JSON number"),
        ("float64", "Infinity", "Infinity is not a JSON number"),
        ("float64", "-Infinity", "-Infinity is not a JSON number"),
        ("float64", '"NaN"', "not a string"),
        ("float64", "false", "not true or false"),
        ("float32", "16777217", "lose precision"),
        ("float32", "16777217.0", "lose precision"),
        ("float32", "3.5e38", "out of range for float32"),
        ("float32", "1e39", "out of range for float32"),
        ("float32", "1e-60", "lose precision"),
        ("decimal(5,2)", "1.005", "more than 2 digits after the point"),
        ("decimal(5,2)", "1000", "out of range for decimal(5,2)"),
        ("decimal(5,2)", "1e999999999", "out of range"),
        ("decimal(5,2)", "1e-999999999", "digits after the point"),
        ("decimal(5,2)", '"NaN"', "not a number"),
        ("decimal(5,2)", '" 1"', "not a number"),
        ("decimal(5,2)", '"1_0"', "not a number"),
        ("decimal(5,2)", "true", "not true or false"),
        ("decimal(5,2)", "NaN", "NaN is not a JSON number"),
        ("string", "1", "not a number"),
        ("string", r'"\ud800"', "lone surrogate"),
        ("string", r'"\udc00x"', "lone surrogate"),
        ("binary", '"AAE"', "base64"),
        ("binary", '"AA E="', "base64"),
        ("binary", '"é"', "base64"),
        ("date", '"2013-02-29"', "not a day"),
        ("date", '"20130101"', "not a date"),
        ("date", '"0000-01-01"', "not a day"),
        ("date", '"2013-01-01T00:00:00Z"', "not a date"),
        ("date", "0", "not a number"),
        ("timestamp", "1357034400", "not a number"),
        ("timestamp", '"1357034400"', "RFC 3339"),
        ("timestamp", '"2013-01-01"', "RFC 3339"),
        ("timestamp", '"2013-01-01T10:00Z"', "RFC 3339"),
        ("timestamp", '"2013-01-01T10:00:00+0200"', "RFC 3339"),
        ("timestamp", '"2013-01-01T10:00:00.1234567Z"', "lose precision"),
        ("timestamp", '"2013-02-30T10:00:00Z"', "calendar"),
        ("timestamp", '"2013-01-01T24:00:00Z"', "calendar"),
        ("timestamp", '"2013-01-01T23:59:60Z"', "calendar"),
        ("timestamp", '"2013-01-01T10:00:00+24:00"', "offset"),
        ("timestamp", '"0001-01-01T00:00:00+01:00"', "years 1 to 9999"),
        ("timestamp", '"9999-12-31T23:59:59-00:01"', "years 1 to 9999"),
        ("timestamp", '"٢٠١٣-01-01T00:00:00Z"', "RFC 3339"),
        ("uuid", '"123e4567"', "not a UUID"),
        ("uuid", f'"{{{UUID}}}"', "not a UUID"),
        ("uuid", '"123e4567e89b-12d3-a456-426614174000"', "not a UUID"),
        ("json", "NaN", "NaN is not a JSON number"),
        ("json", "[1e400]", "out of the range"),
        ("json", "9" * 400, "out of the range"),
        ("json", '{"a":1,"a":2}', "repeats the key 'a'"),
        ("json", '[{"b":{"a":1,"\\u0061":2}}]', "repeats the key 'a'"),
        ("json", r'{"\ud800":1}', "lone surrogate"),
        ("json", r'["\ud800"]', "lone surrogate"),
        ("json", "[" * 65 + "]" * 65, "nests deeper than 64"),
        ("json", "[" * 100_000 + "]" * 100_000, "nests deeper than 64"),
        ("json", '{"a":' * 100_000 + "1" + "}" * 100_000, "nests deeper than 64"),
        ("int64", "[" * 100_000 + "]" * 100_000, "nests deeper than 64"),
        ("list<int64>", "1", "a list, not a number"),
        ("list<int64>", "[1,1.5]", "element 1 is not a whole number"),
        ("list<list<bool>>", "[[true],[0]]", "element 1 element 0 needs true or false"),
        ("list<float64>", "[9007199254740993]", "element 0 would lose precision"),
        ("list<string>", '{"0":"a"}', "not an object"),
    ],
)
def test_a_value_that_does_not_fit_is_refused_by_name(type_: str, literal: str, words: str) -> None:
    schema = make_schema(f"a {type_}")
    (problem,) = refusals(body_with(literal), schema)
    assert problem[:2] == (0, "a")
    assert words in problem[2]


@pytest.mark.parametrize("bad", [b"\xff", b"\xc3", b"\xed\xa0\x80", b"\xf4\x90\x80\x80"])
def test_bytes_that_are_not_utf8_are_refused_where_they_stand(bad: bytes) -> None:
    body = b'{"records":[{"payload":{"a":"ok"}},{"payload":{"a":"x' + bad + b'"}}]}'
    ((index, column, reason),) = refusals(body, make_schema("a string"))
    assert (index, column) == (1, "a")
    assert "UTF-8" in reason


def test_the_same_value_is_taken_among_many_as_alone() -> None:
    texts = [f"2013-01-{1 + i % 28:02}T10:{i % 60:02}:00.{i:06}+01:00" for i in range(500)]
    schema = make_schema("t timestamp", "d date", "f float32", "g float64", "u uuid")
    payloads = [
        {"t": t, "d": t[:10], "f": i / 8, "g": i / 3, "u": f"123E4567-e89b-12d3-a456-{i:012}"}
        for i, t in enumerate(texts)
    ]
    together = batch_of(decode(body_of(*payloads), schema))
    alone = [batch_of(decode(body_of(payload), schema)).to_pylist()[0] for payload in payloads]
    assert together.to_pylist() == alone


@pytest.mark.parametrize("bad", ["2013-01-01 10:00", "2013-13-01T00:00:00Z", "0000-06-01T00:00:00Z"])
def test_one_bad_time_among_many_is_found(bad: str) -> None:
    texts = [f"2013-01-01T10:{i % 60:02}:{i % 50:02}Z" for i in range(500)]
    texts[321] = bad
    found = refusals(body_of(*({"t": text} for text in texts)), make_schema("t timestamp"))
    assert [(index, column) for index, column, _ in found] == [(321, "t")]


@pytest.mark.parametrize("bad", ["2013-02-30", "0000-01-01", "2013-1-1"])
def test_one_bad_day_among_many_is_found(bad: str) -> None:
    days = [f"20{i % 90 + 10}-01-{1 + i % 28:02}" for i in range(500)]
    days[77] = bad
    found = refusals(body_of(*({"d": day} for day in days)), make_schema("d date"))
    assert [(index, column) for index, column, _ in found] == [(77, "d")]


@pytest.mark.parametrize("bad", ["9007199254740993", "1e-400", "1e309", "12345678901234567890.5"])
def test_one_lossy_float_among_many_is_found(bad: str) -> None:
    numbers = [f"{i}.25" for i in range(500)]
    numbers[400] = bad
    body = '{"records":[' + ",".join(f'{{"payload":{{"x":{n}}}}}' for n in numbers) + "]}"
    found = refusals(body, make_schema("x float64"))
    assert [(index, column) for index, column, _ in found] == [(400, "x")]


@pytest.mark.parametrize("bad", ["16777217", "1e39", "1e-60", "123456789.5"])
def test_one_lossy_float32_among_many_is_found(bad: str) -> None:
    numbers = [f"{i}.25" for i in range(500)]
    numbers[400] = bad
    body = '{"records":[' + ",".join(f'{{"payload":{{"x":{n}}}}}' for n in numbers) + "]}"
    found = refusals(body, make_schema("x float32"))
    assert [(index, column) for index, column, _ in found] == [(400, "x")]


@pytest.mark.parametrize("bad", ["not-a-uuid", "{123e4567-e89b-12d3-a456-426614174000}"])
def test_one_bad_uuid_among_many_is_found(bad: str) -> None:
    uuids = [f"123e4567-e89b-12d3-a456-{i:012}" for i in range(500)]
    uuids[250] = bad
    found = refusals(body_of(*({"u": u} for u in uuids)), make_schema("u uuid"))
    assert [(index, column) for index, column, _ in found] == [(250, "u")]
