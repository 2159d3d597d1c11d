"""Each page is followed on a stack that is broken in its way, and then its alerts are silent."""

import json
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.ops.conftest import wait_until
from tests.runbooks.conftest import SETTLE_SECONDS, Operator
from tests.runbooks.pages import names

pytestmark = [pytest.mark.runbooks, pytest.mark.timeout(600)]


def test_failed_events(operator: Operator) -> None:
    table = operator.table("failing")
    operator.stop("worker-materialize")
    broken, lost = operator.write(table, "broken"), operator.write(table, "lost")
    payloads = {token: operator.exchange_payload(token, b"not an envelope") for token in (broken, lost)}
    operator.restart("worker-materialize")
    operator.wait_for("DuckMeshFailedEvents")
    operator.exchange_payload(broken, payloads[broken])  # the cause is removed, of one of them
    operator.follow("failed-events")
    operator.wait_for_quiet("failed-events")
    assert operator.ids(table) == ["broken"]


def test_high_ingest_lag(operator: Operator) -> None:
    table = operator.table("lagging")
    operator.stop("worker-materialize")
    operator.write(table, "a")
    operator.wait_for("DuckMeshVisibilityLag", "DuckMeshNoConsumer", "DuckMeshWorkerDown")
    operator.follow("high-ingest-lag")
    operator.wait_for_quiet("high-ingest-lag")
    assert operator.ids(table) == ["a"]


def test_stuck_leases(operator: Operator) -> None:
    table = operator.table("stuck")
    operator.die_at("worker-materialize", "materialize.after_claim")
    operator.write(table, "a")
    operator.wait_to_find("SELECT 1 FROM ingest_claim_batch WHERE state = 'claimed'")
    operator.stop("beat")
    operator.stack.kill("worker-materialize")
    operator.die_at("worker-maintenance", "run.after_claim")
    operator.ask("/v1/retention/run")
    operator.wait_to_find("SELECT 1 FROM gc_run WHERE state = 'running'")
    operator.stack.kill("worker-maintenance")
    operator.wait_for("DuckMeshLeaseStuck", "DuckMeshRunStuck")
    operator.follow("stuck-leases")
    operator.wait_for_quiet("stuck-leases")
    assert operator.ids(table) == ["a"]


def test_redis_lost(operator: Operator) -> None:
    table = operator.table("redisless")
    operator.stop("redis")
    operator.write(table, "a")
    operator.wait_for("DuckMeshRedisDown")
    operator.follow("redis-lost")
    operator.wait_for_quiet("redis-lost")
    assert operator.ids(table) == ["a"]


def test_beat_silent(operator: Operator) -> None:
    operator.stop("beat")
    time.sleep(2)  # the sweeps that it has sent are done
    operator.sql("UPDATE beat_tick SET ticked_at = ticked_at - interval '2 minutes'")
    operator.wait_for("DuckMeshBeatSilent")
    operator.follow("beat-silent")
    operator.wait_for_quiet("beat-silent")


def test_postgresql_down_or_full(operator: Operator) -> None:
    operator.stop("postgres")
    operator.wait_for("DuckMeshCatalogDown")
    operator.follow("postgresql-down-or-full")
    operator.wait_for_quiet("postgresql-down-or-full")


def test_object_store_down(operator: Operator) -> None:
    table = operator.table("storeless")
    operator.write(table, "a", wait=True)
    operator.take_store_away()
    operator.write(table, "b")
    operator.wait_for("DuckMeshObjectStoreDown")
    operator.follow("object-store-down")
    operator.wait_for_quiet("object-store-down")
    assert operator.ids(table) == ["a", "b"]


def test_read_only_mode(operator: Operator) -> None:
    assert operator.stack.manage("mode", "read-only", "--reason", "a test").returncode == 0
    operator.wait_for("DuckMeshReadOnly")
    operator.follow("read-only-mode")
    operator.wait_for_quiet("read-only-mode")


def test_key_compromise(operator: Operator) -> None:
    made = operator.stack.manage("create_api_key", operator.stack.tenant, "--role", "query_reader", "--json")
    leaked = json.loads(made.stdout)
    operator.follow("key-compromise", LEAKED=leaked["key_id"], LEAKED_KEY=leaked["api_key"])


def test_integrity_findings(operator: Operator) -> None:
    table = operator.table("damaged")
    operator.write(table, "a", wait=True)
    assert operator.stack.manage("backup", str(operator.directory / "backups"), "--with-data").returncode == 0
    ((path,),) = operator.sql(
        "SELECT f.path FROM data_file f JOIN table_def t USING (table_id) WHERE t.name = %s", table
    )
    (operator.objects / path).unlink()
    assert operator.stack.manage("integrity", "--tenant", operator.stack.tenant).returncode == 1
    operator.wait_for("DuckMeshFilesMissing", "DuckMeshIntegrityFailed")
    operator.follow("integrity-findings", OBJECTS=str(operator.objects))
    operator.wait_for_quiet("integrity-findings")
    assert operator.ids(table) == ["a"]


def test_compaction_behind(operator: Operator) -> None:
    table = operator.table("piling")
    operator.stop("worker-maintenance")
    for number in range(12):
        operator.write(table, str(number), wait=True)
    operator.wait_for("DuckMeshCompactionBehind")
    operator.follow("compaction-behind")
    operator.wait_for_quiet("compaction-behind")
    assert len(operator.ids(table)) == 12


def test_gc_stopped(operator: Operator) -> None:
    assert operator.stack.manage("retention").returncode == 0
    operator.stop("beat")
    operator.stop("worker-maintenance")
    operator.sql(
        "UPDATE gc_run SET requested_at = requested_at - interval '2 h', started_at = started_at - interval '2 h',"
        " ended_at = ended_at - interval '2 h' WHERE ended_at IS NOT NULL"
    )
    operator.wait_for("DuckMeshGcStopped")
    operator.follow("gc-stopped")
    operator.wait_for_quiet("gc-stopped")


def test_consistency_timeouts(operator: Operator) -> None:
    table = operator.table("late")
    operator.stack.freeze("worker-materialize")
    token = operator.write(table, "a")
    asked = {"sql": f"SELECT id FROM {table}", "min_visibility_token": token, "consistency_timeout_ms": 50}
    with operator.stack.api() as api:
        for _ in range(5):
            assert api.call("POST", "/v1/query", asked).status == 504
            time.sleep(1)
    operator.wait_for("DuckMeshConsistencyTimeouts")
    operator.follow("consistency-timeouts")
    operator.wait_for_quiet("consistency-timeouts")
    assert operator.ids(table) == ["a"]


def test_snapshot_publish_failures(operator: Operator) -> None:
    table = operator.table("unpublished")
    operator.stop("worker-materialize")
    operator.stack.start("worker-materialize", failpoints="materialize.before_commit=raise")
    for number in range(2):
        operator.write(table, str(number))
    operator.wait_for("DuckMeshSnapshotPublishFailures")
    operator.follow("snapshot-publish-failures")
    operator.wait_for_quiet("snapshot-publish-failures")
    assert operator.ids(table) == ["0", "1"]


def test_slow_queries(operator: Operator) -> None:
    heavy = {"sql": "SELECT count(*) FROM range(30000000000) a(i) WHERE hash(i) = 1", "timeout_ms": 60_000}
    with operator.stack.api() as api, ThreadPoolExecutor(1) as aside:

        def slow() -> bool:
            """Asked until it fires: of a histogram that begins with the first query no rate is known."""
            assert api.call("POST", "/v1/query", {**heavy, "timeout_ms": 800}).status == 504
            return "DuckMeshQueriesSlow" in operator.monitored.firing()

        wait_until(slow, "DuckMeshQueriesSlow fires", seconds=SETTLE_SECONDS)
        running = aside.submit(operator.query, heavy)
        operator.follow("slow-queries")
        assert running.result().status == 409
    operator.wait_for_quiet("slow-queries")


def test_upgrade_and_rollback(operator: Operator) -> None:
    operator.stop("api")
    operator.wait_for("DuckMeshApiDown", "DuckMeshInstanceDown")
    operator.follow("upgrade-and-rollback")
    operator.wait_for_quiet("upgrade-and-rollback")


def test_tenant_offboarding(operator: Operator) -> None:
    assert operator.stack.manage("create_tenant", "leaving").returncode == 0
    roles = [part for role in ("ingest_writer", "table_admin", "ops_admin") for part in ("--role", role)]
    keys = [json.loads(operator.stack.manage("create_api_key", "leaving", *roles, "--json").stdout) for _ in range(2)]
    with operator.stack.api(keys[0]["api_key"]) as api:
        assert api.call("POST", "/v1/tables", {"table_name": "mine"}).status == 201
        body = {"records": [{"payload": {"a": 1}}], "wait_for_visibility": True}
        assert api.call("POST", "/v1/ingest/mine", body).status == 200
    files = "SELECT path FROM data_file WHERE tenant_id = 'leaving'"
    (written,) = operator.sql(files)

    def safety_age_passes() -> None:
        operator.sql(
            "UPDATE data_file SET unreferenced_since = unreferenced_since - interval '2 days'"
            " WHERE tenant_id = 'leaving'"
        )

    operator.follow("tenant-offboarding", meanwhile=safety_age_passes, TENANT="leaving", KEY=keys[1]["api_key"])
    assert operator.sql(files) == []
    assert not (operator.objects / written[0]).exists()


def test_restore_from_backup(operator: Operator) -> None:
    table = operator.table("restored")
    operator.write(table, "a", wait=True)
    ((path,),) = operator.sql(
        "SELECT f.path FROM data_file f JOIN table_def t USING (table_id) WHERE t.name = %s", table
    )
    away = operator.directory / "away"
    (operator.objects / path).rename(away)
    assert operator.stack.manage("restore_drill").returncode == 1
    operator.wait_for("DuckMeshRestoreDrillFailed")
    away.rename(operator.objects / path)
    operator.follow("restore-from-backup")
    operator.wait_for_quiet("restore-from-backup")
    assert operator.ids(table) == ["a"]


def test_every_page_is_followed() -> None:
    followed = {name.removeprefix("test_").replace("_", "-") for name in globals() if name.startswith("test_")}
    assert set(names()) <= followed
