"""The database is told for whom each statement is, whatever became of the one before it."""

from collections.abc import Callable, Iterator

import pytest
from django.db import DatabaseError, IntegrityError, connection, transaction

from duckmesh.kernel.acting import EVERYBODY, NOBODY, act_for, acting, acting_for_all, acting_for_nobody

pytestmark = pytest.mark.django_db(transaction=True)

SAID = "SELECT current_setting('duckmesh.tenant', true)"


def said() -> str:
    with connection.cursor() as cursor:
        cursor.execute(SAID)
        return str(cursor.fetchone()[0])


@pytest.fixture
def nobody() -> Iterator[None]:
    """The test is a request whose key is not known yet."""
    with acting_for_nobody():
        yield


def test_statements_are_everybodys_until_somebody_says_otherwise() -> None:
    connection.close()
    assert said() == EVERYBODY
    with acting_for_nobody():
        assert said() == NOBODY
        act_for("first")
        assert said() == "first"
        with acting_for_all():
            assert said() == EVERYBODY
        assert said() == "first"
    assert said() == EVERYBODY


def test_no_tenant_has_a_name_that_could_say_something_else(nobody: None) -> None:
    for name in ("", "*", "a'; SET ROLE postgres; --", "A", "a b", "a%s"):
        with pytest.raises(ValueError, match="no such text"):
            act_for(name)
    assert acting() == NOBODY


def rolled_back() -> None:
    with pytest.raises(RuntimeError), transaction.atomic():
        act_for("second")
        assert said() == "second"
        raise RuntimeError


def rolled_back_to_a_savepoint() -> None:
    with transaction.atomic():
        with pytest.raises(RuntimeError), transaction.atomic():
            act_for("second")
            assert said() == "second"
            raise RuntimeError
        assert said() == "second"


def failed() -> None:
    act_for("second")
    with pytest.raises(DatabaseError):
        connection.cursor().execute("SELECT 1 / 0")


def failed_in_a_transaction() -> None:
    with transaction.atomic():
        with pytest.raises(DatabaseError), transaction.atomic():
            act_for("second")
            connection.cursor().execute("SELECT 1 / 0")
        assert said() == "second"


def failed_at_its_commit() -> None:
    table = "CREATE TEMPORARY TABLE once (one int UNIQUE DEFERRABLE INITIALLY DEFERRED)"
    with pytest.raises(IntegrityError), transaction.atomic():
        act_for("second")
        connection.cursor().execute(f"{table}; INSERT INTO once VALUES (1), (1)")


def reconnected() -> None:
    act_for("second")
    assert said() == "second"
    connection.close()


@pytest.mark.parametrize(
    "happens",
    [rolled_back, rolled_back_to_a_savepoint, failed, failed_in_a_transaction, failed_at_its_commit, reconnected],
)
@pytest.mark.parametrize("before", [True, False])
def test_what_was_undone_is_said_again(nobody: None, happens: Callable[[], None], before: bool) -> None:
    act_for("first")
    if before:
        assert said() == "first"
    happens()
    assert (acting(), said()) == ("second", "second")
    act_for("first")
    assert said() == "first"


def test_cursor_with_a_name_and_many_rows_are_the_tenants_too(nobody: None) -> None:
    act_for("first")
    with transaction.atomic(), connection.chunked_cursor() as cursor:
        cursor.execute(SAID)
        assert cursor.fetchone() == ("first",)
    act_for("second")
    connection.cursor().execute("CREATE TEMPORARY TABLE heard (i int, who text)")
    act_for("third")
    with connection.cursor() as cursor:
        cursor.executemany("INSERT INTO heard SELECT %s, current_setting('duckmesh.tenant')", [[1], [2]])
        cursor.execute("SELECT DISTINCT who FROM heard")
        assert cursor.fetchall() == [("third",)]
        cursor.execute("DROP TABLE heard")


def test_nothing_is_said_twice(nobody: None) -> None:
    act_for("first")
    assert said() == "first"
    assert connection.connection.word() is None
