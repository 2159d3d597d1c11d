"""Each bound stops a statement soon after it is reached, with its own code, and leaves nothing behind."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from query.errors import QueryInvalid, QueryResourcesExceeded, QueryTimeout, RunnersUnavailable
from query.limits import MEMORY_HEADROOM
from query.pool import Pool
from tests.runners import ROOT, Lake, Zygote, ask, make_lake, make_pool, rows, running_zygote, start_zygote

MEMORY, SPILL = 64 * 2**20, 256 * 2**20
SOON = 0.25
SLOW_MACHINE = 0.5  # what a machine with other work to do may add
SORT = "SELECT max(h) AS h FROM (SELECT md5(i::VARCHAR) AS h FROM range(2500000) t(i) ORDER BY h OFFSET 5)"
WIDE = "SELECT i FROM (SELECT i, repeat(md5(i::VARCHAR), 20) AS h FROM range(30000000) t(i)) ORDER BY h"


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    return make_lake(tmp_path_factory.mktemp("lake"))


@pytest.fixture(scope="module")
def spill(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("spill") / "s"


def options(spill: Path) -> tuple[str, ...]:
    return ("--memory-bytes", str(MEMORY), "--spill-dir", str(spill), "--spill-bytes", str(SPILL))


@pytest.fixture(scope="module")
def zygote(spill: Path) -> Iterator[Zygote]:
    with running_zygote(*options(spill)) as zygote:
        yield zygote


@pytest.fixture
def pool(zygote: Zygote) -> Iterator[Pool]:
    pool = make_pool(zygote)
    yield pool
    pool.close()


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT count(*) FROM range(1000000000000) a",
        "SELECT count(*) FROM range(1000000) a, range(1000000) b WHERE a.range * b.range % 7 = 3",
        "WITH RECURSIVE t(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM t) SELECT max(n) FROM t",
        "WITH RECURSIVE t(n) AS (SELECT 1 UNION SELECT n + 1 FROM t) SELECT max(n) FROM t",
        "WITH RECURSIVE t(k, n) USING KEY (k) AS (SELECT 1, 1 UNION SELECT k, n + 1 FROM t) SELECT n FROM t",
        "SELECT count(*) FROM json_each((SELECT json_group_array(i) FROM range(3000) t(i))), range(10000000000)",
        "SELECT count(*) FROM repeat('x', 1000000000000)",
        "SELECT max(md5(i::VARCHAR)) FROM range(100000000000) t(i)",
        "SELECT * FROM range(100000000000) t(i) ORDER BY md5(i::VARCHAR) LIMIT 1",
    ],
)
def test_time(pool: Pool, lake: Lake, sql: str) -> None:
    ask(pool, lake, "SELECT 1")
    started = time.monotonic()
    with pytest.raises(QueryTimeout):
        ask(pool, lake, sql, seconds=0.7)
    assert time.monotonic() - started < 0.7 + SOON + SLOW_MACHINE


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT length(repeat(repeat('x', 60000), 60000))",
        "SELECT list(i) FROM range(300000000) t(i)",
        "SELECT string_agg(md5(i::VARCHAR), '') FROM range(100000000) t(i)",
        "SELECT [i FOR i IN range(500000000)]",
        "WITH RECURSIVE t(s) AS (SELECT 'x' UNION ALL SELECT s || s FROM t) SELECT max(length(s)) FROM t",
    ],
)
def test_memory(pool: Pool, lake: Lake, zygote: Zygote, sql: str) -> None:
    with most(lambda: largest(zygote)) as held, pytest.raises((QueryResourcesExceeded, QueryInvalid)):
        ask(pool, lake, sql)
    assert held[0] < MEMORY + MEMORY_HEADROOM
    assert rows(ask(pool, lake, "SELECT 1 AS one")) == [{"one": 1}]


def test_rows(pool: Pool, lake: Lake) -> None:
    started = time.monotonic()
    answer = ask(pool, lake, "SELECT * FROM range(100000000000)", row_limit=1_000)
    assert (answer.row_count, answer.truncated) == (1_000, True)
    assert time.monotonic() - started < SOON + SLOW_MACHINE


def test_result_bytes(pool: Pool, lake: Lake) -> None:
    ask(pool, lake, "SELECT 1")
    started = time.monotonic()
    with pytest.raises(QueryResourcesExceeded, match="larger than 1000000 bytes"):
        ask(pool, lake, "SELECT repeat('x', 1000) FROM range(100000000000)", row_limit=None, max_bytes=1_000_000)
    assert time.monotonic() - started < SOON + SLOW_MACHINE


def test_nesting(pool: Pool, lake: Lake) -> None:
    deep = f"SELECT * FROM {'(SELECT * FROM ' * 300}events{')' * 300}"
    parts = f"WITH {', '.join(f'c{n} AS (SELECT {n})' for n in range(400))} SELECT 1"
    for sql in (f"SELECT {'NOT ' * 10_000}true", deep, f"SELECT {'[' * 5_000}1{']' * 5_000}", parts):
        started = time.monotonic()
        with pytest.raises(QueryInvalid, match="nested too deeply"):
            ask(pool, lake, sql)
        assert time.monotonic() - started < SOON + SLOW_MACHINE


def test_what_does_not_fit_into_memory_is_sorted_joined_and_grouped_on_disk(
    pool: Pool, lake: Lake, spill: Path
) -> None:
    text = "SELECT i, md5(i::VARCHAR) AS h FROM range(1500000) t(i)"
    cases = {
        SORT: {"h": "fffffe98d0963d27015c198262d97221"},
        f"SELECT count(*) AS n FROM ({text}) a JOIN ({text}) b USING (h)": {"n": 1_500_000},
        f"SELECT count(*) AS n FROM (SELECT h, count(*) FROM ({text}) GROUP BY h)": {"n": 1_500_000},
    }
    for sql, expected in cases.items():
        with most(lambda: size(spill)) as used:
            (row,) = rows(ask(pool, lake, sql, seconds=60))
        assert used[0] > MEMORY // 2, sql
        assert row == expected or "ORDER BY" in sql


def test_spilling_stops_at_its_bound_and_nothing_is_left(zygote: Zygote, lake: Lake, spill: Path) -> None:
    pool = make_pool(zygote)
    try:
        with most(lambda: size(spill)) as used, pytest.raises(QueryResourcesExceeded):
            ask(pool, lake, WIDE, seconds=60)
        assert used[0] <= 1.6 * SPILL  # an eighth above it the runner dies, a tenth of a second later at the latest
        eventually(lambda: size(spill) == 0)
    finally:
        pool.close()
    eventually(lambda: list(spill.iterdir()) == [])


def test_a_runner_that_is_killed_while_it_spills_leaves_nothing(pool: Pool, lake: Lake, spill: Path) -> None:
    def kill() -> None:
        eventually(lambda: size(spill) > 2**20, 20)
        for directory in spill.iterdir():
            if size(directory):
                os.kill(int(directory.name), signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    with pytest.raises((QueryResourcesExceeded, RunnersUnavailable)):
        ask(pool, lake, WIDE, seconds=30)
    killer.join()
    eventually(lambda: size(spill) == 0)


API = """
import sys, time
from pathlib import Path
from query.pool import Pool, PoolSettings
from query.request import RunRequest
pool = Pool(PoolSettings(socket=Path(sys.argv[1])))
with pool.session(tenant_id="a", tenant_dir=Path(sys.argv[2]), deadline=time.monotonic() + 60) as session:
    session.run(RunRequest(sql=sys.argv[3]))
"""


def test_a_killed_api_process_or_zygote_leaves_nothing_that_a_start_does_not_wipe(tmp_path: Path, lake: Lake) -> None:
    spill = tmp_path / "spill"
    with running_zygote(*options(spill)) as zygote:
        command = [sys.executable, "-c", API, str(zygote.socket), str(lake.directory("a")), WIDE]
        for killed in ("api", "zygote"):
            with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL) as api:
                try:
                    eventually(lambda: size(spill) > 2**20, 20)
                    if killed == "api":
                        api.kill()
                        eventually(lambda: list(spill.iterdir()) == [])
                    else:
                        zygote.process.kill()
                        zygote.process.wait()
                finally:
                    api.kill()
        assert size(spill) > 0
        zygote.socket.unlink()
        again = start_zygote(zygote.socket, *options(spill))
        try:
            eventually(lambda: not any(spill.glob("*")))  # it listens before it wipes
        finally:
            again.process.kill()
            again.process.wait()


@contextlib.contextmanager
def most(measure: Callable[[], int]) -> Iterator[list[int]]:
    """The largest that `measure` found during the block."""
    found, end = [0], threading.Event()

    def look() -> None:
        while not end.wait(0.02):
            found[0] = max(found[0], measure())

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield found
    finally:
        end.set()
        thread.join()


def size(directory: Path) -> int:
    """Bytes of the files below; those that go meanwhile count nothing."""
    total = 0
    for path in directory.rglob("*"):
        with contextlib.suppress(OSError):
            total += path.stat().st_blocks * 512 if path.is_file() else 0
    return total


def largest(zygote: Zygote) -> int:
    found = 0
    for runner in psutil.Process(zygote.process.pid).children():
        with contextlib.suppress(psutil.Error):
            found = max(found, runner.memory_info().rss)
    return found


def eventually(condition: Callable[[], bool], seconds: float = 5) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not come true in time"
        time.sleep(0.02)
