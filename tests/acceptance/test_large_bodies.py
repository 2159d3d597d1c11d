"""A body of a gigabyte is one write, and the API takes it in without growing by more than a part of it."""

import http.client
import json
import random
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from urllib.parse import urlsplit

import psutil
import pytest

from tests.acceptance.caller import Caller, problem_of
from tests.stack import Stack

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]

MIB = 2**20
GROWTH = 400 * MIB
COLUMNS = {"id": "int64", "carrier": "string", "distance": "float64", "time_hour": "timestamp", "note": "string"}


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    with Stack(settings={"DUCKMESH_MAX_BODY_BYTES": "2GiB"}) as stack:
        yield stack


@pytest.fixture
def caller(stack: Stack) -> Iterator[Caller]:
    caller = Caller(stack.base_url, stack.key)
    yield caller
    caller.close()


def block_of_lines(seed: int) -> tuple[bytes, int]:
    """About a mebibyte of NDJSON, and how many lines it has."""
    rand = random.Random(seed)
    lines = [
        json.dumps(
            {
                "id": rand.getrandbits(60),
                "carrier": rand.choice(["UA", "AA", "B6", "DL"]),
                "distance": rand.randrange(10_000) / 8,
                "time_hour": f"2013-0{rand.randrange(1, 10)}-01T{rand.randrange(10, 24)}:00:00Z",
                "note": rand.randbytes(40).hex(),
            }
        )
        for _ in range(5_200)
    ]
    return ("\n".join(lines) + "\n").encode(), len(lines)


def api_processes(stack: Stack) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter(["cmdline"]):
        command = " ".join(process.info["cmdline"] or [])
        if "granian" in command and f"--port {stack.port}" in command:
            found += [process, *process.children(recursive=True)]
    assert len(found) > 1, "the server and its workers"
    return [*{process.pid: process for process in found}.values()]


class Peak:
    """The most memory that some processes had at one time, beyond what they had at first."""

    def __init__(self, processes: Sequence[psutil.Process]) -> None:
        self._processes = processes
        self._before = self._now()
        self.growth = 0

    def _now(self) -> int:
        return sum(process.memory_info().rss for process in self._processes)

    @contextmanager
    def watched(self) -> Iterator[None]:
        """The peak is of this block."""
        ended = threading.Event()

        def watch() -> None:
            while not ended.wait(0.01):
                self.growth = max(self.growth, self._now() - self._before)

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            yield
        finally:
            ended.set()
            watcher.join()


def send(stack: Stack, table: str, blocks: Iterator[bytes], *, length: int) -> tuple[int, dict[str, object]]:
    address = urlsplit(stack.base_url)
    connection = http.client.HTTPConnection(str(address.hostname), address.port, timeout=600)
    headers = {
        "Authorization": f"Bearer {stack.key}",
        "Content-Type": "application/x-ndjson",
        "Content-Length": str(length),
    }
    connection.request("POST", f"/v1/ingest/{table}", body=blocks, headers=headers)
    answer = connection.getresponse()
    status, document = answer.status, json.loads(answer.read())
    connection.close()
    return status, document


def test_a_gigabyte_of_lines_is_one_write_in_bounded_memory(stack: Stack, caller: Caller) -> None:
    table = caller.create(COLUMNS)
    caller.ingest(table, {"payload": {"id": 1}}, wait=True)
    blocks = [block_of_lines(seed) for seed in range(16)]
    chosen = [blocks[index % 16] for index in range(1 + 1024 * MIB // len(blocks[0][0]))]
    count, length = sum(lines for _, lines in chosen), sum(len(block) for block, _ in chosen)
    assert length > 1024 * MIB
    peak = Peak(api_processes(stack))
    with peak.watched():
        began = time.perf_counter()
        status, acknowledged = send(stack, table, (block for block, _ in chosen), length=length)
        took = time.perf_counter() - began
    print(f"{length / MIB:.0f} MiB, {count} lines in {took:.1f} s, API grew by {peak.growth / MIB:.0f} MiB")
    assert status == 200, acknowledged
    assert acknowledged["accepted_count"] == count
    assert peak.growth < GROWTH
    assert not [*(stack.home.root / "scratch").glob("spool-*")]

    deadline = time.monotonic() + 300
    while (rows := caller.query(f"SELECT count(*) FROM {table}"))["rows"] != [[count + 1]]:
        assert rows["rows"] == [[1]], "a part of the write is visible"
        assert time.monotonic() < deadline, "the write did not become visible"
        time.sleep(0.5)
    latest = int(rows["snapshot_id"])
    assert caller.rows(f"SELECT count(*) FROM {table}", snapshot_id=latest - 1) == [[1]]


def test_a_wrong_line_at_the_end_of_much_leaves_nothing(stack: Stack, caller: Caller) -> None:
    table = caller.create(COLUMNS)
    block, lines = block_of_lines(1)
    wrong = b'{"id":"x"}\n'
    status, problem = send(stack, table, iter([*[block] * 200, wrong]), length=200 * len(block) + len(wrong))
    assert (status, problem["error_code"]) == (400, "INVALID_RECORD")
    context = problem["context"]
    assert isinstance(context, dict)
    assert [(error["index"], error["line"]) for error in context["errors"]] == [(200 * lines, 200 * lines + 1)]
    assert not [*(stack.home.root / "scratch").glob("spool-*")]
    assert caller.ingest(table, {"payload": {"id": 1}}, wait=True)["visible_snapshot_id"]
    assert caller.rows(f"SELECT count(*) FROM {table}") == [[1]]


def test_a_line_of_a_hundred_megabytes_is_named_and_not_held(stack: Stack, caller: Caller) -> None:
    table = caller.create(COLUMNS)
    part = b"x" * MIB
    parts = [b'{"id":1}\n{"note":"', *[part] * 100, b'"}\n']
    peak = Peak(api_processes(stack))
    with peak.watched():
        status, problem = send(stack, table, iter(parts), length=sum(map(len, parts)))
    context = problem["context"]
    assert isinstance(context, dict)
    assert (status, context["errors"][0]["index"], context["errors"][0]["line"]) == (400, 1, 2)
    assert peak.growth < 100 * MIB


def test_a_json_request_is_bounded_on_its_own(caller: Caller) -> None:
    table = caller.create(COLUMNS)
    body = b'{"records": [' + b" " * (65 * MIB) + b'{"payload": {"id": 1}}]}'
    problem = problem_of(
        caller.send(table, body, headers={"Content-Type": "application/json"}), 413, "PAYLOAD_TOO_LARGE"
    )
    assert problem["context"] == {"limit_bytes": 64 * MIB}
