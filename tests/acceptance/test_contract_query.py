"""CONTRACT.md, section 5: one snapshot per query, exact tokens, parameters, limits, and JSON with every digit."""

import json
import re
import time
from dataclasses import dataclass
from typing import Any

import pytest

from tests.acceptance.caller import Caller, problem_of
from tests.stack import Stack

INSTANT = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{6})?Z"
STATS = {
    *("duration_ms", "queue_ms", "barrier_ms", "scanned_files", "pruned_files", "scanned_bytes", "cache_hit_bytes"),
}


@dataclass(frozen=True, kw_only=True)
class History:
    """A table of two rows; the first alone is in the snapshot `first`, both are in `second`."""

    table: str
    first: int
    second: int
    first_time: str
    first_token: int
    second_token: int


@pytest.fixture(scope="module")
def history(contract_stack: Stack) -> History:
    caller = Caller(contract_stack.base_url, contract_stack.key)
    table = caller.create({"id": "int64", "g": "string", "ts": "timestamp"})
    row = {"g": "a", "ts": "2024-01-01T00:00:00Z"}
    one, two = (caller.ingest(table, {"payload": {"id": n, **row}}, wait=True) for n in (1, 2))
    at_first = caller.query("SELECT 1", snapshot_id=one["visible_snapshot_id"])["snapshot_time"]
    caller.close()
    return History(
        table=table,
        first=one["visible_snapshot_id"],
        second=two["visible_snapshot_id"],
        first_time=at_first,
        first_token=one["max_visibility_token"],
        second_token=two["max_visibility_token"],
    )


def test_an_answer_has_the_contracts_members(demo: Caller, history: History) -> None:
    document = demo.query(f"SELECT id, ts FROM {history.table} ORDER BY id", snapshot_id=history.second)
    stats = document.pop("stats")
    assert re.fullmatch(INSTANT, document.pop("snapshot_time"))
    assert document == {
        "columns": ["id", "ts"],
        "column_types": ["BIGINT", "TIMESTAMP"],
        "rows": [[1, "2024-01-01T00:00:00Z"], [2, "2024-01-01T00:00:00Z"]],
        "snapshot_id": history.second,
        "max_visibility_token": history.second_token,
        "truncated": False,
    }
    assert set(stats) == STATS
    assert stats["scanned_files"] == 2
    assert 0 <= stats["cache_hit_bytes"] <= stats["scanned_bytes"]
    assert 0 <= stats["queue_ms"] <= stats["duration_ms"]
    again = demo.query(f"SELECT id, ts FROM {history.table}", snapshot_id=history.second)["stats"]
    assert again["cache_hit_bytes"] == again["scanned_bytes"] > 0, "what was fetched is kept"


def test_a_snapshot_is_chosen_by_id_or_time_with_or_without_a_token(demo: Caller, history: History) -> None:
    h, one, both = history, [[1]], [[1], [2]]
    for members, expected in (
        ({}, both),
        ({"snapshot_id": None, "snapshot_time": None, "min_visibility_token": None}, both),
        ({"snapshot_id": h.first}, one),
        ({"snapshot_id": h.second}, both),
        ({"snapshot_time": h.first_time}, one),
        ({"snapshot_time": h.first_time.replace("Z", "+00:00")}, one),
        ({"min_visibility_token": 0}, both),
        ({"min_visibility_token": h.second_token}, both),
        ({"snapshot_id": h.first, "min_visibility_token": h.first_token}, one),
        ({"snapshot_time": h.first_time, "min_visibility_token": h.first_token}, one),
    ):
        assert demo.rows(f"SELECT id FROM {h.table} ORDER BY id", **members) == expected, members


def test_a_snapshot_or_token_that_cannot_be_read_has_its_code(demo: Caller, history: History) -> None:
    h, sql = history, f"FROM {history.table}"
    never = demo.call("GET", "/v1/lag").json()["latest_issued_token"] + 1
    for members, status, code in (
        ({"snapshot_id": 10**9}, 404, "SNAPSHOT_NOT_FOUND"),
        ({"snapshot_id": 0}, 404, "TABLE_NOT_FOUND"),
        ({"snapshot_time": "2000-01-01T00:00:00Z"}, 404, "SNAPSHOT_NOT_FOUND"),
        ({"snapshot_time": "2999-01-01T00:00:00Z"}, 400, "INVALID_REQUEST"),
        ({"snapshot_time": "yesterday"}, 400, "INVALID_REQUEST"),
        ({"snapshot_id": h.first, "snapshot_time": h.first_time}, 400, "INVALID_REQUEST"),
        ({"snapshot_id": -1}, 400, "INVALID_REQUEST"),
        ({"snapshot_id": "1"}, 400, "INVALID_REQUEST"),
        ({"min_visibility_token": never}, 400, "VISIBILITY_TOKEN_INVALID"),
        ({"min_visibility_token": never, "snapshot_id": h.first}, 400, "VISIBILITY_TOKEN_INVALID"),
        ({"min_visibility_token": -1}, 400, "VISIBILITY_TOKEN_INVALID"),
        ({"min_visibility_token": "1"}, 400, "VISIBILITY_TOKEN_INVALID"),
        ({"min_visibility_token": 2**64}, 400, "VISIBILITY_TOKEN_INVALID"),
        ({"min_visibility_token": h.second_token, "snapshot_id": h.first}, 409, "TOKEN_SCOPE_MISMATCH"),
        ({"min_visibility_token": h.second_token, "snapshot_time": h.first_time}, 409, "TOKEN_SCOPE_MISMATCH"),
    ):
        began = time.monotonic()
        demo.refused(status, code, sql, **members, consistency_timeout_ms=60_000)
        assert time.monotonic() - began < 5, "nothing of this is waited for"


def test_a_token_brings_the_rows_of_its_write_and_of_all_before_it(demo: Caller, history: History) -> None:
    table = demo.create({"n": "int64"})
    for n in range(1, 11):
        token = demo.ingest(table, {"payload": {"n": n}})["max_visibility_token"]
        document = demo.query(f"SELECT count(*) FROM {table}", min_visibility_token=token)
        assert document["rows"] == [[n]]
        assert document["max_visibility_token"] >= token


def test_all_tables_of_a_query_are_read_at_one_instant(demo: Caller) -> None:
    left, right = demo.create({"n": "int64"}), demo.create({"n": "int64"})
    for n in range(8):
        demo.ingest(left, {"payload": {"n": n}})
        demo.ingest(right, {"payload": {"n": n}})
        sql = f"SELECT (SELECT count(*) FROM {left}), (SELECT count(*) FROM {right})"
        (counts,), again = demo.rows(sql), demo.query(sql)
        assert counts[0] - counts[1] in (0, 1), "the right one is written after the left one"
        assert demo.rows(sql, snapshot_id=again["snapshot_id"]) == again["rows"]


def test_snapshots_count_from_zero(other: Caller) -> None:
    document = other.query("SELECT 1", snapshot_id=0)
    assert (document["snapshot_id"], document["max_visibility_token"]) == (0, 0)


@pytest.mark.parametrize(
    ("sql", "params", "row"),
    [
        ("SELECT ?, ?", [1, "a"], [1, "a"]),
        ("SELECT $2, $1, $2", [1, 2], [2, 1, 2]),
        ("SELECT $a, $b", {"a": True, "b": None}, [True, None]),
        ("SELECT ?", [9007199254740993], [9007199254740993]),
        ("SELECT ?", [-(2**63)], [-(2**63)]),
        ("SELECT ?", ["\0'; DROP TABLE x; é😀"], ["\0'; DROP TABLE x; é😀"]),
        ("SELECT ?::DOUBLE, ?::TIMESTAMP", [1.5, "2024-01-01T00:00:00Z"], [1.5, "2024-01-01T00:00:00Z"]),
        ("SELECT list_sum(?)", [[1, 2, 3]], [6]),
        ("SELECT n FROM range(9) t(n) WHERE n IN (SELECT unnest(?)) LIMIT ?", [[7], 1], [7]),
        ("SELECT 1", [], [1]),
        ("SELECT 1", {}, [1]),
    ],
)
def test_parameters_are_bound_as_values(demo: Caller, sql: str, params: object, row: list[object]) -> None:
    assert demo.rows(sql, params=params) == [row]


@pytest.mark.parametrize(
    ("sql", "params", "code"),
    [
        ("SELECT ?", [], "QUERY_INVALID"),
        ("SELECT ?", [1, 2], "QUERY_INVALID"),
        ("SELECT $a", {"b": 1}, "QUERY_INVALID"),
        ("SELECT $a", [1], "QUERY_INVALID"),
        ("SELECT ?", [{"a": 1}], "QUERY_INVALID"),
        ("SELECT ?", [2**200], "QUERY_INVALID"),
        ("SELECT ?::INT", ["x"], "QUERY_INVALID"),
        ("SELECT ?", 5, "INVALID_REQUEST"),
        ("SELECT ?", "x", "INVALID_REQUEST"),
    ],
)
def test_parameters_that_do_not_fit_are_refused(demo: Caller, sql: str, params: object, code: str) -> None:
    demo.refused(400, code, sql, params=params)


@pytest.mark.parametrize(
    "members",
    [
        {"timeout_ms": 0},
        {"timeout_ms": 300_001},
        {"timeout_ms": "1"},
        {"consistency_timeout_ms": -1},
        {"row_limit": 0},
        {"row_limit": 1.5},
        {"colour": "red"},
        {"sql": 5},
        {"sql": "SELECT \0"},
    ],
)
def test_members_that_cannot_be_are_refused_by_name(demo: Caller, members: dict[str, object]) -> None:
    answer = demo.call("POST", "/v1/query", {"sql": "SELECT 1", **members})
    assert next(iter(members)) in problem_of(answer, 400, "INVALID_REQUEST")["message"]


def test_rows_stop_at_the_limit_and_the_answer_says_so(demo: Caller) -> None:
    for members, rows, limit, truncated in (
        ({}, 10_000, 10_000, False),
        ({}, 10_001, 10_000, True),
        ({"row_limit": 2}, 3, 2, True),
        ({"row_limit": 3}, 3, 3, False),
        ({"row_limit": 20_000}, 15_000, 15_000, False),
    ):
        document = demo.query(f"SELECT * FROM range({rows})", **members)
        assert (len(document["rows"]), document["truncated"]) == (min(rows, limit), truncated)


def test_time_and_size_are_bounded_and_the_service_goes_on(demo: Caller) -> None:
    began = time.monotonic()
    demo.refused(504, "QUERY_TIMEOUT", "SELECT count(*) FROM range(1000000000) a, range(1000) b", timeout_ms=300)
    assert 0.3 <= time.monotonic() - began < 1.5
    demo.refused(422, "QUERY_RESOURCES_EXCEEDED", "SELECT repeat('x', 1000000) FROM range(100)")
    assert demo.rows("SELECT 1") == [[1]]


@pytest.mark.parametrize(
    ("expression", "shown", "kind"),
    [
        ("9223372036854775807", "9223372036854775807", "BIGINT"),
        ("18446744073709551615::UBIGINT", "18446744073709551615", "UBIGINT"),
        ("170141183460469231731687303715884105727", "170141183460469231731687303715884105727", "HUGEINT"),
        ("0.10::DECIMAL(5,2)", '"0.10"', "DECIMAL(5,2)"),
        ("1.5::DOUBLE", "1.5", "DOUBLE"),
        ("'NaN'::DOUBLE", '"NaN"', "DOUBLE"),
        ("'inf'::DOUBLE", '"Infinity"', "DOUBLE"),
        ("'-inf'::FLOAT", '"-Infinity"', "FLOAT"),
        ("DATE '2024-02-29'", '"2024-02-29"', "DATE"),
        ("TIMESTAMP '2024-02-29 12:00:00.5'", '"2024-02-29T12:00:00.500000Z"', "TIMESTAMP"),
        ("TIMESTAMPTZ '2024-01-01 00:00:00+02'", '"2023-12-31T22:00:00Z"', "TIMESTAMP WITH TIME ZONE"),
        ("TIME '01:02:03'", '"01:02:03"', "TIME"),
        (r"'\x00\xFF'::BLOB", '"AP8="', "BLOB"),
        ("UUID '6f9619ff-8b86-d011-b42d-00c04fc964ff'", '"6f9619ff-8b86-d011-b42d-00c04fc964ff"', "UUID"),
        ("chr(0)", r'"\u0000"', "VARCHAR"),
        ("[1, NULL]", "[1,null]", "INTEGER[]"),
        ("{'a': 1, 'b': [2.5::DECIMAL(2,1)]}", '{"a":1,"b":["2.5"]}', "STRUCT(a INTEGER, b DECIMAL(2,1)[])"),
        ("MAP {'k': 'inf'::DOUBLE}", '{"k":"Infinity"}', "MAP(VARCHAR, DOUBLE)"),
        ("""'{"a":9007199254740993}'::JSON""", r'"{\"a\":9007199254740993}"', "JSON"),
        ("NULL::VARCHAR", "null", "VARCHAR"),
        ("true", "true", "BOOLEAN"),
    ],
)
def test_json_keeps_every_digit_and_names_the_types(demo: Caller, expression: str, shown: str, kind: str) -> None:
    answer = demo.call("POST", "/v1/query", {"sql": f"SELECT {expression} AS x"})
    document: dict[str, Any] = answer.json()
    assert answer.status == 200, document
    assert f'"rows":[[{shown}]]'.encode() in answer.body
    assert json.loads(shown) == document["rows"][0][0]
    assert (document["columns"], document["column_types"]) == (["x"], [kind])
