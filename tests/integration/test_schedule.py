"""What policies say happens by itself: once, whoever ticks, however long nobody did."""

import importlib
from collections.abc import Mapping
from datetime import time, timedelta
from typing import Any

import pytest
from django.conf import settings
from django.db import connection
from django.db.models import F

from catalog.tables import drop_table
from duckmesh.kernel.errors import JSON
from maintenance.asking import parse_options
from maintenance.errors import RunWorkerLost
from maintenance.history_keeping import forget_gone_tables, keep_history
from maintenance.job import Job, Kind, Progress
from maintenance.jobs import jobs
from maintenance.models import CompactionRun, GcRun, MaintenancePolicy, MaintenanceSchedule, Run
from maintenance.runs import MODELS, next_in_line
from maintenance.schedule import policy_of, request_due, waiting_runs
from tests.factories import make_snapshot, make_table, make_tenant
from tests.runs import ask, claimed, job, let_lease_run_out, row, run_here
from tests.together import together

pytestmark = pytest.mark.django_db(transaction=True)

HOUR = timedelta(hours=1)
JOBS: Mapping[Kind, Job] = {kind: job(kind=kind) for kind in Kind}


@pytest.fixture(autouse=True)
def _no_defaults() -> None:
    """The policies that migrations make are gone after the first test that empties the tables."""
    MaintenancePolicy.objects.all().delete()


def policy(kind: Kind, **values: Any) -> MaintenancePolicy:
    made = MaintenancePolicy.objects.create(**{"kind": kind, "interval": HOUR, **values})
    return MaintenancePolicy.objects.get(pk=made.pk)


def time_passes(by: timedelta) -> None:
    """Everything that a tick looks at is so much older."""
    with connection.cursor() as cursor:
        for table, column in (
            ("maintenance_policy", "created_at"),
            ("maintenance_schedule", "requested_at"),
            ("tenant", "created_at"),
            ("table_def", "created_at"),
        ):
            cursor.execute(f"UPDATE {table} SET {column} = {column} - %s::interval", [f"{by.total_seconds()} s"])


def end_all(kind: Kind) -> None:
    for run_id in MODELS[kind]._default_manager.filter(state="queued").values_list("run_id", flat=True):
        assert run_here(run_id, kind=kind) is not None


def test_a_run_is_due_an_interval_after_its_policy_was_made_and_then_after_the_last() -> None:
    policy(Kind.RETENTION)
    make_tenant()
    assert request_due(JOBS) == []
    time_passes(HOUR)
    (first,) = request_due(JOBS)
    found = row(first, kind=Kind.RETENTION)
    assert (found.requested_by, found.reason) == ("policy:default", "retention default every 1:00:00")
    assert request_due(JOBS) == []
    time_passes(HOUR)
    assert request_due(JOBS) == [], "the last has not ended"
    end_all(Kind.RETENTION)
    assert len(request_due(JOBS)) == 1


def test_two_beats_at_once_and_none_for_a_day_make_each_due_run_once() -> None:
    policy(Kind.RETENTION)
    policy(Kind.INTEGRITY, name="quick")
    policy(Kind.INTEGRITY, name="deep")
    tenants = {make_tenant() for _ in range(3)}
    for _ in range(2):
        time_passes(timedelta(days=1))
        together([lambda: request_due(JOBS) for _ in range(4)])
        assert set(GcRun.objects.filter(state="queued").values_list("tenant_id", flat=True)) == tenants
        assert GcRun.objects.filter(state="queued").count() == 3
        assert MODELS[Kind.INTEGRITY]._default_manager.filter(state="queued").count() == 6
        end_all(Kind.RETENTION)
        end_all(Kind.INTEGRITY)


def test_compaction_is_due_for_each_table_that_has_changed() -> None:
    policy(Kind.COMPACTION)
    tenant_id = make_tenant()
    changed, quiet, dropped = (make_table(tenant_id=tenant_id, name=name) for name in ("changed", "quiet", "dropped"))
    for table in (changed, dropped):
        make_snapshot(tenant_id=tenant_id, table_id=table.table_id)
    drop_table(tenant_id=tenant_id, name="dropped", actor="test")
    time_passes(HOUR)
    (run_id,) = request_due(JOBS)
    assert (row(run_id).tenant_id, row(run_id).table_id) == (tenant_id, changed.table_id)
    end_all(Kind.COMPACTION)
    time_passes(HOUR)
    assert request_due(JOBS) == []
    make_snapshot(tenant_id=tenant_id, table_id=quiet.table_id)
    (run_id,) = request_due(JOBS)
    assert row(run_id).table_id == quiet.table_id


def test_what_failed_is_tried_again_although_nothing_changed() -> None:
    policy(Kind.COMPACTION)
    tenant_id = make_tenant()
    make_snapshot(tenant_id=tenant_id, table_id=make_table(tenant_id=tenant_id).table_id)
    time_passes(HOUR)
    (run_id,) = request_due(JOBS)

    def fail(_progress: Progress) -> Mapping[str, JSON]:
        raise RunWorkerLost("Lost.")

    run_here(run_id, fail)
    assert row(run_id).state == "failed"
    assert request_due(JOBS) == []
    time_passes(HOUR)
    assert len(request_due(JOBS)) == 1


def test_the_most_specific_policy_holds_for_a_tenant_and_a_table() -> None:
    policy(Kind.COMPACTION)
    busy, idle = make_tenant(), make_tenant()
    tables = {}
    for tenant_id in (busy, idle):
        for name in ("a", "b"):
            tables[tenant_id, name] = make_table(tenant_id=tenant_id, name=name).table_id
            make_snapshot(tenant_id=tenant_id, table_id=tables[tenant_id, name])
    policy(Kind.COMPACTION, tenant_id=idle, enabled=False)
    policy(Kind.COMPACTION, tenant_id=idle, table_id=tables[idle, "b"], options={"size": 7})
    time_passes(HOUR)
    request_due(JOBS)
    asked = {run.table_id: run.options["size"] for run in CompactionRun.objects.all()}
    assert asked == {tables[busy, "a"]: 1, tables[busy, "b"]: 1, tables[idle, "b"]: 7}


def test_a_drill_is_of_everything_and_a_table_of_its_own_adds_to_what_looks_at_tenants() -> None:
    tenant_id = make_tenant()
    table_id = make_table(tenant_id=tenant_id).table_id
    policy(Kind.RESTORE_DRILL)
    policy(Kind.INTEGRITY)
    policy(Kind.INTEGRITY, tenant_id=tenant_id, table_id=table_id, interval=timedelta(minutes=1))
    time_passes(HOUR)
    request_due(JOBS)
    drills = MODELS[Kind.RESTORE_DRILL]._default_manager.values_list("tenant_id", "table_id")
    checks = MODELS[Kind.INTEGRITY]._default_manager.values_list("tenant_id", "table_id")
    assert (list(drills), set(checks)) == ([(None, None)], {(tenant_id, None), (tenant_id, table_id)})


def test_nothing_is_due_outside_the_window() -> None:
    make_tenant()
    with connection.cursor() as cursor:
        cursor.execute("SELECT (now() AT TIME ZONE 'UTC')::time")
        (at,) = cursor.fetchone()
    hour: int = at.hour
    closed = policy(Kind.RETENTION, window_start=time((hour + 2) % 24), window_end=time((hour + 3) % 24))
    time_passes(HOUR)
    assert request_due(JOBS) == []
    # Over midnight as soon as it is not early in the day: everything but the two hours that follow this one.
    MaintenancePolicy.objects.filter(pk=closed.pk).update(
        window_start=time((hour + 3) % 24), window_end=time((hour + 2) % 24)
    )
    assert len(request_due(JOBS)) == 1


def test_a_policy_with_options_that_the_job_does_not_know_is_named_and_stops_nobody_else(
    caplog: pytest.LogCaptureFixture,
) -> None:
    make_tenant()
    policy(Kind.RETENTION, options={"wrong": 1})
    policy(Kind.INTEGRITY)
    time_passes(HOUR)
    (run_id,) = request_due(JOBS)
    assert row(run_id, kind=Kind.INTEGRITY).state == "queued"
    assert "policy_invalid" in caplog.text
    assert "wrong" in caplog.text


def test_workers_hear_of_the_first_in_line_and_of_lost_runs_and_not_again_at_once() -> None:
    tenant_id = make_tenant()
    table = make_table(tenant_id=tenant_id)
    first, second = ask(tenant_id), ask(tenant_id)
    beside = ask(tenant_id, table_id=table.table_id)
    (one, two) = sorted(waiting_runs(), key=lambda poke: poke.table_name or "")
    assert (one.run_id, one.tenant_id, one.table_name) == (first, tenant_id, None)
    assert (two.run_id, two.table_name) == (beside, "events")
    assert waiting_runs() == []
    for run_id in (first, beside):
        claimed(run_id)
    age_pokes()
    assert waiting_runs() == [], "both are being computed"
    let_lease_run_out(first)
    assert [poke.run_id for poke in waiting_runs()] == [first]
    run_here(first)
    age_pokes()
    assert [poke.run_id for poke in waiting_runs()] == [second]


def age_pokes() -> None:
    CompactionRun.objects.update(poked_at=F("poked_at") - timedelta(minutes=1))


def test_who_waits_longest_is_next_in_line_once_a_run_has_ended() -> None:
    tenant_id = make_tenant()
    first, second, _third, other = ask(tenant_id), ask(tenant_id), ask(tenant_id), ask(make_tenant())
    claimed(first)
    assert next_in_line(kind=Kind.COMPACTION, behind=first) == []
    let_lease_run_out(first)
    run_here(first)
    assert [poke.run_id for poke in next_in_line(kind=Kind.COMPACTION, behind=first)] == [second]
    run_here(other)
    assert next_in_line(kind=Kind.COMPACTION, behind=other) == []


def test_the_default_policies_are_what_the_jobs_take() -> None:
    migration = importlib.import_module("maintenance.migrations.0006_default_policies")
    with connection.cursor() as cursor:
        cursor.execute(migration.DEFAULTS)
    found = {(row.kind, row.name): policy_of(row) for row in MaintenancePolicy.objects.all()}
    intervals = {key: each.interval for key, each in found.items()}
    assert intervals == {
        ("compaction", "default"): timedelta(minutes=1),
        ("retention", "default"): timedelta(minutes=1),
        ("integrity", "quick"): timedelta(hours=1),
        ("integrity", "deep"): timedelta(days=7),
        ("restore_drill", "default"): timedelta(days=1),
    }
    assert str(found["restore_drill", "default"].window) == "Window(start=datetime.time(2, 0), end=datetime.time(5, 0))"
    registered = jobs(settings.DUCKMESH)
    for each in found.values():
        if each.kind in registered:
            parse_options(registered[each.kind], each.options)


def test_history_goes_when_its_time_has_come_and_the_newest_success_stays() -> None:
    tenant_id = make_tenant()
    ages = {"fresh": HOUR, "old": timedelta(days=40), "older": timedelta(days=50)}
    runs = {}
    for name, age in ages.items():
        for by in ("test", "policy:default"):
            runs[name, by] = ask(tenant_id)
            run_here(runs[name, by])
            CompactionRun.objects.filter(run_id=runs[name, by]).update(
                requested_by=by, requested_at=F("requested_at") - age, ended_at=F("ended_at") - age
            )
    routine = ask(tenant_id)
    run_here(routine)
    two_days = timedelta(days=2)
    CompactionRun.objects.filter(run_id=routine).update(
        requested_by="policy:x", requested_at=F("requested_at") - two_days, ended_at=F("ended_at") - two_days
    )
    waiting = ask(tenant_id)
    CompactionRun.objects.filter(run_id=waiting).update(requested_at=F("requested_at") - ages["older"])
    lonely = ask(tenant_id, kind=Kind.RESTORE_DRILL)
    run_here(lonely, kind=Kind.RESTORE_DRILL)
    MODELS[Kind.RESTORE_DRILL]._default_manager.update(
        requested_at=F("requested_at") - ages["old"], ended_at=F("ended_at") - ages["old"]
    )
    assert keep_history(keep=timedelta(days=30), seconds=10) == 5
    kept = set(CompactionRun.objects.values_list("run_id", flat=True))
    assert kept == {runs["fresh", "test"], runs["fresh", "policy:default"], waiting}
    assert row(lonely, kind=Kind.RESTORE_DRILL).state == Run.State.SUCCEEDED


def test_policies_and_schedules_hold_no_table_and_go_with_it() -> None:
    tenant_id = make_tenant()
    table, kept = (make_table(tenant_id=tenant_id, name=name).table_id for name in ("gone", "kept"))
    for table_id in (table, kept):
        policy(Kind.COMPACTION, tenant_id=tenant_id, table_id=table_id)
        make_snapshot(tenant_id=tenant_id, table_id=table_id)
    time_passes(HOUR)
    assert len(request_due(JOBS)) == 2
    end_all(Kind.COMPACTION)
    CompactionRun.objects.filter(table_id=table).delete()
    with connection.cursor() as cursor:
        for name in ("snapshot_file", "data_file", "snapshot_table_watermark", "table_schema_version", "table_def"):
            cursor.execute(f"DELETE FROM {name} WHERE table_id = %s", [table])
    assert forget_gone_tables() == 2
    assert [row.table_id for row in MaintenancePolicy.objects.all()] == [kept]
    assert [row.table_id for row in MaintenanceSchedule.objects.all()] == [kept]
    assert forget_gone_tables() == 0
