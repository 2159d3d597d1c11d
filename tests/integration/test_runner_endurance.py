"""Thousands of statements, with crashes, kills, cancels and refusals among them: nothing accumulates anywhere."""

import contextlib
import gc
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from duckmesh.kernel.errors import DuckMeshError
from query.cancel import Cancellation
from query.errors import QueryResourcesExceeded, RunnersUnavailable
from query.pool import Pool, PoolSettings
from query.request import RunRequest
from tests.runners import Lake, Zygote, ask, make_lake, rows, running_zygote, start_zygote

ENDLESS = "SELECT count(*) FROM range(1000000000000) a"
BOMB = "SELECT length(repeat(repeat('x', 60000), 60000))"
TENANTS = 5
CRASHES = (signal.SIGSEGV, signal.SIGABRT, signal.SIGKILL, signal.SIGBUS)


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    return make_lake(tmp_path_factory.mktemp("lake"))


def options(spill: Path) -> tuple[str, ...]:
    return ("--memory-bytes", str(64 * 2**20), "--spill-dir", str(spill), "--spill-bytes", str(64 * 2**20))


@pytest.fixture
def spill(tmp_path: Path) -> Path:
    return tmp_path / "spill"


@pytest.fixture
def zygote(spill: Path) -> Iterator[Zygote]:
    with running_zygote(*options(spill)) as zygote:
        yield zygote


@pytest.fixture
def pool(zygote: Zygote) -> Iterator[Pool]:
    pool = Pool(PoolSettings(socket=zygote.socket, concurrency=3, tenant_concurrency=2, max_queries=40))
    yield pool
    pool.close()


@dataclass(frozen=True, kw_only=True)
class Held:
    """What a process holds of the system's."""

    files: int
    threads: int
    memory: int
    zombies: int

    @staticmethod
    def by(process: psutil.Process) -> "Held":
        gc.collect()
        return Held(
            files=process.num_fds(),
            threads=process.num_threads(),
            memory=process.memory_info().rss,
            zombies=sum(child.status() == psutil.STATUS_ZOMBIE for child in process.children()),
        )


@pytest.mark.parametrize("count", [1_000, pytest.param(10_000, marks=[pytest.mark.long, pytest.mark.timeout(900)])])
def test_nothing_accumulates(pool: Pool, zygote: Zygote, lake: Lake, spill: Path, count: int) -> None:
    processes = [psutil.Process(), psutil.Process(zygote.process.pid)]
    outcomes: Counter[str] = Counter()
    with ThreadPoolExecutor(4) as askers:

        def ask_all(numbers: range) -> None:
            outcomes.update(askers.map(lambda number: one(pool, lake, zygote, number), numbers))

        ask_all(range(200))
        settle(zygote)
        before = [Held.by(process) for process in processes]
        ask_all(range(200, 200 + count))
        settle(zygote)
        after = [Held.by(process) for process in processes]
    assert outcomes["answered"] >= 0.85 * count
    assert outcomes["stopped"] >= count // 50
    for was, now in zip(before, after, strict=True):
        assert now.zombies == 0
        assert now.files <= was.files + 8
        assert now.threads <= was.threads + 1
        assert now.memory <= was.memory + 48 * 2**20
    living = {str(child.pid) for child in processes[1].children()}
    assert {directory.name for directory in spill.iterdir()} <= living


def one(pool: Pool, lake: Lake, zygote: Zygote, number: int) -> str:
    """One statement; what became of it."""
    tenant = f"tenant-{number % TENANTS}"
    try:
        match number % 50:
            case 7:
                ask(pool, lake, ENDLESS, tenant=tenant, views=(), seconds=0.1)
            case 17:
                ask(pool, lake, BOMB, tenant=tenant, views=(), seconds=5)
            case 27:
                ask(pool, lake, "SELECT nothing", tenant=tenant, views=())
            case 37:
                cancelled(pool, lake, tenant)
            case 47:
                crash_one(zygote, CRASHES[number // 50 % len(CRASHES)])
        answer = ask(pool, lake, f"SELECT {number} AS n, repeat('x', 1000) AS t", tenant=tenant, views=())
    except DuckMeshError:
        return "stopped"
    assert rows(answer)[0]["n"] == number
    return "answered"


def cancelled(pool: Pool, lake: Lake, tenant: str) -> None:
    cancellation = Cancellation()
    timer = threading.Timer(0.05, cancellation.ask)
    timer.start()
    deadline = time.monotonic() + 5
    with contextlib.ExitStack() as held:
        held.callback(timer.join)
        session = held.enter_context(
            pool.session(
                tenant_id=tenant, tenant_dir=lake.directory(tenant), deadline=deadline, cancellation=cancellation
            )
        )
        session.inspect(ENDLESS)
        session.run(RunRequest(sql=ENDLESS))


def crash_one(zygote: Zygote, number: int) -> None:
    """Some runner dies of the signal, whatever it was doing."""
    for child in psutil.Process(zygote.process.pid).children()[-1:]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child.pid, number)


def settle(zygote: Zygote) -> None:
    """What was dying is dead and buried."""

    def still() -> bool:
        children = psutil.Process(zygote.process.pid).children()
        return len(children) <= 12 and all(child.status() != psutil.STATUS_ZOMBIE for child in children)

    eventually(still)


@pytest.mark.parametrize("number", CRASHES)
def test_a_runner_that_crashes_under_a_statement_fails_that_statement_alone(
    pool: Pool, lake: Lake, zygote: Zygote, number: int
) -> None:
    ask(pool, lake, "SELECT 1")
    failures: list[Exception] = []

    def run() -> None:
        try:
            ask(pool, lake, ENDLESS, seconds=10)
        except DuckMeshError as exc:
            failures.append(exc)

    thread = threading.Thread(target=run)
    thread.start()
    eventually(lambda: busiest(zygote).cpu_times().user > 0.3)
    os.kill(busiest(zygote).pid, number)
    started = time.monotonic()
    thread.join(5)
    assert time.monotonic() - started < 1.5
    (failure,) = failures
    assert isinstance(failure, RunnersUnavailable | QueryResourcesExceeded)
    assert rows(ask(pool, lake, "SELECT 1 AS one")) == [{"one": 1}]


@pytest.mark.long
def test_a_zygote_that_dies_again_and_again_leaves_nothing_in_the_pool(
    pool: Pool, lake: Lake, zygote: Zygote, spill: Path
) -> None:
    ask(pool, lake, "SELECT 1")
    before = psutil.Process().num_fds()
    current = zygote
    for _ in range(4):
        runners = psutil.Process(current.process.pid).children()
        current.process.kill()
        current.process.wait()
        _, left = psutil.wait_procs(runners, timeout=5)
        assert not left
        current.socket.unlink()
        current = start_zygote(zygote.socket, *options(spill))
        eventually(lambda: answers(pool, lake))
    assert psutil.Process().num_fds() <= before + 4
    current.process.kill()
    current.process.wait()


def busiest(zygote: Zygote) -> psutil.Process:
    children = psutil.Process(zygote.process.pid).children()
    return max(children, key=lambda child: child.cpu_times().user)


def answers(pool: Pool, lake: Lake) -> bool:
    try:
        return rows(ask(pool, lake, "SELECT 1 AS one", seconds=1)) == [{"one": 1}]
    except DuckMeshError:
        return False


def eventually(condition: Callable[[], bool], seconds: float = 10) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not come true in time"
        time.sleep(0.02)
