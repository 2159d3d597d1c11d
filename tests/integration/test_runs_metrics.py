"""What the metrics hear of runs: each end once, and the last success from the catalog."""

from collections.abc import Mapping
from datetime import timedelta

import pytest
from django.db.models import F
from django.test import Client
from prometheus_client import REGISTRY

from duckmesh.kernel.errors import JSON, Unavailable
from maintenance.errors import IntegrityCheckFailed
from maintenance.history import last_successes
from maintenance.job import Kind, Progress
from maintenance.models import CompactionRun
from maintenance.runs import cancel_run
from tests.factories import make_tenant
from tests.runs import ask, row, run_here

pytestmark = pytest.mark.django_db(transaction=True)

NAMES = {
    Kind.COMPACTION: "duckmesh_compaction_runs_total",
    Kind.RETENTION: "duckmesh_gc_runs_total",
    Kind.INTEGRITY: "duckmesh_integrity_runs_total",
    Kind.RESTORE_DRILL: "duckmesh_restore_drill_runs_total",
}


def counted(kind: Kind, outcome: str) -> float:
    return REGISTRY.get_sample_value(NAMES[kind], {"outcome": outcome}) or 0


def _fail(_progress: Progress) -> Mapping[str, JSON]:
    raise Unavailable("The store is away.")


def test_each_end_is_counted_once_by_its_outcome() -> None:
    tenant_id, outcomes = make_tenant(), ("succeeded", "failed", "cancelled")
    for kind in Kind:
        before = [counted(kind, outcome) for outcome in outcomes]
        run_id = ask(tenant_id, kind=kind)
        for _ in range(2):
            run_here(run_id, kind=kind)
        run_here(ask(tenant_id, kind=kind), _fail, kind=kind)
        cancel_run(kind=kind, run_id=ask(tenant_id, kind=kind), actor="test")
        assert [counted(kind, outcome) for outcome in outcomes] == [value + 1 for value in before]


def test_what_integrity_found_is_counted_and_a_drill_is_timed() -> None:
    names = ("files_checked", "missing_files", "size_mismatch_files")

    def totals() -> dict[str, float]:
        return {name: REGISTRY.get_sample_value(f"duckmesh_integrity_{name}_total") or 0 for name in names}

    def work(_progress: Progress) -> Mapping[str, JSON]:
        summary: dict[str, JSON] = {"unique_files_checked": 9, "missing_files": 2, "size_mismatch_files": 1}
        raise IntegrityCheckFailed("3 files are wrong.", summary=summary)

    before, timed = totals(), REGISTRY.get_sample_value("duckmesh_restore_drill_duration_seconds_count") or 0
    run_here(ask(make_tenant(), kind=Kind.INTEGRITY), work, kind=Kind.INTEGRITY)
    assert [totals()[name] - before[name] for name in names] == [9, 2, 1]
    run_here(ask(kind=Kind.RESTORE_DRILL), kind=Kind.RESTORE_DRILL)
    assert REGISTRY.get_sample_value("duckmesh_restore_drill_duration_seconds_count") == timed + 1


def test_the_last_success_is_read_from_the_catalog_and_no_failure_or_dry_run_moves_it(client: Client) -> None:
    tenant_id = make_tenant()
    success = ask(tenant_id)
    run_here(success)
    ended_at = row(success).ended_at
    run_here(ask(tenant_id), _fail)
    dry = ask(tenant_id)
    CompactionRun.objects.filter(run_id=dry).update(options={"dry_run": True})
    run_here(dry)
    assert last_successes() == {Kind.COMPACTION: ended_at}
    CompactionRun.objects.filter(run_id=success).update(
        requested_at=F("requested_at") - timedelta(days=9), ended_at=F("ended_at") - timedelta(days=9)
    )
    text = client.get("/v1/metrics").content.decode()
    (line,) = [line for line in text.splitlines() if line.startswith("duckmesh_last_successful_run_timestamp_seconds{")]
    assert line.startswith('duckmesh_last_successful_run_timestamp_seconds{kind="compaction"}')
    assert ended_at is not None
    assert float(line.split()[-1]) == pytest.approx((ended_at - timedelta(days=9)).timestamp(), abs=1)
    assert 'duckmesh_compaction_runs_total{outcome="cancelled"}' in text
