"""Queries that run: seen by every process, and called off from any of them, at no cost to those that end soon."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

import pytest
from django.db import connection, connections
from django.db.models.functions import Now
from django.test.utils import CaptureQueriesContext

from duckmesh.kernel import clock
from query import tasks
from query.barrier import Barrier
from query.cancel import Cancellation
from query.errors import ConsistencyTimeout
from query.history import history, purge_slice
from query.inflight import Flight, Inflight
from query.models import QueryAudit, RunningQuery
from query.shown import STALE_AFTER, remove_stale, request_cancel, shown_of
from tests.factories import make_tenant

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def inflight() -> Iterator[Inflight]:
    inflight = Inflight()
    yield inflight
    inflight.close()


@contextmanager
def query(inflight: Inflight, tenant_id: str, query_id: str = "a" * 32) -> Iterator[threading.Event]:
    """A query runs in another thread until the end of the block; the event says that it was called off."""
    end, cancelled, held = threading.Event(), threading.Event(), threading.Event()
    flight = Flight(
        query_id=query_id, tenant_id=tenant_id, key_id="key", sql_hash="0" * 64, sql="SELECT 1", at=clock.now()
    )

    def run() -> None:
        with inflight.holding(flight), flight.cancellation.stopping(cancelled.set):
            held.set()
            end.wait(30)

    thread = threading.Thread(target=run)
    thread.start()
    assert held.wait(5)
    try:
        yield cancelled
    finally:
        end.set()
        thread.join()


def test_a_query_that_ends_soon_costs_no_statement(inflight: Inflight) -> None:
    tenant_id = make_tenant()
    with CaptureQueriesContext(connections["default"]) as statements:
        for number in range(20):
            with query(inflight, tenant_id, f"{number:032}"):
                pass
    assert len(statements) == 0
    assert RunningQuery.objects.count() == 0


def test_a_long_query_is_seen_elsewhere_until_it_ends(inflight: Inflight) -> None:
    tenant_id = make_tenant()
    with query(inflight, tenant_id):
        eventually(lambda: len(shown_of(tenant_id)) == 1)
        (shown,) = shown_of(tenant_id)
        assert (shown.query_id, shown.key_id, shown.sql, shown.cancelling) == ("a" * 32, "key", "SELECT 1", False)
        assert 0 < shown.seconds < 10
        assert shown_of(make_tenant("other")) == []
    eventually(lambda: not RunningQuery.objects.exists())


def test_another_process_calls_a_query_off_within_a_second(inflight: Inflight) -> None:
    tenant_id = make_tenant()
    with query(inflight, tenant_id) as cancelled:
        started = time.monotonic()
        assert request_cancel(tenant_id=tenant_id, query_id="a" * 32)  # it has no row yet
        assert cancelled.wait(3)
        assert time.monotonic() - started < 1.5  # a second, and some for a slow machine
        assert [shown.cancelling for shown in shown_of(tenant_id)] == [True]
        assert request_cancel(tenant_id=tenant_id, query_id="a" * 32)


def test_nobody_calls_off_what_is_another_tenants_or_over(inflight: Inflight) -> None:
    tenant_id, other = make_tenant(), make_tenant("other")
    with query(inflight, tenant_id) as cancelled:
        eventually(lambda: len(shown_of(tenant_id)) == 1)
        assert not request_cancel(tenant_id=other, query_id="a" * 32)
        assert not inflight.cancel(tenant_id=other, query_id="a" * 32)
        assert not cancelled.is_set()
        assert inflight.cancel(tenant_id=tenant_id, query_id="a" * 32)
        assert cancelled.is_set()
    assert not inflight.cancel(tenant_id=tenant_id, query_id="a" * 32)
    eventually(lambda: not RunningQuery.objects.exists())
    assert not request_cancel(tenant_id=tenant_id, query_id="a" * 32)


def test_what_has_just_ended_is_not_called_off_although_its_row_is_still_there(inflight: Inflight) -> None:
    tenant_id = make_tenant()
    with query(inflight, tenant_id):
        eventually(lambda: len(shown_of(tenant_id)) == 1)
    assert RunningQuery.objects.exists()
    assert not request_cancel(tenant_id=tenant_id, query_id="a" * 32)


def test_rows_of_a_killed_process_are_not_shown_and_go(inflight: Inflight) -> None:
    tenant_id = make_tenant()
    with query(inflight, tenant_id):
        eventually(lambda: len(shown_of(tenant_id)) == 1)
        RunningQuery.objects.update(seen_at=Now() - 2 * STALE_AFTER)
        assert shown_of(tenant_id) == []
        assert not request_cancel(tenant_id=tenant_id, query_id="a" * 32)
        assert remove_stale() == 0
        RunningQuery.objects.update(seen_at=Now() - 5 * STALE_AFTER)
        assert remove_stale() == 1


def test_the_thread_ends_with_its_connection(inflight: Inflight) -> None:
    tenant_id = make_tenant()
    with query(inflight, tenant_id):
        eventually(lambda: len(shown_of(tenant_id)) == 1)
    inflight.close()
    assert "query-watch" not in {thread.name for thread in threading.enumerate()}


def test_who_waits_for_a_token_is_called_off_at_once() -> None:
    barrier, cancellation, ended = Barrier(max_waiters=2), Cancellation(), threading.Event()
    tenant_id = make_tenant()

    def wait() -> None:
        try:
            with pytest.raises(ConsistencyTimeout):
                barrier.wait(tenant_id=tenant_id, token=5, timeout=60, cancellation=cancellation)
            ended.set()
        finally:
            connection.close()

    thread = threading.Thread(target=wait)
    thread.start()
    try:
        time.sleep(0.2)
        cancellation.ask()
        assert ended.wait(1)
    finally:
        barrier.close()
        thread.join()


def audit_row(tenant_id: str, *, outcome: str = "ok", written: timedelta = timedelta(0)) -> QueryAudit:
    return QueryAudit.objects.create(
        tenant_id=tenant_id,
        key_id="key",
        query_id="b" * 32,
        snapshot_id=0,
        sql_hash="0" * 64,
        outcome=outcome,
        duration_ms=1,
        row_count=1,
        size_bytes=1,
        at=clock.now(),
        written_at=Now() - written,
    )


def test_history_is_kept_by_the_databases_clock_and_goes_in_slices() -> None:
    tenant_id = make_tenant()
    for days in (40, 35, 31, 29, 0):
        audit_row(tenant_id, written=timedelta(days=days))
    assert purge_slice(keep=timedelta(days=30), most=2) == 2
    assert purge_slice(keep=timedelta(days=30), most=2) == 1
    assert purge_slice(keep=timedelta(days=30), most=2) == 0
    assert QueryAudit.objects.count() == 2


def test_the_task_keeps_what_the_settings_say() -> None:
    tenant_id = make_tenant()
    audit_row(tenant_id, written=timedelta(days=31))
    kept = audit_row(tenant_id)
    tasks.keep_house()
    assert [row.pk for row in history(tenant_id=tenant_id, outcome=None, behind=None, limit=10)] == [kept.pk]


def eventually(condition: Callable[[], bool], seconds: float = 5) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not come true in time"
        time.sleep(0.02)
