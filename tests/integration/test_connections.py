"""Connections that are kept between requests: alive without a question, and noticed when their server has gone."""

import pytest
from django.db import connection, connections
from django.test.utils import CaptureQueriesContext

pytestmark = pytest.mark.django_db(transaction=True)


def session_of(using: str = "default") -> int:
    with connections[using].cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        return int(cursor.fetchone()[0])


def test_living_connection_is_not_asked() -> None:
    before = session_of()
    with CaptureQueriesContext(connection) as asked:
        assert connection.is_usable()
    assert len(asked) == 0
    assert session_of() == before


def test_connection_whose_server_process_has_gone_is_not_usable() -> None:
    doomed = session_of()
    other = connections.create_connection("default")
    try:
        with other.cursor() as cursor:
            cursor.execute("SELECT pg_terminate_backend(%s, 5000)", [doomed])
    finally:
        other.close()
    assert not connection.is_usable()
    connection.close()
    assert session_of() != doomed
    assert connection.is_usable()
    connection.close()
    assert not connection.is_usable()


def test_notice_that_waits_is_no_end() -> None:
    before = session_of()
    other = connections.create_connection("default")
    try:
        with connection.cursor() as cursor:
            cursor.execute("LISTEN something")
        with other.cursor() as cursor:
            cursor.execute("NOTIFY something")
    finally:
        other.close()
    assert connection.is_usable()
    assert session_of() == before
    connection.close()
