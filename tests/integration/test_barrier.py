"""Waiting for a token: exact, cheap for the catalog, and never for ever."""

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping

import pytest
from django.db import OperationalError, connections

from catalog.models import TenantCatalog
from catalog.snapshots import visible_tokens
from duckmesh.kernel.errors import Unavailable
from query.barrier import POLL_INTERVAL, Barrier
from query.errors import ConsistencyTimeout, TooManyWaiters
from tests.factories import make_snapshot, make_tenant
from tests.together import Background, together

pytestmark = pytest.mark.django_db(transaction=True)


class CountingReader:
    """Reads the catalog's watermarks and counts how often, by thread; a database that is `away` does not answer."""

    def __init__(self) -> None:
        self.by_thread: dict[str, int] = {}
        self.away = False

    def __call__(self, *, tenant_ids: Iterable[str]) -> Mapping[str, int]:
        name = threading.current_thread().name
        self.by_thread[name] = self.by_thread.get(name, 0) + 1
        if self.away:
            raise OperationalError("server closed the connection unexpectedly")
        return visible_tokens(tenant_ids=tenant_ids)

    @property
    def polls(self) -> int:
        return self.by_thread.get("visibility-poller", 0)


@pytest.fixture
def reader() -> CountingReader:
    return CountingReader()


@pytest.fixture
def barrier(reader: CountingReader) -> Iterator[Barrier]:
    barrier = Barrier(max_waiters=60, read=reader)
    yield barrier
    barrier.close()


def publish_soon(tenant_id: str, token: int, *, after: float = 0.1) -> Background:
    """In a while the token is visible; the result is the moment it was."""

    def publish() -> float:
        time.sleep(after)
        make_snapshot(tenant_id=tenant_id, watermark=token)
        return time.monotonic()

    return Background(publish)


def eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_visible_token_costs_one_read_and_no_thread(barrier: Barrier, reader: CountingReader) -> None:
    tenant_id = make_tenant()
    make_snapshot(tenant_id=tenant_id, watermark=7)
    assert barrier.wait(tenant_id=tenant_id, token=7, timeout=5) == 7
    assert barrier.wait(tenant_id=tenant_id, token=0, timeout=0) == 7
    assert sum(reader.by_thread.values()) == 2
    assert reader.polls == 0
    assert "visibility-poller" not in {thread.name for thread in threading.enumerate()}


def test_waiter_is_woken_soon_after_its_token_is_published(barrier: Barrier) -> None:
    tenant_id = make_tenant()
    delays = []
    for token in range(1, 12):
        published = publish_soon(tenant_id, token, after=0.03)
        assert barrier.wait(tenant_id=tenant_id, token=token, timeout=10) == token
        moment = published.result()
        assert isinstance(moment, float)
        delays.append(time.monotonic() - moment)
    # 10 ms on an idle machine; the margin is for one that is not.
    assert sorted(delays)[len(delays) // 2] <= 0.030


def test_waiting_ends_with_the_latest_watermark_in_its_context(barrier: Barrier) -> None:
    tenant_id = make_tenant()
    make_snapshot(tenant_id=tenant_id, watermark=5)
    publishing = publish_soon(tenant_id, 6, after=0.05)
    started = time.monotonic()
    with pytest.raises(ConsistencyTimeout) as timed_out:
        barrier.wait(tenant_id=tenant_id, token=7, timeout=0.3)
    assert 0.3 <= time.monotonic() - started < 1
    publishing.result()
    assert timed_out.value.context == {"min_visibility_token": 7, "latest_visibility_token": 6}
    assert timed_out.value.code == "CONSISTENCY_TIMEOUT"
    assert timed_out.value.status == 504
    assert timed_out.value.retryable


def test_no_time_to_wait_is_answered_at_once(barrier: Barrier, reader: CountingReader) -> None:
    with pytest.raises(ConsistencyTimeout):
        barrier.wait(tenant_id=make_tenant(), token=1, timeout=0)
    assert reader.polls == 0


def test_sixty_waiters_share_one_reader(barrier: Barrier, reader: CountingReader) -> None:
    tenants = [make_tenant() for _ in range(3)]
    publishing = [publish_soon(tenant_id, 20, after=0.5) for tenant_id in tenants]
    started = time.monotonic()
    waits = [
        lambda tenant_id=tenant_id, token=token: barrier.wait(tenant_id=tenant_id, token=token, timeout=20)
        for tenant_id in tenants
        for token in range(1, 21)
    ]
    assert together(waits) == [20] * 60
    seconds = time.monotonic() - started
    for each in publishing:
        each.result()
    assert sum(reader.by_thread.values()) - reader.polls == 60, "each looked once for itself"
    assert 1 <= reader.polls <= seconds / POLL_INTERVAL + 1


def test_waiters_beyond_the_cap_are_refused_at_once(reader: CountingReader) -> None:
    barrier, tenant_id = Barrier(max_waiters=2, read=reader), make_tenant()
    waiting = [
        Background(lambda: barrier.wait(tenant_id=tenant_id, token=1, timeout=20)),
        Background(lambda: barrier.wait(tenant_id=tenant_id, token=1, timeout=20)),
    ]
    eventually(lambda: len(barrier._waiting.get(tenant_id, ())) == 2)
    with pytest.raises(TooManyWaiters) as refused:
        barrier.wait(tenant_id=tenant_id, token=1, timeout=20)
    assert refused.value.retry_after == 1
    make_snapshot(tenant_id=tenant_id, watermark=1)
    assert [each.result() for each in waiting] == [1, 1]
    assert barrier.wait(tenant_id=tenant_id, token=1, timeout=20) == 1, "a place is free again"
    barrier.close()


def test_whoever_publishes_is_called_when_a_wait_begins_and_again_while_it_lasts(reader: CountingReader) -> None:
    calls: list[tuple[str, int]] = []
    barrier = Barrier(max_waiters=60, on_wait=lambda tenant_id, token: calls.append((tenant_id, token)), read=reader)
    patient, other = make_tenant(), make_tenant()
    waits = [
        lambda tenant_id=tenant_id, token=token: barrier.wait(tenant_id=tenant_id, token=token, timeout=0.55)
        for tenant_id, token in [(patient, 1), (patient, 2), (patient, 3), (other, 4)]
    ]
    for wait in waits:
        with pytest.raises(ConsistencyTimeout):
            wait()
    alone = len([call for call in calls if call == (patient, 1)])
    assert 4 <= alone <= 6
    calls.clear()

    def refused(wait: Callable[[], int]) -> bool:
        with pytest.raises(ConsistencyTimeout):
            wait()
        return True

    together([lambda wait=wait: refused(wait) for wait in waits])
    assert {(patient, 1), (patient, 2), (patient, 3), (other, 4)} <= set(calls)
    assert len([call for call in calls if call[0] == patient]) <= 3 + 6, "the repetitions are shared"
    barrier.close()


def test_wait_survives_a_database_that_comes_back(barrier: Barrier, reader: CountingReader) -> None:
    tenant_id = make_tenant()
    waiting = Background(lambda: barrier.wait(tenant_id=tenant_id, token=1, timeout=20))
    eventually(lambda: reader.polls > 0)
    reader.away = True
    polls = reader.polls
    eventually(lambda: reader.polls > polls + 2)
    make_snapshot(tenant_id=tenant_id, watermark=1)
    reader.away = False
    assert waiting.result() == 1


def test_wait_survives_the_end_of_its_connection(barrier: Barrier, reader: CountingReader) -> None:
    tenant_id = make_tenant()
    waiting = Background(lambda: barrier.wait(tenant_id=tenant_id, token=1, timeout=20))
    eventually(lambda: reader.polls > 0)
    with connections["default"].cursor() as cursor:
        cursor.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
            " AND datname = current_database() AND backend_type = 'client backend'"
        )
    make_snapshot(tenant_id=tenant_id, watermark=1)
    assert waiting.result() == 1


def test_wait_without_a_database_ends_in_time_and_says_that_nobody_knows(
    barrier: Barrier, reader: CountingReader
) -> None:
    tenant_id = make_tenant()
    waiting = Background(lambda: barrier.wait(tenant_id=tenant_id, token=1, timeout=1.6))
    eventually(lambda: reader.polls > 0)
    reader.away = True
    started = time.monotonic()
    with pytest.raises(Unavailable):
        waiting.result()
    assert time.monotonic() - started < 3


def test_closing_frees_the_waiters_and_the_connection(barrier: Barrier) -> None:
    tenant_id = make_tenant()
    waiting = Background(lambda: barrier.wait(tenant_id=tenant_id, token=1, timeout=20))
    eventually(lambda: tenant_id in barrier._waiting)
    barrier.close()
    with pytest.raises(Unavailable):
        waiting.result()
    assert "visibility-poller" not in {thread.name for thread in threading.enumerate()}
    assert TenantCatalog.objects.get(tenant_id=tenant_id).visible_token == 0


def test_watermark_of_one_tenant_wakes_no_other(barrier: Barrier) -> None:
    quick, slow = make_tenant(), make_tenant()
    waiting = Background(lambda: barrier.wait(tenant_id=slow, token=1, timeout=20))
    make_snapshot(tenant_id=quick, watermark=100)
    assert barrier.wait(tenant_id=quick, token=100, timeout=5) == 100
    assert not waiting.done
    make_snapshot(tenant_id=slow, watermark=1)
    assert waiting.result() == 1
