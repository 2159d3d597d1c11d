"""CONTRACT.md, section 5, "By Accept": whole results in other forms, over the real server, ended well or not at all."""

import contextlib
import http.client
import io
import json
import threading
import time
from collections.abc import Iterator
from urllib.parse import urlsplit

import duckdb
import psutil
import pytest
from pyarrow import ipc, parquet

from tests.acceptance.caller import Caller, problem_of
from tests.stack import Stack

ARROW, PARQUET = "application/vnd.apache.arrow.stream", "application/vnd.apache.parquet"
CSV, NDJSON = "text/csv", "application/x-ndjson"
FORMS = (ARROW, PARQUET, CSV, NDJSON)
FOREVER = "SELECT sum(a.range * b.range) FROM range(10_000_000) a, range(10_000_000) b"
ENDLESS = "SELECT a.range AS a, b.range AS b FROM range(10_000_000) a, range(10_000_000) b"
# Plenty of rows at once, then seconds without any.
SLOW_LATER = (
    "SELECT i, CASE WHEN i < 300_000 THEN '' ELSE md5(repeat('x', 50_000 + i % 2)) END AS h FROM range(1_000_000) r(i)"
)
# The conversion fails in the middle: much has been sent before.
LATE_ERROR = "SELECT (CASE WHEN i = 3_000_000 THEN 'x' ELSE i::VARCHAR END)::BIGINT AS n FROM range(5_000_000) r(i)"


@contextlib.contextmanager
def asked(
    stack: Stack, sql: str, accept: str, *, address: str = "127.0.0.1", **members: object
) -> Iterator[http.client.HTTPConnection]:
    """The question is sent, nothing of the answer is read; the client hangs up at the end of the block."""
    netloc = urlsplit(stack.base_url).netloc
    connection = http.client.HTTPConnection(netloc, timeout=60, source_address=(address, 0))
    headers = {"Authorization": f"Bearer {stack.key}", "Content-Type": "application/json", "Accept": accept}
    with contextlib.closing(connection):
        connection.request("POST", "/v1/query", json.dumps({"sql": sql, **members}), headers)
        yield connection


def runner_seconds(stack: Stack) -> float:
    """The processor time that living runners have used."""
    used = 0.0
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            command = " ".join(process.cmdline())
            if "query.zygote" in command and str(stack.home.root) in command:
                times = process.cpu_times()
                used += times.user + times.system
    return used


def seconds_until_idle(stack: Stack) -> float:
    """How long it takes until no runner computes any more."""
    started = time.monotonic()
    while True:
        before, at = runner_seconds(stack), time.monotonic()
        time.sleep(0.1)
        if runner_seconds(stack) <= before:
            return at - started
        assert time.monotonic() - started < 15, "the runners go on"


def last_outcome(stack: Stack, outcome: str) -> bool:
    """Some query has ended so."""
    with stack.api() as api:
        metrics = api.call("GET", "/v1/metrics").body.decode()
    return f'duckmesh_query_requests_total{{outcome="{outcome}"}}' in metrics


@pytest.fixture(scope="module")
def flights(contract_stack: Stack) -> str:
    """A table of 1,000 rows."""
    caller = Caller(contract_stack.base_url, contract_stack.key)
    table = caller.create({"id": "int64", "price": "decimal(10,2)", "at": "timestamp", "name": "string"})
    rows = [
        {"id": n, "price": f"{n}.25", "at": "2024-01-01T00:00:00Z", "name": "" if n % 7 == 0 else f"n{n}"}
        for n in range(1_000)
    ]
    caller.ingest(table, *({"payload": row} for row in rows), wait=True)
    caller.close()
    return table


def test_each_form_holds_the_same_rows(demo: Caller, flights: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    directory = tmp_path_factory.mktemp("answers")
    body = {"sql": f"SELECT * FROM {flights} ORDER BY id"}
    expected = demo.query(body["sql"])
    sums = []
    for accept in FORMS:
        found = demo.call("POST", "/v1/query", body, {"Accept": accept})
        assert found.status == 200, found.body
        assert found.headers["content-type"].split(";")[0] == accept
        assert found.headers["x-duckmesh-snapshot-id"] == str(expected["snapshot_id"])
        assert found.headers["x-duckmesh-visibility-token"] == str(expected["max_visibility_token"])
        path = directory / accept.replace("/", "_")
        path.write_bytes(found.body)
        source = {
            ARROW: "arrived",
            PARQUET: f"read_parquet('{path}')",
            CSV: f"read_csv('{path}', allow_quoted_nulls = false)",
            NDJSON: f"read_json('{path}', format = 'newline_delimited')",
        }[accept]
        with duckdb.connect() as connection:
            if accept == ARROW:
                connection.register("arrived", ipc.open_stream(found.body).read_all())
            sql = (
                f'SELECT count(*), sum(id), sum(price::DECIMAL(10, 2)), max("at"::TIMESTAMP), count(name) FROM {source}'
            )
            sums.append(connection.execute(sql).fetchall())
    assert sums[0][0][0] == len(expected["rows"]) == 1_000
    assert sums == [sums[0]] * len(FORMS)


def test_result_beyond_ten_thousand_rows_is_whole(demo: Caller) -> None:
    body = {"sql": "SELECT range AS n FROM range(500_000)"}
    assert len(demo.query(body["sql"])["rows"]) == 10_000
    streamed = demo.call("POST", "/v1/query", body, {"Accept": ARROW})
    assert ipc.open_stream(streamed.body).read_all().num_rows == 500_000
    assert "x-duckmesh-truncated" not in streamed.headers
    cut = demo.call("POST", "/v1/query", {**body, "row_limit": 200_000}, {"Accept": PARQUET})
    assert parquet.read_table(io.BytesIO(cut.body)).num_rows == 200_000
    assert cut.headers["x-duckmesh-truncated"] == "true"


def test_duckdb_reads_the_arrow_answer_as_it_comes(contract_stack: Stack) -> None:
    """As README and docs/query.md show it."""
    with asked(contract_stack, "SELECT i, i / 2 AS half FROM range(500_000) r(i)", ARROW) as connection:
        answer = connection.getresponse()
        found = duckdb.from_arrow(ipc.open_stream(answer)).aggregate("count(*), sum(i), max(half)").fetchall()
    assert found == [(500_000, 124_999_750_000, 249_999.5)]


@pytest.mark.long
@pytest.mark.parametrize("accept", [ARROW, CSV])
def test_big_answer_to_a_slow_client_is_held_by_nobody(contract_stack: Stack, accept: str) -> None:
    sql = "SELECT i, md5(i::VARCHAR) AS a, md5((i + 1)::VARCHAR) AS b FROM range(14_000_000) r(i)"
    with asked(contract_stack, sql, accept, timeout_ms=300_000) as connection:
        response = connection.getresponse()
        size = len(response.read(2**20))
        before = most = resident(contract_stack)
        time.sleep(3)
        assert seconds_until_idle(contract_stack) < 1, "the runner does not wait for the client"
        while piece := response.read(2**22):
            size += len(piece)
            most = max(most, resident(contract_stack))
    assert size > 2**30 * 0.95
    assert most - before < 100 * 2**20


def api_processes(stack: Stack) -> Iterator[psutil.Process]:
    """The server and what it has started."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            command = " ".join(process.cmdline())
            if "granian" in command and f"--port {stack.port}" in command:
                yield process
                yield from process.children(recursive=True)


def resident(stack: Stack) -> int:
    """The memory of the largest process of the API."""
    return max(process.memory_info().rss for process in api_processes(stack))


def open_files(stack: Stack) -> int:
    """How many files the processes of the API hold."""
    return sum({process.pid: process.num_fds() for process in api_processes(stack)}.values())


def test_what_goes_wrong_before_the_first_byte_is_a_problem(demo: Caller) -> None:
    for body, status, code in (
        ({"sql": "SELECT * FROM nothing"}, 404, "TABLE_NOT_FOUND"),
        ({"sql": "SELECT 'x'::INT"}, 400, "QUERY_INVALID"),
        ({"sql": FOREVER, "timeout_ms": 500}, 504, "QUERY_TIMEOUT"),
    ):
        problem_of(demo.call("POST", "/v1/query", body, {"Accept": ARROW}), status, code)
    problem_of(demo.call("POST", "/v1/query", {"sql": "SELECT 1"}, {"Accept": "text/html"}), 406, "NOT_ACCEPTABLE")


@pytest.mark.parametrize("accept", FORMS)
def test_answer_that_breaks_off_is_not_ended(contract_stack: Stack, demo: Caller, accept: str) -> None:
    with asked(contract_stack, LATE_ERROR, accept) as connection:
        response = connection.getresponse()
        assert response.status == 200
        with pytest.raises(http.client.IncompleteRead) as broken:
            response.read()
    assert len(broken.value.partial) > 1_000_000
    assert demo.query("SELECT 1")["rows"] == [[1]]


def test_only_the_answer_that_breaks_off_is_cut(contract_stack: Stack) -> None:
    """Several answers go to one address at once, all begun while the others were; the good ones end well."""
    good = "SELECT i AS n FROM range(3_000_000) r(i)"
    ended: dict[int, bool] = {}
    ready = threading.Barrier(4)

    def read(number: int, sql: str) -> None:
        ready.wait()
        with asked(contract_stack, sql, ARROW) as connection:
            try:
                ended[number] = ipc.open_stream(connection.getresponse().read()).read_all().num_rows == 3_000_000
            except http.client.IncompleteRead:
                ended[number] = False

    threads = [threading.Thread(target=read, args=(number, LATE_ERROR if number == 3 else good)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ended == {0: True, 1: True, 2: True, 3: False}


def test_deadline_cuts_an_answer_that_is_being_sent(contract_stack: Stack) -> None:
    started = time.monotonic()
    with asked(contract_stack, SLOW_LATER, NDJSON, timeout_ms=2_000) as connection:
        response = connection.getresponse()
        with pytest.raises(http.client.IncompleteRead):
            response.read()
    assert time.monotonic() - started < 6


def test_deadline_cuts_an_answer_that_nobody_takes(contract_stack: Stack) -> None:
    with asked(contract_stack, ENDLESS, ARROW, timeout_ms=1_500) as connection:
        response = connection.getresponse()
        assert response.read(10)
        time.sleep(2.5)
        assert seconds_until_idle(contract_stack) < 1
        with pytest.raises(http.client.IncompleteRead):
            response.read()


@pytest.mark.parametrize("accept", [ARROW, "application/json"])
def test_client_that_hangs_up_before_the_answer_stops_its_query(
    contract_stack: Stack, demo: Caller, accept: str
) -> None:
    demo.query("SELECT 1")  # another connection is kept alive
    with asked(contract_stack, FOREVER, accept, timeout_ms=60_000):
        time.sleep(0.5)
        assert runner_seconds(contract_stack) > 0
    assert seconds_until_idle(contract_stack) < 1
    assert last_outcome(contract_stack, "CLIENT_GONE")
    assert demo.query("SELECT 1")["rows"] == [[1]]


@pytest.mark.parametrize("sql", [ENDLESS, SLOW_LATER], ids=["while it is sent", "while it waits for rows"])
def test_client_that_hangs_up_in_the_middle_stops_its_query(contract_stack: Stack, demo: Caller, sql: str) -> None:
    with asked(contract_stack, sql, CSV, timeout_ms=60_000) as connection:
        response = connection.getresponse()
        assert response.read(1_000)
        time.sleep(0.5)
        response.close()
    assert seconds_until_idle(contract_stack) < 1
    assert demo.query("SELECT 1")["rows"] == [[1]]


@pytest.mark.long
def test_clients_that_come_and_go_leave_nothing_behind(contract_stack: Stack, demo: Caller) -> None:
    def come_and_go(times: int) -> None:
        for number in range(times):
            with asked(contract_stack, ENDLESS, FORMS[number % 4], timeout_ms=60_000) as connection:
                response = connection.getresponse()
                assert response.read(1_000)
                response.close()

    come_and_go(8)
    assert demo.query("SELECT 1")["rows"] == [[1]]
    before = open_files(contract_stack)
    come_and_go(40)
    assert demo.query("SELECT 1")["rows"] == [[1]]
    assert seconds_until_idle(contract_stack) < 1
    assert open_files(contract_stack) <= before + 8  # runners that are kept, and threads of the pool
