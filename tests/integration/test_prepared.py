"""Statements that are planned once a connection."""

import pytest
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext

from duckmesh.postgresql.prepared import Prepared

pytestmark = pytest.mark.django_db(transaction=True)

LISTED = Prepared(
    "listed",
    "SELECT %(first)s, unnest(%(names)s::text[]) LIKE 'a%%' FROM generate_series(1, 1) WHERE %(first)s IS NOT NULL",
    {"first": "bigint", "names": "text[]"},
)


def rows(first: int | None, names: list[str]) -> list[tuple[object, ...]]:
    with connection.cursor() as cursor:
        LISTED.execute(cursor, {"first": first, "names": names})
        return list(cursor.fetchall())


def test_it_is_planned_at_its_first_use_only() -> None:
    connection.close()
    with CaptureQueriesContext(connection) as sent:
        assert rows(1, ["ab", "b"]) == [(1, True), (1, False)]
        assert rows(2**40, []) == []
        assert rows(None, ["ab"]) == []
    assert [query["sql"].split()[0] for query in sent] == ["PREPARE", "EXECUTE", "EXECUTE", "EXECUTE"]


def test_a_new_connection_plans_it_anew() -> None:
    assert rows(1, ["a"]) == [(1, True)]
    connection.close()
    assert rows(1, ["a"]) == [(1, True)]


def test_a_transaction_that_is_rolled_back_leaves_it_planned() -> None:
    connection.close()
    with pytest.raises(ZeroDivisionError), transaction.atomic():
        rows(1, ["a"])
        raise ZeroDivisionError
    assert rows(2, ["b"]) == [(2, False)]


def test_it_follows_a_table_that_changes() -> None:
    statement = Prepared(
        "most", "SELECT max(number) FROM (SELECT * FROM grows WHERE number < %(top)s) AS rows", {"top": "bigint"}
    )
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE grows (number bigint)")
        try:
            statement.execute(cursor, {"top": 9})
            cursor.execute("ALTER TABLE grows ADD more text")
            cursor.execute("INSERT INTO grows VALUES (7, 'x')")
            statement.execute(cursor, {"top": 9})
            assert cursor.fetchone() == (7,)
        finally:
            cursor.execute("DROP TABLE grows")
