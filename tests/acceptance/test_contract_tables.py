"""CONTRACT.md, section 3: tables of every type and name, made, listed in pages, described and dropped."""

import re
from typing import Any

import pytest

from tests.acceptance.caller import Caller, new_name, problem_of

COLUMN = [{"name": "a", "type": "int64"}]

# As a caller may spell a type, as the table shows it, and as a query sees it.
TYPES = [
    ("bool", "bool", "BOOLEAN"),
    ("int32", "int32", "INTEGER"),
    ("int64", "int64", "BIGINT"),
    ("float32", "float32", "FLOAT"),
    ("float64", "float64", "DOUBLE"),
    ("decimal(38,10)", "decimal(38,10)", "DECIMAL(38,10)"),
    ("Decimal( 5 , 2 )", "decimal(5,2)", "DECIMAL(5,2)"),
    ("string", "string", "VARCHAR"),
    ("binary", "binary", "BLOB"),
    ("date", "date", "DATE"),
    ("timestamp", "timestamp", "TIMESTAMP"),
    ("json", "json", "JSON"),
    ("uuid", "uuid", "UUID"),
    ("list<int64>", "list<int64>", "BIGINT[]"),
    ("LIST< list<string> >", "list<list<string>>", "VARCHAR[][]"),
    ("list<decimal(4,1)>", "list<decimal(4,1)>", "DECIMAL(4,1)[]"),
]

# Keywords, views of the system, schemas and catalogs of DuckDB, table functions, and the longest name.
NAMES = (
    *("order", "Select", "table", "group", "from", "values", "null", "true", "user", "left", "with", "all", "limit"),
    *("pg_stats", "PG_Class", "duckdb_tables", "sqlite_master", "pragma_database_list", "information_schema"),
    *("main", "memory", "system", "temp", "tables", "columns", "range", "unnest", "_", "_duckmesh_token", "n" * 63),
)


def create(caller: Caller, name: object, **members: object) -> Any:
    return caller.call("POST", "/v1/tables", {"table_name": name, "schema_json": {"columns": COLUMN}, **members})


def test_a_table_has_every_type_and_is_described_as_it_was_made(demo: Caller) -> None:
    name = new_name("Types")
    columns = [{"name": f"c{n}", "type": spelled, "nullable": n != 0} for n, (spelled, _, _) in enumerate(TYPES)]
    answer = demo.call(
        "POST",
        "/v1/tables",
        {
            "table_name": name,
            "schema_json": {"columns": columns},
            "primary_key_cols": ["C2", "c12"],
            "partition_spec": {"fields": [{"column": "c2", "transform": "bucket[16]"}]},
            "sort_cols": ["c10"],
            "compatibility_mode": "full",
        },
    )
    table = answer.json()
    assert answer.status == 201
    assert answer.headers["location"].endswith(f"/v1/tables/{name}")
    assert isinstance(table["table_id"], int)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", table["created_at"])
    assert {key: value for key, value in table.items() if key not in ("table_id", "created_at")} == {
        "tenant_id": "demo",
        "table_name": name,
        "schema_version": 1,
        "schema_json": {
            "columns": [{"name": f"c{n}", "type": shown, "nullable": n != 0} for n, (_, shown, _) in enumerate(TYPES)]
        },
        "primary_key_cols": ["c2", "c12"],
        "partition_spec": {"fields": [{"column": "c2", "transform": "bucket[16]"}]},
        "sort_cols": ["c10"],
        "compatibility_mode": "full",
        "grows": False,
    }
    for path in (f"/v1/tables/{name}", f"/v1/tables/{name.upper()}"):
        assert demo.call("GET", path).json() == table
    document = demo.query(f"FROM {name}")
    assert (document["column_types"], document["rows"]) == ([seen for _, _, seen in TYPES], [])


@pytest.mark.parametrize("name", NAMES)
def test_any_name_is_one_for_a_table_and_its_columns(demo: Caller, name: str) -> None:
    column = name if not name.lower().startswith("_duckmesh") else "a"
    assert demo.create({column: "int64", "other": "string"}, name=name) == name
    demo.ingest(name.upper(), {"payload": {column.upper(): 7}}, wait=True)
    document = demo.query(f'WITH x AS (SELECT t."{column}" FROM "{name.lower()}" AS t) SELECT x.* FROM x')
    assert (document["columns"], document["rows"]) == ([column], [[7]])
    problem_of(create(demo, name.swapcase()), 409, "TABLE_EXISTS")
    dropped = demo.call("DELETE", f"/v1/tables/{name.upper()}")
    assert (dropped.status, dropped.body) == (204, b"")
    assert "content-length" not in dropped.headers
    assert "content-type" not in dropped.headers
    problem = problem_of(demo.call("POST", "/v1/query", {"sql": f'FROM "{name}"'}), *_without(name))
    assert name.lower() in problem["message"]
    # An older snapshot still has it.
    assert demo.rows(f'SELECT "{column}" FROM "{name}"', snapshot_id=document["snapshot_id"]) == [[7]]


def _without(name: str) -> tuple[int, str]:
    """What answers a statement that reads `name` when there is no such table."""
    system = re.match("pg_|duckdb_|sqlite_|pragma_|information_schema|_duckmesh", name.lower())
    return (403, "QUERY_FORBIDDEN") if system else (404, "TABLE_NOT_FOUND")


@pytest.mark.parametrize("name", ["", "1a", "a b", "a-b", "a.b", "é", 'a"', "a\0", "n" * 64, None, 5, ["a"]])
def test_what_is_no_name_is_refused(demo: Caller, name: object) -> None:
    assert "table_name" in problem_of(create(demo, name), 400, "INVALID_REQUEST")["message"]


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ([], "no column"),
        ("a", "list"),
        ([{"name": "a", "type": "varchar"}], "not a type"),
        ([{"name": "a", "type": "decimal(39,1)"}], "38"),
        ([{"name": "a", "type": "decimal(2,3)"}], "after the point"),
        ([{"name": "a", "type": "list<>"}], "not a type"),
        ([{"name": "a"}], "type"),
        ([{"type": "int64"}], "name"),
        ([{"name": "a b", "type": "int64"}], "letters, digits and underscores"),
        ([{"name": "a", "type": "int64"}, {"name": "A", "type": "int64"}], "without case"),
        ([{"name": "a", "type": "int64", "nullable": "no"}], "nullable"),
        ([{"name": "a", "type": "int64", "default": 1}], "default"),
    ],
)
def test_columns_that_cannot_be_are_refused_by_name(demo: Caller, columns: object, words: str) -> None:
    answer = create(demo, new_name(), schema_json={"columns": columns})
    assert words in problem_of(answer, 400, "INVALID_REQUEST")["message"]


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ({"primary_key_cols": ["b"]}, "no column 'b'"),
        ({"primary_key_cols": ["a", "A"]}, "twice"),
        ({"primary_key_cols": "a"}, "list"),
        ({"sort_cols": ["b"]}, "no column 'b'"),
        ({"partition_spec": {"fields": [{"column": "a", "transform": "day"}]}}, "date or timestamp"),
        ({"partition_spec": {"fields": [{"column": "a", "transform": "bucket[0]"}]}}, "bucket[N]"),
        ({"partition_spec": {"fields": [{"column": "b", "transform": "identity"}]}}, "no column 'b'"),
        ({"partition_spec": []}, "partition_spec"),
        ({"compatibility_mode": "sideways"}, "backward, forward, full, none"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_members_that_cannot_be_are_refused_by_name(demo: Caller, members: dict[str, Any], words: str) -> None:
    assert words in problem_of(create(demo, new_name(), **members), 400, "INVALID_REQUEST")["message"]


def test_a_listing_comes_in_pages_and_each_table_once(other: Caller, others: tuple[str, str]) -> None:
    names = sorted((other.create({"a": "int64"}, name=f"Page_{n:02}") for n in range(7)), key=str.lower)
    found, cursor = [], ""
    while cursor is not None:
        page = other.call("GET", "/v1/tables?limit=3" + (f"&cursor={cursor}" if cursor else "")).json()
        assert page["tenant_id"] == others[0]
        assert 1 <= len(page["tables"]) <= 3
        found += [table["table_name"] for table in page["tables"]]
        cursor = page["next_cursor"]
    assert found == names
    for wrong in ("limit=0", "limit=x", "limit=-1", "limit=1001", "cursor=!"):
        problem_of(other.call("GET", f"/v1/tables?{wrong}"), 400, "INVALID_REQUEST")
    for name in names:
        assert other.call("DELETE", f"/v1/tables/{name}").status == 204


def test_a_name_created_anew_shares_nothing_with_the_old_table(demo: Caller) -> None:
    name = demo.create({"old": "int64"})
    first = demo.call("GET", f"/v1/tables/{name}").json()
    seen = demo.ingest(name, {"idempotency_key": "k", "payload": {"old": 1}}, wait=True)["visible_snapshot_id"]
    # Not yet visible when its table goes.
    demo.ingest(name, {"idempotency_key": "pending", "payload": {"old": 2}})
    assert demo.call("DELETE", f"/v1/tables/{name}").status == 204
    for method in ("GET", "DELETE"):
        problem_of(demo.call(method, f"/v1/tables/{name}"), 404, "TABLE_NOT_FOUND")
    problem_of(demo.send(name, {"records": [{"payload": {"old": 1}}]}), 404, "TABLE_NOT_FOUND")
    demo.create({"new": "string"}, name=name)
    assert demo.call("GET", f"/v1/tables/{name}").json()["table_id"] != first["table_id"]
    again = demo.ingest(name, {"idempotency_key": "k", "payload": {"new": "x"}}, wait=True)
    assert (again["accepted_count"], again["duplicate_count"]) == (1, 0)
    assert demo.rows(f"FROM {name}") == [["x"]]
    assert demo.rows(f"FROM {name}", snapshot_id=seen) == [[1]]


def test_tenants_may_have_tables_of_one_name(demo: Caller, other: Caller) -> None:
    name = new_name("shared")
    for caller, value in ((demo, 1), (other, 2)):
        caller.create({"a": "int64"}, name=name)
        caller.ingest(name, {"idempotency_key": "k", "payload": {"a": value}}, wait=True)
    assert (demo.rows(f"FROM {name}"), other.rows(f"FROM {name}")) == ([[1]], [[2]])
    assert other.call("DELETE", f"/v1/tables/{name}").status == 204
    assert demo.rows(f"FROM {name}") == [[1]]


def test_a_changed_table_is_read_in_the_schema_of_each_snapshot(demo: Caller) -> None:
    table = demo.create({"id": "int32", "n": "int32", "old": "string"}, name=new_name("changed"), required=["id"])
    demo.ingest(table, {"payload": {"id": 1, "n": 2**31 - 1, "old": "x"}}, wait=True)
    before = demo.query(f"SELECT * FROM {table}")
    change = {
        "add": [{"name": "extra", "type": "list<string>"}],
        "widen": {"n": "int64"},
        "rename": {"id": "number", "n": "id"},
        "drop": ["old"],
    }
    answer = demo.call("PATCH", f"/v1/tables/{table}", change)
    assert answer.status == 200, answer.body
    assert answer.json()["schema_version"] == 2
    demo.ingest(table, {"payload": {"number": 2, "id": 2**63 - 1, "extra": ["y"]}}, wait=True)
    after = demo.query(f"SELECT * FROM {table} ORDER BY number")
    assert (after["columns"], after["column_types"]) == (["number", "id", "extra"], ["INTEGER", "BIGINT", "VARCHAR[]"])
    assert after["rows"] == [[1, 2**31 - 1, None], [2, 2**63 - 1, ["y"]]]
    again = demo.query(f"SELECT * FROM {table}", snapshot_id=before["snapshot_id"])
    for member in ("columns", "column_types", "rows"):
        assert again[member] == before[member]
    for body in ({"widen": {"id": "int32"}}, {"add": [{"name": "x", "type": "bool", "nullable": False}]}):
        problem = problem_of(demo.call("PATCH", f"/v1/tables/{table}", body), 409, "SCHEMA_INCOMPATIBLE")
        (error,) = problem["context"]["errors"]
        assert error["column"] in ("id", "x")
        assert error["reason"]
