"""CONTRACT.md, section 5: a statement is DuckDB's SQL over the tenant's tables, and can reach nothing else."""

from typing import Any

import pytest

from tests.acceptance.caller import Caller
from tests.stack import Stack


@pytest.fixture(scope="module")
def t(contract_stack: Stack) -> str:
    """The name of a table with the rows (0, 'a', 0.0) to (5, 'b', 2.5)."""
    caller = Caller(contract_stack.base_url, contract_stack.key)
    table = caller.create({"id": "int64", "g": "string", "v": "float64"})
    caller.ingest(table, *({"payload": {"id": n, "g": "ab"[n % 2], "v": n / 2}} for n in range(6)), wait=True)
    caller.close()
    return table


ANSWERED: list[tuple[str, list[list[Any]]]] = [
    ("SELECT 1;", [[1]]),
    ("-- a comment\nSELECT /* another */ 1", [[1]]),
    ("VALUES (1, 'x'), (2, 'y')", [[1, "x"], [2, "y"]]),
    ("FROM {t} SELECT max(id)", [[5]]),
    ("TABLE {t} ORDER BY ID LIMIT 1", [[0, "a", 0.0]]),
    ("SELECT a.id, b.id FROM {t} a JOIN {t} b ON b.id = a.id + 4 ORDER BY 1", [[0, 4], [1, 5]]),
    ("SELECT a.id FROM {t} a LEFT JOIN {t} b ON b.id = a.id + 1 WHERE b.id IS NULL", [[5]]),
    ("SELECT a.id FROM {t} a ANTI JOIN {t} b ON a.id = b.id * 2 ORDER BY 1", [[1], [3], [5]]),
    ("SELECT b.id FROM (SELECT 2.5 AS x) a ASOF JOIN {t} b ON a.x >= b.id", [[2]]),
    ("WITH x AS (SELECT * FROM {t} WHERE id > 3), y AS (FROM x) SELECT count(*) FROM y", [[2]]),
    ("WITH {t} AS (SELECT 7 AS id) SELECT id FROM {t}", [[7]]),
    ("WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r WHERE n < 5) SELECT sum(n)::INT FROM r", [[15]]),
    ("SELECT id FROM {t} QUALIFY row_number() OVER (PARTITION BY g ORDER BY id DESC) = 1 ORDER BY id", [[4], [5]]),
    ("SELECT id, lag(id) OVER (ORDER BY id) FROM {t} ORDER BY id LIMIT 2", [[0, None], [1, 0]]),
    ("PIVOT (SELECT g, v FROM {t}) ON g IN ('a', 'b') USING sum(v)", [[3.0, 4.5]]),
    ("FROM (SELECT g, v FROM {t}) PIVOT (sum(v) FOR g IN ('a', 'b'))", [[3.0, 4.5]]),
    ("UNPIVOT (SELECT 1 AS a, 2 AS b) ON a, b", [["a", 1], ["b", 2]]),
    ("SELECT list_transform([1, 2], lambda x: x * 2), list_filter([1, 2], x -> x > 1)", [[[2, 4], [2]]]),
    ("SELECT [x * 2 FOR x IN [1, 2, 3] IF x > 1]", [[[4, 6]]]),
    ("SELECT g, count(*) FROM {t} GROUP BY ALL ORDER BY ALL", [["a", 3], ["b", 3]]),
    ("SELECT g, count(*) FROM {t} GROUP BY ROLLUP (g) ORDER BY ALL NULLS LAST", [["a", 3], ["b", 3], [None, 6]]),
    ("SELECT count(*) FILTER (WHERE id > 3), string_agg(g, ',' ORDER BY id) FROM {t}", [[2, "a,b,a,b,a,b"]]),
    ("SELECT DISTINCT ON (g) g, id FROM {t} ORDER BY g, id", [["a", 0], ["b", 1]]),
    ("SELECT * EXCLUDE (v) REPLACE (id + 1 AS id) FROM {t} ORDER BY id LIMIT 1", [[1, "a"]]),
    ("SELECT id FROM {t} WHERE id < 2 UNION SELECT 9 EXCEPT SELECT 0 ORDER BY 1", [[1], [9]]),
    ("SELECT (SELECT max(b.id) FROM {t} b WHERE b.g = a.g) FROM {t} a WHERE id = 0", [[4]]),
    ("SELECT EXISTS (FROM {t} WHERE id = 99), 3 IN (SELECT id FROM {t})", [[False, True]]),
    ("SELECT * FROM range(2), generate_series(1, 1)", [[0, 1], [1, 1]]),
    ("SELECT unnest([1, 2]) AS x ORDER BY x", [[1], [2]]),
    ("SELECT '{{\"a\": [1, 2]}}'::JSON ->> '$.a[1]'", [["2"]]),
    ("SELECT median(v), quantile_cont(v, 0.5), approx_count_distinct(g) FROM {t}", [[1.25, 1.25, 2]]),
    ("SELECT date_trunc('month', TIMESTAMP '2024-02-29 12:00:00')", [["2024-02-01T00:00:00Z"]]),
    ("SELECT regexp_replace('abc', 'b', 'x'), upper('é'), 'a' ILIKE 'A'", [["axc", "É", True]]),
    ('SELECT "ID", {t}.g FROM {t} WHERE ID = 1', [[1, "b"]]),
    ("SELECT * FROM {t} WHERE false", []),
]


@pytest.mark.parametrize(("sql", "rows"), ANSWERED, ids=[sql[:50] for sql, _ in ANSWERED])
def test_ordinary_sql_is_answered(demo: Caller, t: str, sql: str, rows: list[list[Any]]) -> None:
    assert demo.rows(sql.format(t=t)) == rows


FORBIDDEN = [
    *("SHOW TABLES", "DESCRIBE {t}", "SUMMARIZE {t}", "EXPLAIN SELECT 1", "EXPLAIN ANALYZE SELECT 1"),
    *("PRAGMA version", "PRAGMA table_info({t})", "CALL pragma_version()", "SET threads = 1", "RESET threads"),
    *("SET VARIABLE x = 1", "USE memory", "ATTACH 'x.db'", "DETACH memory", "LOAD httpfs", "INSTALL httpfs"),
    *("COPY {t} TO 'x.csv'", "COPY (SELECT 1) TO '/tmp/x'", "COPY {t} FROM 'x.csv'", "EXPORT DATABASE 'x'"),
    *("INSERT INTO {t} VALUES (1)", "UPDATE {t} SET id = 1", "DELETE FROM {t}", "TRUNCATE {t}", "DROP TABLE {t}"),
    *("CREATE TABLE x AS SELECT 1", "CREATE VIEW x AS SELECT 1", "CREATE MACRO f(x) AS x", "CREATE SECRET (TYPE S3)"),
    *("ALTER TABLE {t} ADD COLUMN x INT", "BEGIN", "COMMIT", "CHECKPOINT", "VACUUM", "PREPARE p AS SELECT 1"),
    *("SELECT 1; SELECT 2", "SELECT 1; DROP TABLE {t}", "WITH x AS (DELETE FROM {t} RETURNING *) FROM x"),
    *("FROM 'x.csv'", "FROM '/etc/passwd'", "FROM read_csv('/etc/passwd')", "FROM read_text('/etc/passwd')"),
    *(
        "FROM read_parquet('s3://b/k')",
        "FROM glob('*')",
        "FROM read_json('http://127.0.0.1/')",
        "FROM query('SELECT 1')",
    ),
    *("FROM query_table('{t}')", "FROM duckdb_settings()", "FROM duckdb_tables", "FROM pg_catalog.pg_class"),
    *(
        "FROM information_schema.tables",
        "FROM pg_tables",
        "FROM sqlite_master",
        "FROM main.{t}",
        "FROM memory.main.{t}",
    ),
    *("SELECT getenv('HOME')", "SELECT current_setting('threads')", "SELECT version()", "SELECT nextval('x')"),
    *("WITH pg_class AS (SELECT 1) FROM pg_class", "SELECT (SELECT count(*) FROM pg_class)"),
]


@pytest.mark.parametrize("sql", FORBIDDEN)
def test_what_is_not_a_query_of_the_tenants_tables_is_forbidden(demo: Caller, t: str, sql: str) -> None:
    before = demo.query("SELECT 1")["snapshot_id"]
    demo.refused(403, "QUERY_FORBIDDEN", sql.format(t=t))
    assert demo.query(f"SELECT count(*) FROM {t}", snapshot_id=before)["rows"] == [[6]]


@pytest.mark.parametrize(
    ("sql", "words"),
    [
        ("", "no statement"),
        (" ; -- nothing", "no statement"),
        ("SELEC 1", "character 1"),
        ("SELECT FROM", "Syntax error"),
        ("SELECT nope FROM {t}", "nope"),
        ("SELECT 'x'::INT", "'x'"),
        ("SELECT id FROM {t} GROUP BY g", "GROUP BY"),
        ("SELECT 1 + 'a'", "'a'"),
        ("SELECT 9223372036854775807::BIGINT + 1::BIGINT", "Overflow"),
        ("SELECT " + "NOT " * 15_000 + "true", "nested"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_mistake_in_a_statement_is_told(demo: Caller, t: str, sql: str, words: str) -> None:
    assert words in demo.refused(400, "QUERY_INVALID", sql.format(t=t))["message"]


def test_a_table_that_does_not_exist_is_named(demo: Caller) -> None:
    assert demo.refused(404, "TABLE_NOT_FOUND", "FROM nope")["context"]["table_name"] == "nope"
