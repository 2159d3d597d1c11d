"""Each page is followed on a stack that is broken in its way, and then its alerts are silent."""

import json
import secrets
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.runbooks.operator import Operator
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
    operator.keep("DuckMeshAckLatencyHigh", lambda: operator.slow_write(table))
    operator.restart("worker-materialize", failpoints="materialize.after_claim=sleep:1")
    operator.keep("DuckMeshWriteToVisibleSlow", lambda: operator.write(table, secrets.token_hex(8)))
    operator.stop("worker-materialize")
    operator.write(table, *"abcdefgh")
    operator.wait_for("DuckMeshVisibilityLag", "DuckMeshBacklogDeep", "DuckMeshQueueStalled")
    operator.wait_for("DuckMeshNoConsumer", "DuckMeshWorkerDown")
    operator.follow("high-ingest-lag")
    operator.wait_for_quiet("high-ingest-lag")
    assert set("abcdefgh") <= set(operator.ids(table))


def test_stuck_leases(operator: Operator) -> None:
    table = operator.table("stuck")
    operator.restart("worker-materialize", failpoints="materialize.after_claim=stop")
    operator.write(table, "a")
    operator.wait_to_find("SELECT 1 FROM ingest_claim_batch WHERE state = 'claimed'")
    operator.stop("beat")
    operator.stack.kill("worker-materialize")
    operator.restart("worker-maintenance", failpoints="run.after_claim=stop")
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
    operator.wait_to_find("SELECT 1 FROM beat_tick")  # it is heard of for the first time on a new stack
    operator.stop("beat")
    time.sleep(2)  # the sweeps that it has sent are done
    operator.sql("UPDATE beat_tick SET ticked_at = ticked_at - interval '2 minutes'")
    operator.wait_for("DuckMeshBeatSilent")
    operator.follow("beat-silent")
    operator.wait_for_quiet("beat-silent")


def test_postgresql_down_or_full(operator: Operator) -> None:
    table = operator.table("crowded")
    operator.stop("worker-materialize")
    operator.write_much(table)
    operator.wait_for("DuckMeshWritesRefused")
    with operator.crowd(80):
        operator.wait_for("DuckMeshConnectionsShort")
    operator.stop("postgres")
    operator.wait_for("DuckMeshCatalogDown")
    operator.fail_over()
    operator.wait_for("DuckMeshCatalogServerChanged")
    operator.stop("postgres")
    operator.follow("postgresql-down-or-full")
    operator.wait_for_quiet("postgresql-down-or-full")
    assert len(operator.ids(table)) == 200


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
    path = operator.file_of(table)
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
    operator.restart("worker-maintenance", failpoints="compaction.merge.before_commit=raise")
    operator.ask("/v1/compaction/run")
    operator.wait_for("DuckMeshCompactionFailing")
    operator.stop("worker-maintenance")
    operator.ask("/v1/compaction/run")
    operator.wait_for("DuckMeshRunsWaiting")
    operator.follow("compaction-behind")
    operator.wait_for_quiet("compaction-behind")
    assert len(operator.ids(table)) == 12


def test_gc_stopped(operator: Operator) -> None:
    assert operator.stack.manage("retention").returncode == 0
    operator.take_store_away()
    operator.ask("/v1/retention/run", orphans=True)
    operator.wait_for("DuckMeshGcFailing")
    operator.restart("minio")
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

    def ask_too_early() -> None:
        asked = {"sql": f"SELECT id FROM {table}", "min_visibility_token": token, "consistency_timeout_ms": 50}
        assert operator.query(asked).status == 504

    operator.keep("DuckMeshConsistencyTimeouts", ask_too_early)
    operator.follow("consistency-timeouts")
    operator.wait_for_quiet("consistency-timeouts")
    assert operator.ids(table) == ["a"]


def test_snapshot_publish_failures(operator: Operator) -> None:
    table = operator.table("unpublished")
    operator.restart("worker-materialize", failpoints="materialize.before_commit=raise")
    for number in range(2):
        operator.write(table, str(number))
    operator.wait_for("DuckMeshSnapshotPublishFailures")
    operator.follow("snapshot-publish-failures")
    operator.wait_for_quiet("snapshot-publish-failures")
    assert operator.ids(table) == ["0", "1"]


def test_slow_queries(operator: Operator) -> None:
    heavy = {"sql": "SELECT count(*) FROM range(30000000000) a(i) WHERE hash(i) = 1", "timeout_ms": 60_000}

    def ask_much() -> None:
        assert operator.query({**heavy, "timeout_ms": 800}).status == 504

    operator.keep("DuckMeshQueriesSlow", ask_much)
    with ThreadPoolExecutor(1) as aside:
        running = aside.submit(operator.query, heavy)
        operator.follow("slow-queries")
        assert running.result().status == 409
    operator.wait_for_quiet("slow-queries")


def test_upgrade_and_rollback(operator: Operator) -> None:
    operator.stop("runners")

    def fail() -> None:
        assert operator.query({"sql": "SELECT 1"}).status >= 500

    operator.keep("DuckMeshErrorBudgetBurns", fail)
    operator.keep("DuckMeshErrorBudgetBurnsFast", fail)
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
    path = operator.file_of(table)
    operator.sql("DELETE FROM restore_drill_run")
    operator.wait_for("DuckMeshRestoreDrillNever")
    assert operator.stack.manage("restore_drill").returncode == 0
    operator.sql(
        "UPDATE restore_drill_run SET requested_at = requested_at - interval '40 h',"
        " started_at = started_at - interval '40 h', ended_at = ended_at - interval '40 h'"
    )
    operator.wait_for("DuckMeshRestoreDrillOverdue")
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
