"""A PostgreSQL that was replaced is noticed by whatever would issue a number on it, until an operator adopts it."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from django.db import connection
from django.test import Client

from api.doctor import catalog as catalog_checks
from api.doctor.findings import State
from catalog.errors import StoreNotOurs
from catalog.identity import identity, own_store, take_over
from catalog.models import VoidRange
from catalog.server import Standing, server_here, server_on_record, standing
from catalog.snapshots import latest_issued_token, resolve
from duckmesh.kernel.errors import DuckMeshError, Unavailable
from duckmesh.postgresql.errors import CatalogServerChanged
from ingest.models import IngestEvent
from maintenance.postgres.programs import dumping, find_programs, load
from maintenance.restore.adopting import adopt_after_loss
from tests.backups import address
from tests.clusters import Cluster, cluster, copy_of, eventually
from tests.factories import make_table, make_tenant
from tests.http import bearer, make_key, problem_of
from tests.integration.test_commands import Run
from tests.lake import Lake, write_ids
from tests.serving import serving

pytestmark = pytest.mark.django_db(transaction=True)

ROOT = Path(__file__).resolve().parents[2]
SOURCE = address("postgres")
CAUGHT_UP = "SELECT coalesce(bool_or(replay_lsn >= pg_current_wal_lsn()), false) FROM pg_stat_replication"


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(tmp_path / "lake")


@pytest.fixture
def tenant_id(lake: Lake) -> str:
    """A tenant with a snapshot of rows, and a write that waits."""
    tenant_id = make_tenant()
    make_table(tenant_id=tenant_id)
    write_ids(tenant_id, "a")
    lake.materialize(tenant_id)
    own_store(lake.store)
    write_ids(tenant_id, "waits")
    return tenant_id


def ingest(client: Client, key: str, identity_: str) -> object:
    record = {"payload": {"id": identity_, "n": 1}, "idempotency_key": identity_}
    body = {"records": [record], "wait_for_visibility": False}
    return client.post("/v1/ingest/events", body, content_type="application/json", headers=bearer(key))


def gauge(client: Client) -> float:
    """What the metrics say."""
    lines = client.get("/v1/metrics").content.decode().splitlines()
    return float(next(line for line in lines if line.startswith("duckmesh_catalog_server_changed")).split()[1])


def refuses_everything(lake: Lake, tenant_id: str) -> bool:
    """Nothing is issued: no token, no claim, no snapshot; and nothing is deleted."""
    with pytest.raises(CatalogServerChanged):
        write_ids(tenant_id, "x")
    with pytest.raises(CatalogServerChanged):
        lake.materialize(tenant_id)
    with pytest.raises(CatalogServerChanged):
        make_table(tenant_id=tenant_id, name="u")
    with pytest.raises(StoreNotOurs):
        own_store(lake.store)
    return True


def test_first_write_puts_the_server_on_record_and_later_ones_change_nothing() -> None:
    assert server_on_record() is None
    tenant_id = make_tenant()
    recorded = server_on_record()
    assert recorded is not None and recorded.server == server_here()
    assert recorded.server.timeline == 1
    make_table(tenant_id=tenant_id)
    assert server_on_record() == recorded


def test_readiness_puts_the_server_on_record_before_the_first_write(client: Client) -> None:
    assert client.get("/v1/ready").json()["writes"]["server"] == "known"
    assert server_on_record() is not None


def test_promoted_standby_is_noticed_at_once_and_adopted_without_loss(
    client: Client, capsys: pytest.CaptureFixture[str], lake: Lake, tenant_id: str
) -> None:
    key = make_key(tenant_id)
    with serving(), cluster() as standby:
        copy_of(SOURCE, standby, "--write-recovery-conf", "--wal-method=stream")
        standby.start()
        write_ids(tenant_id, "b")
        eventually(
            SOURCE, "SELECT coalesce(bool_or(replay_lsn >= pg_current_wal_lsn()), false) FROM pg_stat_replication"
        )
        found = catalog_checks.copies()
        assert (found.state, found.measured["standbys"], found.measured["synchronous_standbys"]) == (State.OK, 1, 0)
        with standby.serving():
            assert client.get("/v1/ready").json()["writes"]["server"] == "standby"
            assert gauge(client) == 1
            assert (
                Run(capsys, "catalog", "adopt", "--no-loss", "--json").document()["error_code"] == "SERVER_IS_STANDBY"
            )
            connection.close()
            standby.promote()
            # No checkpoint is waited for: the first statement after the promotion is refused.
            problem = problem_of(ingest(client, key, "c"), 503, "CATALOG_SERVER_CHANGED")  # type: ignore[arg-type]
            assert problem["retryable"]
            ready = client.get("/v1/ready")
            assert (ready.status_code, ready.json()["writes"]) == (
                200,
                {"taken": False, "short_of": [], "mode": "normal", "server": "changed"},
            )
            assert catalog_checks.server().state == State.FAILED
            assert gauge(client) == 1
            assert refuses_everything(lake, tenant_id)
            assert resolve(tenant_id=tenant_id).snapshot_id == 2
            shown = Run(capsys, "catalog", "show", "--json")
            assert (shown.status, shown.document()["recorded_timeline"], shown.document()["timeline"]) == (1, 1, 2)
            asked = Run(capsys, "catalog", "adopt", "--json")
            assert (asked.status, asked.document()["error_code"]) == (2, "INVALID_REQUEST")
            assert refuses_everything(lake, tenant_id)
            token, life = latest_issued_token(tenant_id=tenant_id), identity()
            adopted = Run(capsys, "catalog", "adopt", "--no-loss", "--json")
            assert (adopted.status, adopted.document()["changed"], adopted.document()["timeline"]) == (0, True, 2)
            assert identity() == life
            assert gauge(client) == 0
            assert write_ids(tenant_id, "c").max_visibility_token == token + 1
            assert IngestEvent.objects.filter(attempts__gt=0).count() == 0
            lake.materialize(tenant_id)
            assert set(lake.rows(tenant_id)) == {"a", "waits", "b", "c"}
            own_store(lake.store)
            again = Run(capsys, "catalog", "adopt", "--no-loss", "--json")
            assert (again.status, again.document()["changed"]) == (0, False)


def test_dump_in_another_cluster_is_noticed_and_adopted_in_a_new_incarnation(
    capsys: pytest.CaptureFixture[str], lake: Lake, tenant_id: str
) -> None:
    known = latest_issued_token(tenant_id=tenant_id)
    with cluster() as other:
        other.server.prepare()
        other.start()
        _copy_database(other, lake.root)
        lost = write_ids(tenant_id, "lost").max_visibility_token
        lake.materialize(tenant_id)
        lost_snapshot = resolve(tenant_id=tenant_id).snapshot_id
        with other.serving():
            assert standing() == Standing.CHANGED
            assert refuses_everything(lake, tenant_id)
            adopted = Run(capsys, "catalog", "adopt", "--i-lost-commits", "--json").document()
            assert (adopted["changed"], adopted["incarnation"], adopted["store_taken_over"]) == (True, 2, False)
            void = VoidRange.objects.get(tenant_id=tenant_id)
            assert void.first_token == known + 1 <= lost <= void.last_token
            assert void.first_snapshot_id <= lost_snapshot <= void.last_snapshot_id
            assert write_ids(tenant_id, "lost").max_visibility_token > void.last_token
            lake.materialize(tenant_id)
            assert resolve(tenant_id=tenant_id).snapshot_id > void.last_snapshot_id
            assert lake.rows(tenant_id) == {"a": 1, "waits": 1, "lost": 1}
            with pytest.raises(StoreNotOurs):
                own_store(lake.store)
            take_over(lake.store)
            own_store(lake.store)
    with pytest.raises(StoreNotOurs):
        own_store(lake.store)  # the old server, should it come back, deletes nothing


def _copy_database(target: Cluster, scratch: Path) -> None:
    """The test's database as it is now, dumped and loaded by hand."""
    name = connection.settings_dict["NAME"]
    dump = scratch / "by-hand.dump"
    target.run(f'CREATE DATABASE "{name}"')
    with connection.cursor() as cursor:
        cursor.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        cursor.execute("SELECT pg_export_snapshot()")
        snapshot = cursor.fetchone()[0]
        with dumping(find_programs(None), snapshot=snapshot, server=18, compress=False) as source:
            dump.write_bytes(source.read())
        cursor.execute("COMMIT")
    with target.serving():
        load(find_programs(None), database=name, server=18, feed=lambda pipe: pipe.write(dump.read_bytes()))  # type: ignore[arg-type,func-returns-value]


@pytest.mark.parametrize(("step", "life"), [("adopt.after_refusal", 1), ("adopt.after_incarnation", 2)])
def test_adoption_that_is_killed_on_its_way_leaves_writes_refused_until_it_is_done(
    lake: Lake, tenant_id: str, step: str, life: int
) -> None:
    environment = {
        **os.environ,
        "DUCKMESH_DATABASE_URL": address(connection.settings_dict["NAME"]),
        "DUCKMESH_FAILPOINTS": f"{step}=kill",
    }
    command = [sys.executable, "manage.py", "catalog", "adopt", "--i-lost-commits"]
    done = subprocess.run(command, cwd=ROOT, env=environment, timeout=60, check=False)
    assert done.returncode == -signal.SIGKILL
    assert identity().incarnation == life
    assert standing() == Standing.CHANGED
    assert refuses_everything(lake, tenant_id)
    assert adopt_after_loss().incarnation == life + 1
    assert standing() == Standing.KNOWN
    write_ids(tenant_id, "b")
    lake.materialize(tenant_id)
    assert set(lake.rows(tenant_id)) == {"a", "waits", "b"}


def test_adoption_beside_writers_issues_nothing_twice_and_loses_nothing(lake: Lake, tenant_id: str) -> None:
    over, tokens = threading.Event(), []

    def keep_writing(who: int) -> None:
        number = 0
        try:
            while not over.is_set():
                number += 1
                while not over.is_set():
                    try:
                        tokens.append(write_ids(tenant_id, f"{who}-{number}").max_visibility_token)
                        break
                    except (Unavailable, DuckMeshError):
                        continue
        finally:
            connection.close()

    threads = [threading.Thread(target=keep_writing, args=(who,)) for who in range(3)]
    for thread in threads:
        thread.start()
    try:
        _until(lambda: len(tokens) > 20)
        adopt_after_loss()
        written = len(tokens)
        _until(lambda: len(tokens) > written + 20)
    finally:
        over.set()
        for thread in threads:
            thread.join()
    void = VoidRange.objects.get(tenant_id=tenant_id)
    assert len(set(tokens)) == len(tokens)
    assert not [token for token in tokens if void.first_token <= token <= void.last_token]
    assert min(tokens) < void.first_token and max(tokens) > void.last_token
    while IngestEvent.objects.filter(tenant_id=tenant_id, state="pending").exists():
        lake.materialize(tenant_id)
    assert len(lake.rows(tenant_id)) >= len(tokens) + 2


def _until(holds: object) -> None:
    for _ in range(3_000):
        if holds():  # type: ignore[operator]
            return
        threading.Event().wait(0.01)
    raise AssertionError("it never came to be")
