"""Writes are refused while disk or PostgreSQL is short, and taken again as soon as there is room."""

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from django.db import connection

from duckmesh.devstack.programs import free_port
from duckmesh.kernel.errors import Unavailable
from ingest.guard import Guard, GuardPolicy, Shortage, shortages
from tests.factories import make_table, make_tenant
from tests.lake import Lake, record, write

pytestmark = pytest.mark.django_db(transaction=True)

OFF = GuardPolicy(directories=(), min_free_disk_bytes=0, max_bus_bytes=0, max_database_bytes=0)


def eventually(happens: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not happens():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def takes_writes(guard: Guard) -> bool:
    try:
        guard.require_room()
    except Unavailable:
        return False
    return True


def test_bounds_that_are_off_or_far_away_find_nothing(tmp_path: Path) -> None:
    far = GuardPolicy(directories=(tmp_path,), min_free_disk_bytes=1, max_bus_bytes=2**40, max_database_bytes=2**40)
    assert shortages(OFF) == shortages(far) == frozenset()


def test_a_directory_that_is_not_there_yet_is_judged_by_the_disk_it_will_be_on(tmp_path: Path) -> None:
    missing = replace(OFF, directories=(tmp_path / "not" / "yet",))
    assert shortages(replace(missing, min_free_disk_bytes=1)) == frozenset()
    assert shortages(replace(missing, min_free_disk_bytes=2**60)) == {Shortage.DISK}


def test_the_bus_is_short_while_much_waits_and_no_longer(tmp_path: Path) -> None:
    tenants = [make_tenant(), make_tenant()]
    bound = replace(OFF, max_bus_bytes=4_000)
    assert shortages(bound) == frozenset()
    for tenant_id in tenants:  # neither of them alone reaches the bound
        make_table(tenant_id=tenant_id)
        for _ in range(2):
            write(tenant_id, [record("x", n=number, key=None) for number in range(400)])
    assert shortages(bound) == {Shortage.BUS}
    for tenant_id in tenants:
        Lake(tmp_path).materialize(tenant_id)
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_total_relation_size('ingest_payload')")
        assert cursor.fetchone()[0] >= 4_000, "the table must still be as large as its bound, or nothing was tested"
    assert shortages(bound) == frozenset()


def test_a_database_that_is_too_large_is_short() -> None:
    assert shortages(replace(OFF, max_database_bytes=1)) == {Shortage.DATABASE}


def test_of_a_database_that_does_not_answer_nothing_is_said(tmp_path: Path) -> None:
    port = connection.settings_dict["PORT"]
    connection.close()
    connection.settings_dict["PORT"] = str(free_port())
    try:
        disk = GuardPolicy(directories=(tmp_path,), min_free_disk_bytes=2**60, max_bus_bytes=1, max_database_bytes=1)
        assert shortages(disk) == {Shortage.DISK}
    finally:
        connection.close()
        connection.settings_dict["PORT"] = port


def test_the_guard_refuses_with_a_time_to_come_back_and_lets_pass_again() -> None:
    short = {Shortage.DISK, Shortage.BUS}
    guard = Guard(lambda: frozenset(short), interval=0.02)
    eventually(lambda: not takes_writes(guard))
    with pytest.raises(Unavailable) as refusal:
        guard.require_room()
    assert refusal.value.context == {"short_of": ["bus", "disk"]}
    assert refusal.value.retry_after
    short.clear()
    eventually(lambda: takes_writes(guard))
    guard.close()


def test_no_write_waits_for_a_measurement_and_none_is_made_twice_at_once() -> None:
    measuring, release = [], threading.Event()

    def measure() -> frozenset[Shortage]:
        measuring.append(1)
        release.wait(30)
        return frozenset({Shortage.BUS})

    guard = Guard(measure, interval=60)
    began = time.monotonic()
    assert all(takes_writes(guard) for _ in range(1_000))
    assert time.monotonic() - began < 5
    release.set()
    eventually(lambda: not takes_writes(guard))
    guard.close()
    assert measuring == [1]


def test_a_guard_that_is_closed_measures_no_more() -> None:
    guard = Guard(lambda: frozenset({Shortage.BUS}), interval=0.01)
    eventually(lambda: not takes_writes(guard))
    guard.close()
    assert "guard" not in {thread.name for thread in threading.enumerate()}
    takes_writes(guard)
    assert "guard" not in {thread.name for thread in threading.enumerate()}
