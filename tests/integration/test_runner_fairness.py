"""Runners are shared between tenants: each in its turn, none with more than its share, nobody behind a crowd."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest

from query.errors import PoolBusy, QueryTimeout, RunnersUnavailable
from query.pool import Pool, PoolSettings
from tests.runners import Lake, Zygote, ask, make_lake, rows, running_zygote

ENDLESS = "SELECT count(*) FROM range(1000000000000) a"


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    return make_lake(tmp_path_factory.mktemp("lake"))


@pytest.fixture(scope="module")
def zygote() -> Iterator[Zygote]:
    with running_zygote("--threads", "1") as zygote:
        yield zygote


@pytest.fixture
def pool(zygote: Zygote) -> Iterator[Pool]:
    """Four places, of which a tenant may have two; three of its statements may wait, and five of all tenants."""
    pool = Pool(
        PoolSettings(
            socket=zygote.socket,
            concurrency=4,
            tenant_concurrency=2,
            tenant_max_waiting=3,
            max_waiting=5,
        )
    )
    yield pool
    pool.close()


@contextlib.contextmanager
def bombs(pool: Pool, lake: Lake, *, tenant: str, count: int, seconds: float = 3) -> Iterator[None]:
    """`count` endless statements of the tenant have been sent; at the end of the block they have ended."""

    def send() -> None:
        with contextlib.suppress(QueryTimeout, PoolBusy):
            ask(pool, lake, ENDLESS, tenant=tenant, views=(), seconds=seconds)

    threads = [threading.Thread(target=send) for _ in range(count)]
    for thread in threads:
        thread.start()
        time.sleep(0.1)  # a place that is free is taken before the next one comes
    time.sleep(0.2)
    try:
        yield
    finally:
        for thread in threads:
            thread.join()


def small(pool: Pool, lake: Lake, *, tenant: str, seconds: float = 2) -> float:
    """A small statement's answer is right; how long it waited, in milliseconds."""
    answer = ask(pool, lake, "SELECT 1 AS one", tenant=tenant, views=(), seconds=seconds)
    assert rows(answer) == [{"one": 1}]
    return answer.queue_ms


def test_a_tenant_that_fills_its_share_keeps_no_place_from_another(pool: Pool, lake: Lake) -> None:
    with bombs(pool, lake, tenant="hostile", count=5):
        assert max(small(pool, lake, tenant="a") for _ in range(5)) < 500
        with pytest.raises(PoolBusy):
            small(pool, lake, tenant="hostile", seconds=0.3)


def test_the_last_place_is_for_a_tenant_that_runs_nothing(pool: Pool, lake: Lake) -> None:
    small(pool, lake, tenant="b")
    with bombs(pool, lake, tenant="one", count=2), bombs(pool, lake, tenant="two", count=2):
        assert small(pool, lake, tenant="a") < 500
        assert small(pool, lake, tenant="b") < 500


def test_two_tenants_both_have_their_share_beside_the_place_that_is_kept(zygote: Zygote, lake: Lake) -> None:
    pool = Pool(PoolSettings(socket=zygote.socket))
    try:
        small(pool, lake, tenant="two")
        with bombs(pool, lake, tenant="one", count=2), bombs(pool, lake, tenant="two", count=1):
            assert small(pool, lake, tenant="two") < 500
            assert small(pool, lake, tenant="three") < 500
    finally:
        pool.close()


def test_a_tenant_whose_queue_is_full_is_told_at_once_and_others_still_wait(pool: Pool, lake: Lake) -> None:
    small(pool, lake, tenant="a")
    with bombs(pool, lake, tenant="one", count=5, seconds=2):
        started = time.monotonic()
        with pytest.raises(PoolBusy, match="of this tenant") as full:
            small(pool, lake, tenant="one")
        assert time.monotonic() - started < 0.3
        assert full.value.retry_after
        small(pool, lake, tenant="a")
        crowd = bombs(pool, lake, tenant="two", count=3, seconds=2)
        with crowd, pytest.raises(RunnersUnavailable, match="Too many statements wait"):
            small(pool, lake, tenant="a")


def test_tenants_take_turns_however_many_statements_of_one_wait(zygote: Zygote, lake: Lake) -> None:
    pool = Pool(PoolSettings(socket=zygote.socket, concurrency=1, tenant_concurrency=1))
    order: list[str] = []

    def send(tenant: str) -> None:
        small(pool, lake, tenant=tenant, seconds=20)
        order.append(tenant)

    try:
        small(pool, lake, tenant="quiet")
        with ThreadPoolExecutor(12) as senders, bombs(pool, lake, tenant="a", count=1, seconds=1.5):
            for _ in range(10):
                senders.submit(send, "crowd")
            time.sleep(0.3)
            for _ in range(2):
                senders.submit(send, "quiet")
    finally:
        pool.close()
    assert sorted(order) == ["crowd"] * 10 + ["quiet"] * 2
    assert "quiet" in order[:3]
    assert max(place for place, tenant in enumerate(order) if tenant == "quiet") <= 6


def test_the_time_in_the_queue_is_told(zygote: Zygote, lake: Lake) -> None:
    pool = Pool(PoolSettings(socket=zygote.socket, concurrency=1, tenant_concurrency=1))
    try:
        small(pool, lake, tenant="a")
        with bombs(pool, lake, tenant="b", count=1, seconds=1.4):
            started = time.monotonic()
            waited = small(pool, lake, tenant="a", seconds=10)
            assert 500 < waited <= (time.monotonic() - started) * 1_000
    finally:
        pool.close()


@pytest.mark.long
def test_a_long_statement_and_all_of_its_tenant_yield_the_processors_to_others(
    pool: Pool, lake: Lake, zygote: Zygote
) -> None:
    def runners() -> list[psutil.Process]:
        return psutil.Process(zygote.process.pid).children()

    with bombs(pool, lake, tenant="long", count=1, seconds=4):
        eventually(lambda: any(runner.nice() == 19 for runner in runners()))
        (slow,) = [runner for runner in runners() if runner.nice() == 19]
        for thread in slow.threads():
            assert psutil.Process(thread.id).nice() == 19
        small(pool, lake, tenant="a")
        with bombs(pool, lake, tenant="long", count=1, seconds=1):
            eventually(lambda: sum(runner.nice() == 19 for runner in runners()) == 2)
        assert slow.is_running()
    eventually(lambda: all(runner.nice() != 19 for runner in runners()))


def test_a_tenant_whose_statement_was_stopped_yields_for_a_while(pool: Pool, lake: Lake, zygote: Zygote) -> None:
    small(pool, lake, tenant="other")
    with pytest.raises(QueryTimeout):
        ask(pool, lake, ENDLESS, tenant="hostile", views=(), seconds=0.3)
    with bombs(pool, lake, tenant="hostile", count=1, seconds=1.5):
        (busy,) = [runner for runner in psutil.Process(zygote.process.pid).children() if runner.nice() == 19]
        assert busy.cpu_times().user < 0.5
        with bombs(pool, lake, tenant="other", count=1, seconds=0.5):
            assert sum(runner.nice() == 19 for runner in psutil.Process(zygote.process.pid).children()) == 1


def eventually(condition: Callable[[], bool], seconds: float = 5) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not come true in time"
        time.sleep(0.02)
