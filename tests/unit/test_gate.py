"""The gate, on what DuckDB really serialises. Whether a name is a table is a question of scope."""

import json
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from query.engine import DUCKDB_VERSION, Engine, EngineSettings
from query.failures import StatementError, failure_of, params_of
from query.functions import FUNCTIONS_FILE, SCALAR, TABLE, UNREVIEWED, Listed, allowed, parse, render, reviewed
from query.gate import Verdict, judge
from query.list_functions import brought_up_to_date, installed, problems


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    yield Engine(tenant_dir=str(tmp_path_factory.mktemp("tenant")), settings=EngineSettings(threads=1))


def _verdict(engine: Engine, sql: str) -> Verdict:
    return judge(engine.serialise(sql), sql=sql)


READS = [
    ("select 1", set()),
    ("values (1), (2)", set()),
    ("from Flights", {"flights"}),
    ("table t", {"t"}),
    ("select * from t; ", {"t"}),
    ("select * from a join b using (x) left join c on true", {"a", "b", "c"}),
    ("select * from a union all by name select * from b", {"a", "b"}),
    ("select (select max(x) from a), exists (from b) from c where y in (select z from d)", {"a", "b", "c", "d"}),
    ("with a as (select * from x), b as (select * from a) select * from b", {"x"}),
    ("with A as (select 1) select * from a", set()),
    ("with a as (select * from b), b as (select 1) select * from a", {"b"}),
    ("with t as (select * from t) select * from t", {"t"}),
    ("select * from gone, (with gone as (select 1) select 1) t", {"gone"}),
    ("(with g as (select 1) select * from g) union all select * from g", {"g"}),
    ("with recursive r(i) as (select 1 union all select i + 1 from r where i < 3) select * from r", set()),
    ("with recursive r as (select i from r union all select 3) select * from r", {"r"}),
    ("with recursive r as (select * from r) select * from r", {"r"}),
    ("with recursive u as (with z as (from x) select 1 union all select 2 from u, z) select * from u", {"x"}),
    ("with x as (select 1) select * from (with x as (select * from y) select * from x)", {"y"}),
    ("pivot t on x in ('a', 'b') using sum(y)", {"t"}),
    ("unpivot t on a, b", {"t"}),
    ("select * from t pivot (sum(x) for y in ('a') group by z)", {"t"}),
    ("select * from t asof join u on t.a >= u.a positional join v", {"t", "u", "v"}),
    ("select * from t, lateral (select t.x + u.x from u)", {"t", "u"}),
    ("select list_transform(l, lambda x: x + (select max(y) from u)) from t", {"t", "u"}),
    ("select row_number() over (partition by a order by b) r from t qualify r = 1", {"t"}),
    ("select * from range(3), generate_series(1, 2), unnest([1, 2]) u(x)", set()),
    ("select * from t, json_each(t.j), json_tree('{}'), repeat('x', 2), repeat_row(1, num_rows = 2)", {"t"}),
    ("select s.upper(), t.s.upper().left(2) from t", {"t"}),
    ("select [x for x in l if x > 1], {'a': 1}.a, map {'k': 1}, x::decimal(5, 2)[] from t", {"t"}),
    ("select extract(year from d), d at time zone 'UTC', s similar to 'a', s not ilike 'b' from t", {"t"}),
    ("select percentile_cont(0.5) within group (order by x), mode(y) from t group by rollup (a)", {"t"}),
    ("select distinct on (a) * exclude (b) replace (1 as c) from t order by all limit 5 offset 2", {"t"}),
    ("select * from t tablesample 10%", {"t"}),
    ("select ?, $2", set()),
    ("from PG_class, (with x as (from duckdb_settings) from x)", {"pg_class", "duckdb_settings"}),
    (
        "with x as (from pg_class) select (select max(a) from sqlite_master) from x, x pg_stats",
        {"pg_class", "sqlite_master"},
    ),
    ("select count(*) filter (where x), sum(distinct y), string_agg(s, ',' order by z) from t", {"t"}),
]


@pytest.mark.parametrize(("sql", "tables"), READS)
def test_a_statement_reads_the_tables_that_are_not_its_own_subqueries(
    engine: Engine, sql: str, tables: set[str]
) -> None:
    verdict = _verdict(engine, sql)
    assert (verdict.tables, verdict.code) == (tables, "")
    assert {use.table for use in verdict.uses} >= tables


FORBIDDEN = [
    ("select 1; select 2", "One statement"),
    ("create table x (i int)", "Only a single SELECT"),
    ("explain select 1", '"explain": true'),
    ("with x as (insert into t values (1) returning *) select * from x", "Only a single SELECT"),
    ("pivot t on x using sum(y)", "listed by IN"),
    ("describe t", "DESCRIBE"),
    ("select * from (show tables)", "SHOW"),
    ("select * from main.t", "without a catalog or schema"),
    ("select * from a.b.c", "without a catalog or schema"),
    ("select * from t, t.items", "without a catalog or schema"),
    ("from 'x.csv'", "letters, digits"),
    ('from "ünicode"', "letters, digits"),
    (f"from {'t' * 64}", "letters, digits"),
    ('with "DUCKDB_views" as (select 1) select 1', "belong to the system"),
    ("with recursive pg_x as (select 1 union all select 2 from pg_x) select 1", "belong to the system"),
    ("select * from (with pg_class as (select 1) select 1), pg_class", "belong to the system"),
    ("from t at (version => 1)", "snapshot_id"),
    ("from read_csv('x')", "read_csv"),
    ("from READ_CSV('x')", "READ_CSV"),
    ("select getenv('x')", "The function getenv is not allowed: it reaches files"),
    ("select s.getenv() from t", "getenv"),
    ("select system.abs(1)", "without a schema"),
    ("select pg_catalog.abs(1)", "without a schema"),
    ("select t.main.abs() from t", "without a schema"),
    ("from system.range(1)", "without a schema"),
    ("select query('select 1')", "runs SQL inside of SQL. Name the table"),
    ("from duckdb_tables()", "GET /v1/query/schema"),
    ("from iceberg_scan('x')", "Allowed are generate_series, json_each, json_tree, range"),
    ("/* ; */ -- x\n insert into t values (1)", "POST /v1/ingest"),
    ("update t set a = 1", "op upsert"),
    ("delete from t", "op delete"),
    ("create table x (i int)", "POST /v1/tables"),
    ("copy t to 'x'", "Accept chooses"),
    ("set threads = 1", "members of the request"),
    ("begin", "snapshot_id"),
    ("summarize t", "GET /v1/query/schema"),
    ("from (pivot t on x using sum(y))", "PIVOT t ON c IN ('a', 'b')"),
    ("from 'x.csv'", "Files are not read"),
    ("select GetEnv('x') over ()", "getenv"),
    ("select system.main.abs(1)", "without a schema"),
    ("select x::a.b from t", "without a schema"),
    ("select current_setting('x')", "current_setting"),
    ("select nextval('x')", "nextval"),
]


@pytest.mark.parametrize(("sql", "words"), FORBIDDEN)
def test_what_is_forbidden_is_named(engine: Engine, sql: str, words: str) -> None:
    verdict = _verdict(engine, sql)
    assert verdict.code == "QUERY_FORBIDDEN"
    assert words.lower() in verdict.message.lower()


@pytest.mark.parametrize(
    ("sql", "words"),
    [
        ("", "no statement"),
        ("-- nothing", "no statement"),
        ("selec 1", 'near "selec" (at character 1)'),
        ("select 1 fron t", "Syntax error"),
        ("select summ(x) from t", "no function summ; sum is similar"),
        ("select nosuch(x) over () from t", "no function nosuch."),
        ("select " + "(" * 20_000 + "1" + ")" * 20_000, "nested too deeply"),
        ("select " + "not " * 20_000 + "1", "nested too deeply"),
        (f"with {', '.join(f't{n} as (select 1)' for n in range(501))} select 1", "too many WITH"),
    ],
)
def test_what_cannot_be_read_is_invalid(engine: Engine, sql: str, words: str) -> None:
    verdict = _verdict(engine, sql)
    assert verdict.code == "QUERY_INVALID"
    assert words in verdict.message


@pytest.mark.parametrize("node", [{"type": "NEW_REF"}, {"class": "NEW_EXPRESSION"}, {"type": "COLUMN_DATA"}])
def test_a_kind_of_node_that_nobody_reviewed_is_refused(node: dict[str, str]) -> None:
    document = {"error": False, "statements": [{"node": {"type": "SELECT_NODE", "from_table": node}}]}
    assert judge(json.dumps(document), sql="").code == "QUERY_FORBIDDEN"


KEYS = st.text() | st.sampled_from(["type", "class", "cte_map", "map", "key", "value", "function_name", "table_name"])
LEAVES = st.none() | st.booleans() | st.integers() | st.text() | st.sampled_from(["BASE_TABLE", "RECURSIVE_CTE_NODE"])


@given(st.recursive(LEAVES, lambda inner: st.lists(inner) | st.dictionaries(KEYS, inner)))
def test_no_document_breaks_the_gate(tree: object) -> None:
    verdict = judge(json.dumps({"error": False, "statements": [{"node": tree}]}), sql="")
    assert verdict.code in ("", "QUERY_FORBIDDEN", "QUERY_INVALID")


LISTED = [
    Listed(kind=SCALAR, name="abs"),
    Listed(kind=SCALAR, name="getenv", refusal="it reaches the environment"),
    Listed(kind=TABLE, name="range"),
]


def test_the_list_of_functions_is_the_reviewed_one_of_this_duckdb() -> None:
    text = FUNCTIONS_FILE.read_text(encoding="utf-8")
    assert problems(text, shipped=installed(), version=DUCKDB_VERSION) == []


def test_what_a_new_duckdb_adds_is_refused_until_somebody_reviews_it() -> None:
    shipped = [
        Listed(kind=kind, name=name)
        for kind, name in ((SCALAR, "abs"), (SCALAR, "brandnew"), (SCALAR, "read_mail"), (TABLE, "range"))
    ]
    text = render(brought_up_to_date(LISTED, shipped=shipped), version="9.9.9")
    assert {function.name: function.refusal for function in parse(text)} == {
        "abs": "",
        "brandnew": UNREVIEWED,
        "read_mail": "it reaches files, the network, memory, the environment or secrets",
        "range": "",
    }
    assert problems(text, shipped=shipped, version="9.9.9") == ["The function brandnew is to be reviewed."]


@pytest.mark.parametrize(
    ("listed", "words"),
    [
        (LISTED[:2], "The table function range is not on the list"),
        ([*LISTED, Listed(kind=SCALAR, name="gone")], "DuckDB 9.9.9 has no function gone"),
        ([*LISTED[:1], Listed(kind=SCALAR, name="getenv"), *LISTED[2:]], "getenv is allowed, though it reaches"),
    ],
)
def test_a_list_that_does_not_fit_its_duckdb_is_noticed(listed: list[Listed], words: str) -> None:
    shipped = [Listed(kind=function.kind, name=function.name) for function in LISTED]
    assert problems(render(LISTED, version="9.9.9"), shipped=shipped, version="9.9.9") == []
    assert words in " ".join(problems(render(listed, version="9.9.9"), shipped=shipped, version="9.9.9"))
    assert (
        "not the sorted list for DuckDB 9.9.9"
        in problems(render(LISTED, version="1"), shipped=shipped, version="9.9.9")[0]
    )


def test_every_function_that_is_refused_has_its_reason() -> None:
    for kind in (SCALAR, TABLE):
        assert all(not refusal or refusal.startswith("it ") for refusal in reviewed(kind).values())


@pytest.mark.parametrize("name", ["sum", "+", "~~", "now", "list_transform", "row_number", "json_extract", "md5"])
def test_ordinary_functions_are_allowed(name: str) -> None:
    assert name in allowed(SCALAR)


@pytest.mark.parametrize(
    "name",
    ["getenv", "read_text", "current_setting", "nextval", "write_log", "pg_sleep", "json_serialize_sql", "setseed"],
)
def test_functions_with_an_outside_are_not_allowed(name: str) -> None:
    assert name not in allowed(SCALAR) | allowed(TABLE)


PATHS = [
    ("Binder Error: no column\n\nLINE 1: SELECT a FROM read_parquet(['/srv/t/x.parquet'])\n   ^", "select 1", "/srv"),
    ('Invalid Input Error: in file "/srv/lake/t/part-1.parquet": bad', "select 1", "/srv"),
    ("Conversion Error: in /var/lib/other/file", "select 1", "/var"),
]


@pytest.mark.parametrize(("text", "sql", "hidden"), PATHS)
def test_errors_hide_our_paths(text: str, sql: str, hidden: str) -> None:
    failure = failure_of(text, sql=sql, tenant_dir="/srv/lake/t/")
    assert failure.code == "QUERY_INVALID"
    assert hidden not in failure.message


def test_errors_do_not_advise_settings_that_are_locked() -> None:
    text = 'Invalid Input Error: More than one row.\n\nUse "SET scalar_subquery=false" to revert to previous behavior.'
    assert failure_of(text, sql="select 1", tenant_dir="/srv/t/").message == "Invalid Input Error: More than one row."
    deep = "Binder Error: Max expression depth limit of 250 exceeded. Use SET max_expression_depth TO x to increase it."
    assert failure_of(deep, sql="select 1", tenant_dir="/srv/t/").message == "The statement is nested too deeply."


def test_errors_keep_what_the_caller_wrote() -> None:
    sql = "select '/a/b/c'::int"
    text = "Conversion Error: Could not convert string '/a/b/c' to INT32\n\nLINE 1: select '/a/b/c'::int\n       ^"
    message = failure_of(text, sql=sql, tenant_dir="/srv/t/").message
    assert "'/a/b/c' to INT32" in message
    assert "LINE 1: select" in message


@pytest.mark.parametrize(
    ("text", "code", "retire"),
    [
        ("Out of Memory Error: failed to allocate", "QUERY_RESOURCES_EXCEEDED", True),
        ("Permission Error: cannot open", "QUERY_FORBIDDEN", False),
        ("IO Error: Could not open /srv/x", "DEPENDENCY_UNAVAILABLE", True),
        ("IO Error: Could not write all bytes", "QUERY_RESOURCES_EXCEEDED", True),
        ("INTERNAL Error: assertion", "QUERY_INVALID", True),
        ("something without a kind", "QUERY_INVALID", True),
        ('Catalog Error: Table with name x does not exist!\nDid you mean "pg_am"?', "QUERY_INVALID", False),
    ],
)
def test_errors_have_a_code_and_a_consequence(text: str, code: str, retire: bool) -> None:
    failure = failure_of(text, sql="select 1", tenant_dir="/srv/t/")
    assert (failure.code, failure.retire) == (code, retire)
    assert "pg_am" not in failure.message
    assert "/srv" not in failure.message


@pytest.mark.parametrize("value", [2**128, -(2**127) - 1, "\ud800", {"a": 1}, [[{"a": 1}]]])
def test_a_parameter_that_cannot_be_bound_is_named(value: object) -> None:
    with pytest.raises(StatementError) as refused:
        params_of({"p": value})
    assert "The parameter p" in refused.value.failure.message
