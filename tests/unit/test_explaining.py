"""The text of a plan: what a reader can use, and nothing of how a table is put together."""

from collections.abc import Iterator
from pathlib import Path

import duckdb
import pytest

from query.explaining import plan_text
from storage.keyed import latest_sql


@pytest.fixture
def keyed(tmp_path: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect() as connection:
        for name in ("folded", "fresh"):
            connection.execute(
                "COPY (SELECT range AS k, 'v' || range AS v, range AS _duckmesh_token, 0::TINYINT AS _duckmesh_op"
                f" FROM range(10)) TO '{tmp_path}/{name}.parquet'"
            )
        shown = latest_sql(
            folded=f"read_parquet('{tmp_path}/folded.parquet')",
            fresh=f"read_parquet('{tmp_path}/fresh.parquet')",
            columns=["k", "v"],
            key=["k"],
        )
        connection.execute(f"CREATE VIEW t AS {shown}")
        yield connection


def test_plan_of_a_keyed_table_names_no_column_of_ours_and_no_file(
    keyed: duckdb.DuckDBPyConnection, tmp_path: Path
) -> None:
    row = keyed.execute("EXPLAIN (FORMAT JSON) SELECT v, count(*) FROM t WHERE k > 3 GROUP BY v LIMIT 2").fetchone()
    assert row is not None
    text = plan_text(row[1])
    assert "filters: k>3" in text
    assert "aggregates: count_star()" in text
    assert not any(told in text for told in ("_duckmesh", str(tmp_path), "WINDOW", "PARQUET"))


def test_plan_shows_what_reads_what_by_its_indentation() -> None:
    document = (
        '[{"name": "HASH_JOIN ", "extra_info": {"Join Type": "INNER", "Path": "/x"}, "children": ['
        '{"name": "A", "extra_info": {}, "children": []}, {"name": "B", "extra_info": {"Top": "3"}, "children": []}]}]'
    )
    assert plan_text(document) == "HASH_JOIN\n    join: INNER\n  A\n  B\n      top: 3\n"
