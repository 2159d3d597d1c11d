"""CONTRACT.md, section 4: values survive exactly from the JSON of a write to the JSON of a query, or are refused."""

import json

import pytest

from tests.acceptance.caller import Caller, problem_of
from tests.stack import Stack

COLUMNS = {
    "b": "bool",
    "i32": "int32",
    "i64": "int64",
    "f32": "float32",
    "f64": "float64",
    "d": "decimal(38,10)",
    "s": "string",
    "bin": "binary",
    "dt": "date",
    "ts": "timestamp",
    "j": "json",
    "u": "uuid",
    "l": "list<int64>",
    "ll": "list<list<string>>",
    "ld": "list<decimal(5,2)>",
}

# A column, its value as the JSON of a write has it, and as the JSON of a query has it.
EXACT = [
    ("b", "true", "true"),
    ("i32", "-2147483648", "-2147483648"),
    ("i64", "9007199254740993", "9007199254740993"),
    ("i64", "-9223372036854775808", "-9223372036854775808"),
    ("i64", "1e2", "100"),
    ("f32", "0.1", "0.1"),
    ("f64", "0.1", "0.1"),
    ("f64", "1e308", "1e308"),
    ("f64", "5e-324", "5e-324"),
    ("d", '"1234567890123456789012345678.0123456789"', '"1234567890123456789012345678.0123456789"'),
    ("d", "0.1", '"0.1000000000"'),
    ("d", "-1234567890123456789012345678.0123456789", '"-1234567890123456789012345678.0123456789"'),
    ("s", r'"\u0000"', r'"\u0000"'),
    ("s", r'"a\u0000b"', r'"a\u0000b"'),
    ("s", r'"\ud83d\ude00 é \"\\\n"', r'"\ud83d\ude00 é \"\\\n"'),
    ("s", '""', '""'),
    ("bin", '"AAEC/w=="', '"AAEC/w=="'),
    ("dt", '"2024-02-29"', '"2024-02-29"'),
    ("dt", '"0001-01-01"', '"0001-01-01"'),
    ("dt", '"9999-12-31"', '"9999-12-31"'),
    ("ts", '"2024-02-29T23:59:59.123456Z"', '"2024-02-29T23:59:59.123456Z"'),
    ("ts", '"2024-02-29T23:59:59+02:00"', '"2024-02-29T21:59:59Z"'),
    ("ts", '"0001-01-01T00:00:00Z"', '"0001-01-01T00:00:00Z"'),
    ("j", r'{"a": [1, 9007199254740993, 1.10, "\u0000", null]}', None),
    ("j", '"text"', None),
    ("u", '"6F9619FF-8B86-D011-B42D-00C04FC964FF"', '"6f9619ff-8b86-d011-b42d-00c04fc964ff"'),
    ("l", "[1, null, 9007199254740993]", "[1, null, 9007199254740993]"),
    ("l", "[]", "[]"),
    ("ll", r'[["a\u0000", null], null, []]', r'[["a\u0000", null], null, []]'),
    ("ld", '["1.25", 2]', '["1.25", "2.00"]'),
    ("i64", "null", "null"),
]

# A column, a value that it refuses, and words of the reason.
REFUSED = [
    ("b", "1", "true or false"),
    ("b", '"true"', "true or false"),
    ("i32", "2147483648", "out of range"),
    ("i64", "9223372036854775808", "out of range"),
    ("i64", "1.5", "lose precision"),
    ("i64", "1e400", "out of range"),
    ("i64", '"5"', "number"),
    ("i64", "true", "number"),
    ("f32", "16777217", "lose precision"),
    ("f32", "3.5e38", "out of range"),
    ("f64", "9007199254740993", "lose precision"),
    ("f64", "1e400", "out of range"),
    ("f64", "NaN", "NaN"),
    ("f64", "-Infinity", "Infinity"),
    ("f64", '"NaN"', "number"),
    ("d", "1.00000000001", "lose precision"),
    ("d", "12345678901234567890123456789", "out of range"),
    ("d", '"much"', "number"),
    ("s", "1", "string"),
    ("s", "{}", "string"),
    ("s", r'"\ud800"', "surrogate"),
    ("s", r'"\udc00\ud800"', "surrogate"),
    ("bin", '"!"', "base64"),
    ("dt", '"2023-02-29"', "calendar"),
    ("dt", '"2024-1-1"', "date"),
    ("ts", '"2024-01-01T25:00:00Z"', "calendar"),
    ("ts", '"2024-01-01T00:00:00.1234567Z"', "lose precision"),
    ("ts", "1704067200", "string"),
    ("j", '{"a": 1, "a": 2}', "repeats"),
    ("j", "1e400", "range"),
    ("u", '"6f9619ff"', "UUID"),
    ("l", "1", "list"),
    ("l", "[1, 1.5]", "element 1"),
    ("ll", '[["a", 1]]', "string"),
    ("nope", "1", "unknown"),
]


@pytest.fixture(scope="module")
def table(contract_stack: Stack) -> str:
    caller = Caller(contract_stack.base_url, contract_stack.key)
    name = caller.create({"id": "int64", **COLUMNS}, required=["id"])
    caller.close()
    return name


def body(*records: str) -> bytes:
    options = '"wait_for_visibility": true, "visibility_timeout_ms": 20000'
    return f'{{"records": [{", ".join(records)}], {options}}}'.encode()


def record(number: int, column: str, value: str) -> str:
    return f'{{"payload": {{"id": {number}, "{column}": {value}}}}}'


def test_every_value_comes_back_as_it_was_written(demo: Caller, table: str) -> None:
    alone = demo.send(table, body(record(-1, "s", r'"\u0000"')))
    assert (alone.status, alone.json()["status"]) == (200, "visible"), alone.body
    answer = demo.send(table, body(*(record(n, column, value) for n, (column, value, _) in enumerate(EXACT))))
    assert (answer.status, answer.json()["status"]) == (200, "visible"), answer.body
    empty, document = (demo.query(f"FROM {table} WHERE {condition}") for condition in ("id IS NULL", "id >= 0"))
    read = {row[0]: row[1:] for row in document["rows"]}
    assert len(read) == len(EXACT)
    assert document["column_types"] == empty["column_types"]
    assert document["column_types"][1:4] == ["BOOLEAN", "INTEGER", "BIGINT"]
    for number, (column, written, expected) in enumerate(EXACT):
        found = read[number][list(COLUMNS).index(column)]
        if expected is None:  # JSON is text to a query, and means what was written
            assert json.loads(found) == json.loads(written)
            assert "1.10" in found or "1.10" not in written
        else:
            assert (type(found), found) == (type(json.loads(expected)), json.loads(expected)), column
    assert demo.rows(f"SELECT s FROM {table} WHERE s = ?", params=["\0"]) == [["\0"]] * 2
    assert demo.rows(f"SELECT count(*) FROM {table} WHERE i64 = 9007199254740993") == [[1]]


@pytest.mark.parametrize(("column", "value", "words"), REFUSED)
def test_a_value_that_does_not_fit_is_refused_by_name(
    demo: Caller, table: str, column: str, value: str, words: str
) -> None:
    before = demo.call("GET", "/v1/lag").json()["latest_issued_token"]
    answer = demo.send(table, body(record(100, "b", "true"), record(101, column, value)))
    problem = problem_of(answer, 400, "INVALID_RECORD")
    (error,) = problem["context"]["errors"]
    assert (error["index"], error["column"]) == (1, column)
    assert words in error["reason"]
    assert demo.call("GET", "/v1/lag").json()["latest_issued_token"] == before


def test_bytes_that_are_not_utf8_are_refused_by_name(demo: Caller, table: str) -> None:
    answer = demo.send(table, b'{"records": [{"payload": {"id": 1, "s": "\xff"}}]}')
    assert problem_of(answer, 400, "INVALID_RECORD")["context"]["errors"][0]["column"] == "s"


def test_columns_are_named_without_case_and_never_twice(demo: Caller, table: str) -> None:
    demo.ingest(table, {"payload": {"ID": 500, "I64": 1}})
    for twice, words in (('"s": "a", "s": "b"', "repeated JSON key"), ('"s": "a", "S": "b"', "second time")):
        answer = demo.send(table, body(f'{{"payload": {{"id": 1, {twice}}}}}'))
        assert words in problem_of(answer, 400, "INVALID_RECORD")["message"]


def test_a_hundred_of_the_bad_records_are_named_and_none_is_written(demo: Caller, table: str) -> None:
    bad = [{"payload": {"i64": 1}} for _ in range(120)]
    answer = demo.send(table, {"records": [*bad, {"payload": {"id": 900}}]})
    problem = problem_of(answer, 400, "INVALID_RECORD")
    assert [error["index"] for error in problem["context"]["errors"]] == list(range(100))
    assert {error["column"] for error in problem["context"]["errors"]} == {"id"}
    assert demo.rows(f"SELECT count(*) FROM {table} WHERE id = 900") == [[0]]
