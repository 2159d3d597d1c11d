"""Audit rows: written behind the request's back, in batches, and never at a query's expense."""

import threading
import time
from collections.abc import Callable, Iterator

import pytest
from django.db import connections

from duckmesh.kernel import clock
from query.audit import AuditEntry, AuditLog
from query.models import QueryAudit
from tests.factories import make_tenant

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def log() -> Iterator[AuditLog]:
    log = AuditLog(limit=50)
    yield log
    log.close()


def make_entry(tenant_id: str) -> AuditEntry:
    return AuditEntry(
        tenant_id=tenant_id,
        key_id="abcdefghijkl",
        query_id="f" * 32,
        snapshot_id=3,
        sql_hash="0" * 64,
        sql_text="SELECT 1",
        outcome="ok",
        duration_ms=1.5,
        row_count=2,
        size_bytes=30,
        at=clock.now(),
    )


def written(tenant_id: str) -> int:
    return QueryAudit.objects.filter(tenant_id=tenant_id).count()


def eventually(condition: Callable[[], bool], *, seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_entries_are_written_soon(log: AuditLog) -> None:
    tenant_id = make_tenant()
    entries = [make_entry(tenant_id) for _ in range(20)]
    for entry in entries:
        log.record(entry)
    eventually(lambda: written(tenant_id) == 20, seconds=3)
    row = QueryAudit.objects.filter(tenant_id=tenant_id).order_by("at").values().first()
    assert row is not None
    assert {name: row[name] for name in vars(entries[0])} == vars(entries[0])


def test_closing_writes_what_was_recorded() -> None:
    tenant_id, log = make_tenant(), AuditLog()
    for _ in range(2_500):
        log.record(make_entry(tenant_id))
    log.close()
    assert written(tenant_id) == 2_500
    assert log.dropped == 0
    assert "query-audit" not in {thread.name for thread in threading.enumerate()}
    log.record(make_entry(tenant_id))
    assert log.dropped == 1


def test_more_than_there_is_room_for_is_dropped_and_counted(log: AuditLog) -> None:
    tenant_id = make_tenant()
    for _ in range(200):
        log.record(make_entry(tenant_id))
    log.close()
    assert written(tenant_id) + log.dropped == 200
    assert log.dropped >= 100


def test_entries_survive_the_end_of_the_connection(log: AuditLog) -> None:
    tenant_id = make_tenant()
    log.record(make_entry(tenant_id))
    eventually(lambda: written(tenant_id) == 1)
    with connections["default"].cursor() as cursor:
        cursor.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
            " AND datname = current_database() AND backend_type = 'client backend'"
        )
    log.record(make_entry(tenant_id))
    eventually(lambda: written(tenant_id) == 2)
    assert log.dropped == 0


def test_entry_that_the_database_refuses_stops_no_later_one(log: AuditLog) -> None:
    tenant_id = make_tenant()
    log.record(make_entry("no-such-tenant"))
    eventually(lambda: log.dropped == 1)
    log.record(make_entry(tenant_id))
    eventually(lambda: written(tenant_id) == 1)
