"""What a DuckDB user expects to run answers over HTTP as bare DuckDB does over the same rows."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import duckdb
import pytest
from pyarrow import ipc

from tests.acceptance.caller import Caller
from tests.sql_tables import ARROW, bare_duckdb, fill, shown
from tests.stack import Stack

CORPUS = Path(__file__).resolve().parents[1] / "data" / "sql_corpus.txt"
STATEMENTS = [line for line in CORPUS.read_text(encoding="utf-8").splitlines() if line and not line.startswith("# ")]


@pytest.fixture(scope="module")
def bare() -> Iterator[duckdb.DuckDBPyConnection]:
    with bare_duckdb() as connection:
        yield connection


@pytest.fixture(scope="module")
def analyst(contract_stack: Stack, bare: duckdb.DuckDBPyConnection) -> Iterator[Caller]:
    """A tenant whose tables have these names."""
    _, key = contract_stack.new_tenant()
    with closing(Caller(contract_stack.base_url, key)) as caller:
        fill(caller, bare)
        yield caller


def test_there_are_enough_statements() -> None:
    assert len(set(STATEMENTS)) >= 150


def test_what_a_duckdb_user_expects_is_answered_as_duckdb_does(
    analyst: Caller, bare: duckdb.DuckDBPyConnection
) -> None:
    wrong = []
    for sql in STATEMENTS:
        expected = shown(bare.execute(sql).to_arrow_table(), ordered="ORDER BY" in sql)
        answer = analyst.call("POST", "/v1/query", {"sql": sql}, {"Accept": ARROW})
        if answer.status != 200:
            wrong.append((sql, answer.status, answer.body[:300]))
            continue
        found = shown(ipc.open_stream(answer.body).read_all(), ordered="ORDER BY" in sql)
        if found != expected:
            wrong.append((sql, found, expected))
        document = analyst.query(sql)
        if len(document["rows"]) != len(expected[2]) or document["columns"] != expected[0]:
            wrong.append((sql, document, expected))
    assert not wrong, "\n".join(str(each)[:2_000] for each in wrong)
