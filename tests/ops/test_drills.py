"""Alerts on a real stack: silent while it is well, told to the right receiver when something is taken away, and over
when it is back. Only how long a thing must last is shorter here."""

import psycopg2
import pytest

from tests.ops.conftest import Monitored, wait_until

pytestmark = pytest.mark.ops


def test_nothing_fires_while_all_is_well(monitored: Monitored) -> None:
    assert monitored.firing() == set()


@pytest.mark.parametrize(
    ("program", "alert", "receiver"),
    [
        ("worker-drill", "DuckMeshNoConsumer", "pager"),
        ("redis", "DuckMeshRedisDown", "tickets"),
        ("postgres", "DuckMeshCatalogDown", "pager"),
    ],
)
def test_what_is_taken_away_is_told_and_what_is_back_too(
    monitored: Monitored, program: str, alert: str, receiver: str
) -> None:
    monitored.stack.stop(program)
    try:
        wait_until(lambda: (receiver, "firing") in monitored.heard.of(alert), f"{alert} is told")
    finally:
        monitored.stack.start(program)
    wait_until(lambda: alert not in monitored.firing(), f"{alert} is over")
    wait_until(lambda: (receiver, "resolved") in monitored.heard.of(alert), "its end is told")


def test_a_beat_that_is_silent_is_told(monitored: Monitored) -> None:
    monitored.stack.stop("beat")
    try:
        with psycopg2.connect(monitored.stack.superusers) as connection, connection.cursor() as cursor:
            cursor.execute("UPDATE beat_tick SET ticked_at = ticked_at - interval '2 minutes'")
        connection.close()
        wait_until(lambda: ("pager", "firing") in monitored.heard.of("DuckMeshBeatSilent"), "it is told")
        assert "DuckMeshNoConsumer" not in monitored.firing(), "the workers are there"
    finally:
        monitored.stack.start("beat")
    wait_until(lambda: "DuckMeshBeatSilent" not in monitored.firing(), "it is over")


def test_a_store_that_does_not_answer_is_told_although_nobody_writes(monitored: Monitored) -> None:
    objects = monitored.stack.home.root / "objects"
    aside = objects.with_name("objects-aside")
    objects.rename(aside)
    objects.touch()  # no directory any more
    try:
        wait_until(lambda: ("pager", "firing") in monitored.heard.of("DuckMeshObjectStoreDown"), "it is told")
    finally:
        objects.unlink()
        aside.rename(objects)
    wait_until(lambda: "DuckMeshObjectStoreDown" not in monitored.firing(), "it is over")
