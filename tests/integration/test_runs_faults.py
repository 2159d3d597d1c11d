"""Processes of the maintenance plane that are killed, at each step: the next one finishes their work, once."""

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from datetime import timedelta

import pytest
from django.conf import settings
from django.db import connection
from django.db.models import F

from duckmesh.kernel.config import ROOT
from duckmesh.kernel.errors import JSON
from maintenance.job import Kind, Progress
from maintenance.models import GcRun, MaintenancePolicy, MaintenanceSchedule
from maintenance.schedule import request_due, waiting_runs
from tests.factories import make_tenant
from tests.runs import ask, job, let_lease_run_out, row, run_here

pytestmark = pytest.mark.django_db(transaction=True)


def killed_at(step: str, *arguments: str) -> None:
    """A process that does this on the database of this test has killed itself at the step."""
    address, _ = settings.DUCKMESH.database_url.rsplit("/", 1)
    environment = {
        **os.environ,
        "DUCKMESH_DATABASE_URL": f"{address}/{connection.settings_dict['NAME']}",
        "DUCKMESH_FAILPOINTS": f"{step}=kill",
    }
    command = [sys.executable, "-m", "tests.maintenance", *arguments]
    status = subprocess.run(command, cwd=ROOT, env=environment, timeout=60, check=False).returncode
    assert status == -signal.SIGKILL


@pytest.mark.parametrize(
    ("step", "cursor"),
    [
        pytest.param("run.after_claim", {}, marks=pytest.mark.long),
        ("test.half", {"half": True}),
        pytest.param("run.before_finish", {"half": True}, marks=pytest.mark.long),
    ],
)
def test_a_killed_workers_run_goes_on_where_it_was(step: str, cursor: Mapping[str, JSON]) -> None:
    run_id = ask(make_tenant())
    killed_at(step, "run", str(run_id))
    found = row(run_id)
    assert (found.state, found.cursor) == ("running", cursor)
    assert run_here(run_id) is None, "its lease has not run out"
    assert waiting_runs() == []
    let_lease_run_out(run_id)
    assert [poke.run_id for poke in waiting_runs()] == [run_id]
    seen: list[Mapping[str, JSON]] = []

    def work(progress: Progress) -> Mapping[str, JSON]:
        seen.append(progress.cursor)
        return {"whole": True}

    run_here(run_id, work)
    assert seen == [cursor]
    assert (row(run_id).state, row(run_id).epoch) == ("succeeded", 2)


def test_a_worker_killed_after_the_end_leaves_nothing_to_do() -> None:
    run_id = ask(make_tenant())
    killed_at("run.after_finish", "run", str(run_id))
    assert (row(run_id).state, row(run_id).summary) == ("succeeded", {"whole": True})
    assert run_here(run_id) is None
    assert waiting_runs() == []


def test_a_tick_killed_before_its_commit_leaves_what_is_due_to_the_next() -> None:
    MaintenancePolicy.objects.all().delete()
    make_tenant()
    MaintenancePolicy.objects.create(kind=Kind.RETENTION, interval=timedelta(hours=1))
    past = F("created_at") - timedelta(hours=2)
    MaintenancePolicy.objects.update(created_at=past)
    with connection.cursor() as cursor:
        cursor.execute("UPDATE tenant SET created_at = created_at - interval '2 hours'")
    killed_at("tick.before_commit", "tick")
    assert (GcRun.objects.count(), MaintenanceSchedule.objects.count()) == (0, 0)
    jobs = {kind: job(kind=kind) for kind in Kind}
    assert (len(request_due(jobs)), len(request_due(jobs))) == (1, 0)
