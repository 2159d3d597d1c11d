"""The API as a real server with two processes: bodies on the wire, keys that end, and metrics of the whole instance."""

import http.client
import json
import time
from collections.abc import Iterable, Iterator, Mapping

import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from tests.stack import Stack

COLUMNS = {"columns": [{"name": "a", "type": "int64"}]}
RECORDS = json.dumps({"records": [{"payload": {"a": 1}}]}).encode()


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    settings = {"DUCKMESH_API_PROCESSES": "2", "DUCKMESH_MAX_BODY_BYTES": "1MiB", "DUCKMESH_HTTPS": "1"}
    with Stack(programs=("runners", "api"), settings=settings) as stack:
        table = json.dumps({"table_name": "t", "schema_json": COLUMNS}).encode()
        assert call(stack, "POST", "/v1/tables", table).status == 201
        yield stack


class Answer:
    """What came back."""

    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.status, self.headers, self.body = response.status, response.headers, response.read()


def call(
    stack: Stack,
    method: str,
    path: str,
    body: bytes | Iterable[bytes] | None = None,
    *,
    key: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> Answer:
    """One request over a connection of its own, so that any of the processes may answer."""
    sent = {"Authorization": f"Bearer {key or stack.key}", "Content-Type": "application/json", **(headers or {})}
    connection = http.client.HTTPConnection("127.0.0.1", stack.port, timeout=30)
    try:
        connection.request(method, path, body, sent, encode_chunked=not isinstance(body, bytes | None))
        return Answer(connection.getresponse())
    finally:
        connection.close()


def scraped(stack: Stack) -> list[Sample]:
    """The page of whichever process answers."""
    page = call(stack, "GET", "/v1/metrics").body.decode()
    return [sample for family in text_string_to_metric_families(page) for sample in family.samples]


def counted(stack: Stack) -> float:
    """Accepted ingest requests, as they are on the page."""
    return next(
        sample.value
        for sample in scraped(stack)
        if sample.name == "duckmesh_ingest_requests_total" and sample.labels == {"outcome": "accepted"}
    )


def test_a_body_without_a_length_is_read_to_its_end(stack: Stack) -> None:
    pieces = [RECORDS[:10], RECORDS[10:]]
    answer = call(stack, "POST", "/v1/ingest/t", pieces, headers={"Transfer-Encoding": "chunked"})
    assert (answer.status, json.loads(answer.body)["accepted_count"]) == (200, 1)


def test_who_sends_too_much_reads_why(stack: Stack) -> None:
    declared = call(stack, "POST", "/v1/ingest/t", RECORDS.ljust(8 * 2**20))
    streamed = (b" " * 2**16 for _ in range(128))
    chunked = call(stack, "POST", "/v1/ingest/t", streamed, headers={"Transfer-Encoding": "chunked"})
    for answer in (declared, chunked):
        assert (answer.status, json.loads(answer.body)["error_code"]) == (413, "PAYLOAD_TOO_LARGE")
    assert call(stack, "POST", "/v1/ingest/t", RECORDS.ljust(2**20)).status == 200


def test_a_head_request_gets_the_length_and_no_body(stack: Stack) -> None:
    full, head = call(stack, "GET", "/v1/health"), call(stack, "HEAD", "/v1/health")
    assert (head.status, head.body) == (200, b"")
    assert head.headers["Content-Length"] == full.headers["Content-Length"] == str(len(full.body))
    assert head.headers["X-Request-ID"]


def test_who_came_by_tls_is_told_to_stay_with_it_and_gets_secure_cookies(stack: Stack) -> None:
    for scheme, hsts in (("https", "max-age=31536000"), ("http", None), ("HTTPS://", None), (None, None)):
        headers = {"X-Forwarded-Proto": scheme} if scheme else {}
        answer = call(stack, "GET", "/admin/login/", headers=headers)
        assert (answer.status, answer.headers["Strict-Transport-Security"]) == (200, hsts)
        assert "; Secure" in answer.headers["Set-Cookie"]


def test_any_process_tells_the_metrics_of_all(stack: Stack) -> None:
    before = counted(stack)
    for _ in range(40):
        assert call(stack, "POST", "/v1/ingest/t", RECORDS).status == 200
    assert [counted(stack) - before for _ in range(10)] == [40] * 10


def test_no_counter_falls_when_a_process_is_killed_and_replaced(stack: Stack) -> None:
    before = counted(stack)
    for _ in range(20):
        assert call(stack, "POST", "/v1/ingest/t", RECORDS).status == 200
    for _ in range(2):
        victim = api_processes(stack)[0]
        victim.kill()
        victim.wait(10)
        assert counted(stack) - before == 20
        while len([process for process in api_processes(stack) if is_listening(process)]) < 2:
            time.sleep(0.05)
    assert [counted(stack) - before for _ in range(10)] == [20] * 10
    gauges = [sample for sample in scraped(stack) if "pid" in sample.labels]
    assert gauges == [], "what a process had set would be shown after its death"


def test_words_that_clients_make_up_make_no_series(stack: Stack) -> None:
    for number in range(3):
        call(stack, f"MADEUP{number}", "/v1/tables")
        call(stack, "GET", f"/v1/madeup{number}")
        call(stack, "GET", f"/v1/tables/madeup{number}")
    strange = [sample for sample in scraped(stack) if any("madeup" in word.lower() for word in sample.labels.values())]
    assert strange == []


def api_processes(stack: Stack) -> list[psutil.Process]:
    """The processes that answer requests."""
    return [child for child in psutil.Process(stack.pid("api")).children() if child.status() != psutil.STATUS_ZOMBIE]


def is_listening(process: psutil.Process) -> bool:
    """Whether the process has come so far that connections reach it."""
    return any(each.status == psutil.CONN_LISTEN for each in process.net_connections(kind="tcp"))


def test_a_key_that_is_revoked_elsewhere_ends_within_a_second_in_every_process(stack: Stack) -> None:
    made = stack.manage("create_api_key", stack.tenant, "--role", "table_admin", "--json")
    created = json.loads(made.stdout)
    for _ in range(20):
        assert call(stack, "GET", "/v1/tables", key=created["api_key"]).status == 200
    revoked = stack.manage("revoke_api_key", created["key_id"], "--json")
    assert (revoked.returncode, json.loads(revoked.stdout)["revoked"]) == (0, True)
    time.sleep(1)
    assert {call(stack, "GET", "/v1/tables", key=created["api_key"]).status for _ in range(20)} == {401}
