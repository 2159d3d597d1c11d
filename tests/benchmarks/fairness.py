"""Fifty dashboards of one tenant, alone and beside a tenant that sends bombs in a loop."""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from duckmesh.kernel.config import ROOT
from tests.benchmarks.ingest import make_table
from tests.benchmarks.load import Connection, Target, Timing, drive, ingest_bodies
from tests.benchmarks.report import Figure

_DASHBOARDS, _HOSTILE = 50, 16
_PAUSE = 0.25  # a dashboard asks again after a moment; a bomb is sent again at once
_STATEMENTS = (
    "SELECT kind, count(*) AS n, sum(amount) AS total FROM bench_fair GROUP BY kind ORDER BY total DESC",
    "SELECT date_trunc('minute', ts) AS minute, count(*) FROM bench_fair GROUP BY 1 ORDER BY 1 LIMIT 100",
    "SELECT user_id, max(amount) FROM bench_fair GROUP BY user_id ORDER BY 2 DESC LIMIT 20",
    "SELECT count(DISTINCT url) FROM bench_fair WHERE amount > 50",
)
_BOMBS = (
    ("SELECT count(*) FROM range(1000000000000) a", 3_000),
    ("SELECT length(repeat(repeat('x', 60000), 60000))", 3_000),
    ("SELECT count(*) FROM range(1000000) a, range(1000000) b WHERE a.range * b.range % 7 = 3", 3_000),
    ("WITH RECURSIVE t(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM t) SELECT max(n) FROM t", 700),
    ("SELECT i FROM (SELECT i, repeat(md5(i::VARCHAR), 20) AS h FROM range(3000000) t(i)) ORDER BY h", 3_000),
)
_BUSY = (429, 503)


def beside_a_hostile_tenant(target: Target) -> list[Figure]:
    """The p95 of 50 dashboards, each asking four queries in turn, without and with bombs beside it."""
    path = make_table(target, "bench_fair")
    drive(target, connections=1, work=ingest_bodies(first=0, requests=2, per_request=20_000, wait=True), path=path)
    asked = target.some(20)
    _dashboards(target, asked=max(1, asked // 4))
    alone = _dashboards(target, asked=asked)
    with _bombs(target) as sent:
        time.sleep(1)
        beside = _dashboards(target, asked=asked)
    return [
        Figure("50 dashboards alone: p95", alone.percentile(0.95), "ms"),
        Figure("… beside a tenant with bombs in a loop: p95", beside.percentile(0.95), "ms"),
        Figure(
            "… the second against the first",
            beside.percentile(0.95) / alone.percentile(0.95),
            "times",
            bar=2,
            lower_is_better=True,
        ),
        Figure("… bombs that were sent meanwhile", sum(sent), "requests"),
    ]


def _dashboards(target: Target, *, asked: int) -> Timing:
    """Latencies from the first attempt to the answer; whoever is told to wait does so."""
    latencies: list[float] = []
    errors: list[BaseException] = []
    lock = threading.Lock()

    def dashboard(number: int) -> None:
        connection = Connection(target)
        mine = []
        try:
            time.sleep(_PAUSE * number / _DASHBOARDS)
            for turn in range(asked):
                body = json.dumps({"sql": _STATEMENTS[(number + turn) % len(_STATEMENTS)]}).encode()
                started = time.perf_counter()
                _until_answered(connection, body)
                mine.append((time.perf_counter() - started) * 1_000)
                time.sleep(_PAUSE)
        except BaseException as exc:  # noqa: BLE001 - handed to the caller below
            errors.append(exc)
        with lock:
            latencies.extend(mine)

    begun = time.perf_counter()
    threads = [threading.Thread(target=dashboard, args=(number,)) for number in range(_DASHBOARDS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return Timing(seconds=time.perf_counter() - begun, latencies_ms=tuple(sorted(latencies)))


def _until_answered(connection: Connection, body: bytes) -> None:
    while "rows" not in connection.request("POST", "/v1/query", body, expect=(200, *_BUSY)):
        time.sleep(_PAUSE)


@contextmanager
def _bombs(target: Target) -> Iterator[list[int]]:
    """Another tenant's connections send one bomb after the other; how many each has sent."""
    hostile = Target(base_url=target.base_url, api_key=_key_of_another_tenant())
    end, sent = threading.Event(), [0] * _HOSTILE

    def send(number: int) -> None:
        connection = Connection(hostile)
        while not end.is_set():
            sql, timeout_ms = _BOMBS[(number + sent[number]) % len(_BOMBS)]
            body = json.dumps({"sql": sql, "timeout_ms": timeout_ms}).encode()
            connection.request("POST", "/v1/query", body, expect=(422, 504, *_BUSY))
            sent[number] += 1

    threads = [threading.Thread(target=send, args=(number,)) for number in range(_HOSTILE)]
    for thread in threads:
        thread.start()
    try:
        yield sent
    finally:
        end.set()
        for thread in threads:
            thread.join()


def _key_of_another_tenant() -> str:
    _manage("create_tenant", "bench_hostile", "--name", "Hostile")
    made = _manage("create_api_key", "bench_hostile", "--role", "query_reader", "--json")
    return str(json.loads(made)["api_key"])


def _manage(*arguments: str) -> str:
    command: Sequence[str] = [sys.executable, "manage.py", *arguments]
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
