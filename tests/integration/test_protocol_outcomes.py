"""An interrupted write says that nothing was written, or that nobody knows; and what is stopped holds up nobody."""

import threading
from functools import partial
from typing import cast

import pytest
from django.db import connection, transaction

from catalog.publish import lock_head
from duckmesh.kernel.errors import OutcomeUnknown, Unavailable
from ingest import bus
from ingest.accept import Accepted
from ingest.bus import Claim
from ingest.models import IngestEvent
from tests.factories import make_table, make_tenant
from tests.lake import CLAIM, write_ids
from tests.together import Background, wait_until_blocked

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def tenant_id() -> str:
    tenant_id = make_tenant()
    make_table(tenant_id=tenant_id)
    return tenant_id


def set_for_session(setting: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(f"SET {setting}")


def written(tenant_id: str) -> int:
    return IngestEvent.objects.filter(tenant_id=tenant_id).count()


def test_cancelled_statement_wrote_nothing_and_says_so(tenant_id: str) -> None:
    def impatient() -> str:
        set_for_session("statement_timeout = '100ms'")
        with pytest.raises(Unavailable) as refused:
            write_ids(tenant_id, "late")
        return refused.value.code

    with transaction.atomic():
        write_ids(tenant_id, "first")
        assert Background(impatient).result() == "DEPENDENCY_UNAVAILABLE"
    assert written(tenant_id) == 1


def test_demoted_server_is_left(tenant_id: str) -> None:
    def demoted() -> int:
        set_for_session("default_transaction_read_only = on")
        with pytest.raises(Unavailable):
            write_ids(tenant_id, "a")
        return write_ids(tenant_id, "b").max_visibility_token

    assert Background(demoted).result() == 1, "on another connection"


def test_connection_found_closed_is_opened_again(tenant_id: str) -> None:
    def closed() -> int:
        write_ids(tenant_id, "a")
        assert connection.connection is not None
        connection.connection.close()
        return write_ids(tenant_id, "b").max_visibility_token

    assert Background(closed).result() == 2


def test_session_ended_in_the_middle_leaves_the_outcome_open(tenant_id: str) -> None:
    def ended() -> str:
        with pytest.raises(OutcomeUnknown) as unknown:
            write_ids(tenant_id, "unknown")
        return unknown.value.message

    with transaction.atomic():
        write_ids(tenant_id, "first")
        writer = Background(ended)
        wait_until_blocked(1)
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event_type = 'Lock'")
        assert "may or may not" in cast(str, writer.result())
    assert write_ids(tenant_id, "unknown").accepted_count == 1


@pytest.mark.long
def test_worker_stopped_while_it_claims_holds_up_nobody_for_long(tenant_id: str) -> None:
    write_ids(tenant_id, "a")
    go_on, claimed = threading.Event(), threading.Event()

    def stopped() -> None:
        with transaction.atomic():
            bus.claim(tenant_id=tenant_id, consumer_id="stopped", policy=CLAIM)
            claimed.set()
            go_on.wait(30)

    worker = Background(stopped)
    assert claimed.wait(10)
    try:
        other = Background(partial(bus.claim, tenant_id=tenant_id, consumer_id="other", policy=CLAIM))
        assert isinstance(other.result(15), Claim)
    finally:
        go_on.set()
    with pytest.raises(Exception, match=r"terminat|closed"):
        worker.result()


@pytest.mark.long
def test_stopped_change_of_tables_holds_up_no_write_for_long(tenant_id: str) -> None:
    go_on, locked = threading.Event(), threading.Event()

    def stopped() -> None:
        with transaction.atomic():
            make_table(tenant_id=tenant_id, name="more")
            locked.set()
            go_on.wait(30)

    changer = Background(stopped)
    assert locked.wait(10)
    try:
        answer = Background(partial(write_ids, tenant_id, "a")).result(15)
        assert isinstance(answer, Accepted)
    finally:
        go_on.set()
    with pytest.raises(Exception, match=r"terminat|closed"):
        changer.result()


def test_head_is_locked_in_a_transaction_only(tenant_id: str) -> None:
    with pytest.raises(transaction.TransactionManagementError):
        lock_head(tenant_id=tenant_id)
