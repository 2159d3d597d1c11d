"""TPC-H at scale 0.1: data that came over HTTP answer all 22 queries, in every form, before and after compaction.

The data and the answers are those of DuckDB's own extension.
"""

import csv
import io
import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from duckmesh.devstack.http import Answer
from tests.acceptance.caller import Caller
from tests.stack import Stack
from tests.tpch import QUESTIONS, Tpch, make_tpch

JSON = "application/json"
ARROW, PARQUET = "application/vnd.apache.arrow.stream", "application/vnd.apache.parquet"
ROWS_PER_BODY = 20_000
FILES = 31  # of lineitem, which has 600,572 rows
Rows = Sequence[Sequence[Any]]
Read = Callable[[bytes], tuple[Sequence[str], Rows]]


@pytest.fixture(scope="module")
def tpch() -> Tpch:
    return make_tpch()


@pytest.fixture(scope="module")
def tables(contract_stack: Stack, tpch: Tpch) -> Iterator[Tpch]:
    """The tables are there, and each body has become a file."""
    caller = Caller(contract_stack.base_url, contract_stack.key)
    for name, rows in tpch.tables.items():
        caller.create(tpch.columns[name], name=name, required=list(tpch.columns[name]))
        for number, start in enumerate(range(0, rows.num_rows, ROWS_PER_BODY)):
            kind, write = (ARROW, arrow) if number % 2 else (PARQUET, parquet)
            body = write(rows.slice(start, ROWS_PER_BODY))
            sent = caller.send(name, body, headers={"Content-Type": kind}, query="?wait_for_visibility=true")
            assert (sent.status, sent.json().get("status")) == (200, "visible"), sent.body
    yield tpch
    for name in tpch.tables:
        assert caller.call("DELETE", f"/v1/tables/{name}").status == 204
    caller.close()


@pytest.fixture(scope="module", params=["as it came", pytest.param("compacted", marks=pytest.mark.long)])
def asker(request: pytest.FixtureRequest, contract_stack: Stack, tables: Tpch) -> Iterator[Caller]:
    """Whoever asks while the tables consist of many files, or of few."""
    caller = Caller(contract_stack.base_url, contract_stack.key)
    if request.param == "compacted":
        for name in tables.tables:
            done = contract_stack.manage("compact", "--tenant", contract_stack.tenant, "--table", name, "--full")
            assert done.returncode == 0, done.stderr
    files = caller.query("SELECT sum(l_quantity) FROM lineitem")["stats"]["scanned_files"]
    assert files == 1 if request.param == "compacted" else files == FILES
    yield caller
    caller.close()


def arrow(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer:
        writer.write_table(table)
    return sink.getvalue()


def parquet(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue()


def read_json(body: bytes) -> tuple[Sequence[str], Rows]:
    document = json.loads(body)
    assert not document["truncated"]
    return document["columns"], document["rows"]


def read_table(table: pa.Table) -> tuple[Sequence[str], Rows]:
    return table.column_names, list(zip(*(column.to_pylist() for column in table.columns), strict=True))


def read_csv(body: bytes) -> tuple[Sequence[str], Rows]:
    head, *rows = csv.reader(io.StringIO(body.decode(), newline=""))
    return head, rows


def read_lines(body: bytes) -> tuple[Sequence[str], Rows]:
    rows = [json.loads(line) for line in body.splitlines()]
    return list(rows[0]), [list(row.values()) for row in rows]


FORMS: dict[str, Read] = {
    JSON: read_json,
    ARROW: lambda body: read_table(pa.ipc.open_stream(body).read_all()),
    PARQUET: lambda body: read_table(pq.read_table(io.BytesIO(body))),
    "text/csv": read_csv,
    "application/x-ndjson": read_lines,
}


@pytest.mark.parametrize("number", QUESTIONS)
@pytest.mark.parametrize(
    "form", [JSON, *(pytest.param(form, marks=pytest.mark.long) for form in FORMS if form != JSON)]
)
def test_answer_is_right(asker: Caller, tpch: Tpch, form: str, number: int) -> None:
    question = tpch.questions[number]
    answer: Answer = asker.call("POST", "/v1/query", {"sql": question.sql}, {"Accept": form})
    assert answer.status == 200, answer.body
    columns, rows = FORMS[form](answer.body)
    assert question.is_answered_by(columns, rows), (columns, rows, question)
