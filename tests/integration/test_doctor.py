"""`manage.py doctor` and `/v1/doctor`: each check against what it is about, well and ill."""

import json
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from django.conf import settings
from django.core.management import load_command_class
from django.db import connection
from django.test import Client

from api.doctor import broker, catalog, clocks, machine, postgresql
from api.doctor import store as store_checks
from api.doctor.examining import Doctor
from api.doctor.findings import Asks, Check, Finding, State, Verdict, well, worst, wrong
from api.doctor.postgresql import Copies, judge_copies
from api.doctor.setup import checks
from api.process import guard_policy, object_store
from catalog.identity import RESERVED_PREFIX, own_store, renew_identity, take_over
from duckmesh.devstack.postgres import binaries
from duckmesh.devstack.programs import free_port
from duckmesh.kernel import queues
from maintenance.postgres.programs import Programs
from storage.local import LocalStore
from storage.store import ObjectInfo
from tests.factories import make_tenant
from tests.http import bearer, make_key

pytestmark = pytest.mark.django_db(transaction=True)

# The servers of a test run are not durable, and have no workers, beat, backups, archive or standby.
ILL_HERE = {"postgresql_durability": "failed", "workers": "failed", "beat": "failed", "postgresql_copies": "warning",
            "backup": "warning", "restore_drill": "warning", "row_security": "warning"}  # fmt: skip
RUNBOOKS = {
    *("stuck-leases", "high-ingest-lag", "snapshot-publish-failures", "consistency-timeouts", "failed-events"),
    *("compaction-behind", "gc-stopped", "integrity-findings", "restore-from-backup", "object-store-down"),
    *("postgresql-down-or-full", "redis-lost", "beat-silent", "read-only-mode", "key-compromise", "tenant-offboarding"),
    *("upgrade-and-rollback", "slow-queries"),
}
ALONE = Copies(
    archiving=False,
    archive_failing=False,
    archive_seconds=None,
    standbys=0,
    synchronous=0,
    standby_bytes=None,
    standby_seconds=None,
    all_seen=True,
)


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    (tmp_path / "objects").mkdir()
    return LocalStore(root=tmp_path / "objects")


def keys(store: LocalStore) -> list[str]:
    return [info.key for info in store.list(RESERVED_PREFIX)]


def examined(found: list[Finding]) -> dict[str, str]:
    return {each.check: each.state.value for each in found if each.state != State.OK}


def test_command_tells_every_check_and_ends_with_1_when_one_fails(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        load_command_class("api", "doctor").run_from_argv(["manage.py", "doctor", "--json"])
    out, err = capsys.readouterr()
    document = json.loads(out)
    found = {each["check"]: each for each in document["checks"]}
    assert end.value.code == 1
    assert "3 checks failed: postgresql_durability, beat, workers." in err
    assert document["status"] == "failed"
    assert {name: each["state"] for name, each in found.items() if each["state"] != "ok"} == ILL_HERE
    assert len(found) == 22
    assert found["postgresql_durability"]["runbook"] == "runbooks/postgresql-down-or-full.md"
    assert found["redis"]["runbook"] == ""
    assert keys(object_store()) == []  # type: ignore[arg-type]


def test_answer_over_http_tells_nothing_of_a_tenant_or_an_address(client: Client) -> None:
    make_tenant("secretive")
    response = client.get("/v1/doctor", headers=bearer(make_key(make_tenant("acme"), "ops_admin")))
    assert response.status_code == 200
    assert response.json()["status"] == "failed"
    told = response.content.decode()
    database = connection.settings_dict
    hidden = ("secretive", str(settings.DUCKMESH.home), database["PASSWORD"], f":{database['PORT']}", "127.0.0.1")
    assert [word for word in hidden if word in told] == []


def test_each_check_names_a_runbook_that_is_agreed() -> None:
    listed = checks(settings.DUCKMESH, objects=object_store(), guard=guard_policy())
    assert {check.runbook for check in listed} <= RUNBOOKS
    assert len({check.name for check in listed}) == len(listed)


@pytest.fixture
def no_database() -> Iterator[None]:
    port = connection.settings_dict["PORT"]
    connection.close()
    connection.settings_dict["PORT"] = str(free_port())
    yield
    connection.close()
    connection.settings_dict["PORT"] = port


def test_a_database_that_is_down_hides_nothing_else(no_database: None) -> None:
    listed = checks(settings.DUCKMESH, objects=object_store(), guard=guard_policy())
    found = {each.check: each for each in Doctor(listed, within=timedelta(seconds=30)).examine()}
    asks_database = {check.name for check in listed if check.asks == Asks.POSTGRESQL}
    assert {name for name in asks_database if found[name].state == State.FAILED} == asks_database
    assert found["postgresql_clock"].message == "It could not be looked at (OperationalError); the log says why."
    assert {found[name].state for name in ("redis", "store_semantics", "disk", "query_engine")} == {State.OK}


def test_a_server_that_hangs_is_a_finding_in_time_and_holds_one_thread() -> None:
    release, asked = threading.Event(), []

    def hang() -> Verdict:
        asked.append(1)
        release.wait(60)
        return well("at last")

    listed = [
        Check(name="slow", asks=Asks.STORE, runbook="object-store-down", look=hang),
        Check(name="behind", asks=Asks.STORE, runbook="object-store-down", look=lambda: well("fine")),
        Check(name="quick", asks=Asks.MACHINE, runbook="slow-queries", look=lambda: well("fine")),
    ]
    patient = Doctor(listed, within=timedelta(seconds=0.5))
    began = time.monotonic()
    for _ in range(3):
        assert examined(patient.examine()) == {"slow": "failed", "behind": "failed"}
    assert time.monotonic() - began < 30
    assert len(asked) == 1
    release.set()
    deadline = time.monotonic() + 30
    while examined(patient.examine()) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert examined(patient.examine()) == {}


def test_worst_state_is_that_of_the_whole() -> None:
    def of(*states: State) -> list[Finding]:
        return [Finding(check="c", state=state, message="", runbook="", measured={}) for state in states]

    assert worst(of(State.OK, State.WARNING, State.FAILED)) == State.FAILED
    assert worst(of(State.OK, State.WARNING)) == State.WARNING
    assert worst([]) == State.OK


@pytest.mark.parametrize(
    ("told", "state"),
    [(1000.0, State.OK), (1002.9, State.OK), (1003.2, State.FAILED), (996.8, State.FAILED), (997.5, State.OK)],
)
def test_clock_is_wrong_only_when_the_round_trip_cannot_explain_it(told: float, state: State) -> None:
    assert clocks.judge("It", before=999.0, after=1001.0, told=told, most=2.0).state == state


def test_clocks_of_the_real_servers_are_asked(store: LocalStore) -> None:
    for look in (clocks.postgresql, clocks.redis(settings.DUCKMESH.redis_url), store_checks.clock(store)):
        assert look().state == State.OK
    assert keys(store) == []


def test_setting_that_loses_acknowledged_writes_is_refused() -> None:
    assert postgresql.durability().message == (
        "PostgreSQL may lose what was acknowledged: fsync, full_page_writes is off."
    )
    with connection.cursor() as cursor:
        cursor.execute("SET synchronous_commit = off")
        try:
            assert postgresql.durability().measured["synchronous_commit"] == "off"
            assert "synchronous_commit is off" in postgresql.durability().message
        finally:
            cursor.execute("SET synchronous_commit = on")


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("log_min_error_statement", "error"),
        ("log_error_verbosity", "default"),
        ("log_min_duration_statement", "1s"),
        ("log_min_duration_sample", "1s"),
        ("log_transaction_sample_rate", "0.5"),
        ("log_statement", "mod"),
    ],
)
def test_server_that_would_log_what_tenants_write_is_told(setting: str, value: str) -> None:
    assert postgresql.log().state == State.OK
    with connection.cursor() as cursor:
        cursor.execute("SET log_statement = 'ddl'")
        assert postgresql.log().state == State.OK
        cursor.execute(f"SET {setting} = '{value}'")
        try:
            verdict = postgresql.log()
        finally:
            cursor.execute(f"RESET log_statement; RESET {setting}")
    assert verdict.state == State.WARNING
    assert f": {setting} = {value}. What to set is in docs/security.md." in verdict.message


@pytest.mark.parametrize(
    ("found", "backup", "state", "rpo", "says"),
    [
        (ALONE, None, State.WARNING, None, "neither an archive of its WAL nor a standby, and there is no backup"),
        (ALONE, 7200.0, State.WARNING, 7200.0, "all since the last backup, 2.0 hours"),
        (replace(ALONE, archiving=True), None, State.WARNING, None, "has nothing yet"),
        (replace(ALONE, archiving=True, archive_seconds=31.0), None, State.OK, 31.0, "up to 31.0 seconds"),
        (replace(ALONE, archive_seconds=31.0), None, State.WARNING, None, "neither"),
        (replace(ALONE, archiving=True, archive_failing=True, archive_seconds=9.0), 1.0, State.FAILED, None, "cannot"),
        (replace(ALONE, standbys=1, standby_seconds=0.5), None, State.OK, 0.5, "up to 0.5 seconds"),
        (replace(ALONE, standbys=1, synchronous=1, standby_seconds=0.5), None, State.OK, 0, "Nothing would be lost"),
        (replace(ALONE, standbys=1, all_seen=False), None, State.WARNING, None, "pg_monitor"),
    ],
)
def test_what_would_be_lost_is_told(found: Copies, backup: float | None, state: State, rpo: object, says: str) -> None:
    verdict = judge_copies(found, backup_seconds=backup)
    assert (verdict.state, verdict.measured["rpo_seconds"]) == (state, rpo)
    assert says in verdict.message


def test_more_connections_than_the_server_has_are_refused() -> None:
    config = settings.DUCKMESH
    assert postgresql.connections(config)().state == State.OK
    greedy = config.model_copy(update={"api_processes": 8})
    verdict = postgresql.connections(greedy)()
    assert (verdict.state, verdict.measured["limit"]) == (State.FAILED, 297)
    assert postgresql.budget(greedy) > 297 > postgresql.budget(config)


def test_programs_that_are_missing_are_a_finding(tmp_path: Path) -> None:
    assert postgresql.programs(Programs(directory=binaries()))().state == State.OK
    assert "pg_dump was not found" in postgresql.programs(Programs(directory=tmp_path))().message


def test_pending_and_unknown_migrations_are_told() -> None:
    with connection.cursor() as cursor:
        cursor.execute("UPDATE django_migrations SET app = 'gone' WHERE app = 'api'")
    try:
        assert catalog.migrations().measured == {"pending": ["api.0001_initial", "api.0002_policies"]}
    finally:
        with connection.cursor() as cursor:
            cursor.execute("UPDATE django_migrations SET app = 'api' WHERE app = 'gone'")
            cursor.execute("INSERT INTO django_migrations (app, name, applied) VALUES ('api', '9999_later', now())")
    try:
        assert catalog.migrations().measured == {"unknown": ["api.9999_later"]}
    finally:
        with connection.cursor() as cursor:
            cursor.execute("DELETE FROM django_migrations WHERE name = '9999_later'")
    assert catalog.migrations().state == State.OK


def test_catalog_that_contradicts_itself_is_told_without_saying_whose_it_is() -> None:
    make_tenant("acme")
    assert catalog.invariants().state == State.OK
    with connection.cursor() as cursor:
        cursor.execute("UPDATE tenant_catalog SET snapshot_seq = 7")
        cursor.execute("ALTER TABLE ingest_event DISABLE TRIGGER ALL")
        try:
            verdict = catalog.invariants()
        finally:
            cursor.execute("ALTER TABLE ingest_event ENABLE TRIGGER ALL")
    assert verdict.measured == {"broken": ["head_without_snapshot", "trigger_switched_off"]}
    assert "acme" not in verdict.message


def test_age_of_backup_and_end_of_drill_are_told() -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO backup (name, directory, state, incarnation, with_data, encrypted, dumped_at, size_bytes,"
            " object_count, error)"
            " VALUES ('b', '/b', 'completed', 1, false, false, now() - interval '3 days', 1, 0, '')"
        )
        assert catalog.backup().message == "The newest backup is 3.0 days old."
        cursor.execute("UPDATE backup SET dumped_at = now()")
        assert catalog.backup().state == State.OK
        assert catalog.copies().measured["rpo_seconds"] == pytest.approx(0, abs=60)


class Careless(LocalStore):
    """A store that forgets the range it was asked for, and lists nothing."""

    def get_range(self, key: str, start: int, length: int) -> bytes:  # noqa: ARG002 - that is the fault
        return self.get(key)

    def list(self, prefix: str, *, after: str = "") -> Iterator[ObjectInfo]:  # noqa: ARG002 - that is the fault
        return iter(())


def test_store_that_does_other_than_it_must_is_told_and_left_clean(tmp_path: Path, store: LocalStore) -> None:
    verdict = store_checks.semantics(Careless(root=tmp_path / "objects"))()
    assert verdict.measured["broken"] == [
        "a list lacks what was just written, or is out of order",
        "a list does not begin behind the key that was asked for",
        "a range is not the one that was asked for",
    ]
    assert keys(store) == []
    assert store_checks.semantics(store)().state == State.OK
    assert keys(store) == []


def test_what_a_killed_examination_left_goes_with_the_next_but_not_what_another_works_with(store: LocalStore) -> None:
    for name in ("old", "new"):
        store.put(f"{store_checks.PREFIX}{name}/a", b"x")
    path = store.local_root / store_checks.PREFIX / "old" / "a"
    _age(path)
    assert store_checks.semantics(store)().state == State.OK
    assert keys(store) == [f"{store_checks.PREFIX}new/a"]


def _age(path: Path) -> None:
    os.utime(path, (time.time() - 3600, time.time() - 3600))


def test_store_of_another_catalog_is_told(store: LocalStore) -> None:
    look = store_checks.ownership(store)
    assert look().message == "The object store belongs to nobody yet."
    own_store(store)
    assert look().state == State.OK
    renew_identity()
    assert look().state == State.WARNING
    take_over(store)
    assert look().state == State.OK


def test_queue_without_a_worker_is_told() -> None:
    url = settings.DUCKMESH.redis_url
    assert broker.broker(url)().state == State.OK
    with queues.client(url, within=3) as server:
        queues.announce(server, queues=queues.QUEUES[1:], consumer="w")
        try:
            assert broker.consumers(url)().message == "No worker takes messages from materialize."
            queues.announce(server, queues=queues.QUEUES[:1], consumer="w")
            assert broker.consumers(url)().state == State.OK
        finally:
            queues.leave(server, queues=queues.QUEUES, consumer="w")


def test_full_disk_is_told(tmp_path: Path) -> None:
    policy = replace(guard_policy(), directories=(tmp_path / "not" / "yet",), min_free_disk_bytes=2**60)
    assert machine.disk(policy)().state == State.FAILED
    assert machine.disk(replace(policy, min_free_disk_bytes=1))().state == State.OK


def test_what_breaks_a_check_is_its_finding_alone() -> None:
    def breaks() -> Verdict:
        raise ValueError("with a secret")

    listed = [
        Check(name="broken", asks=Asks.MACHINE, runbook="slow-queries", look=breaks),
        Check(name="after", asks=Asks.MACHINE, runbook="slow-queries", look=lambda: wrong("so it is")),
    ]
    found = Doctor(listed, within=timedelta(seconds=10)).examine()
    assert [each.message for each in found] == [
        "It could not be looked at (ValueError); the log says why.",
        "so it is",
    ]
