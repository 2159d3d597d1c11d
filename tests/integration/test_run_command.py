"""Commands that are runs: in the foreground, in the history, with a status that means something."""

import time
import uuid
from typing import Any

import pytest

from maintenance.models import CompactionRun, IntegrityRun, Run
from maintenance.runs import finish_run
from tests.factories import make_snapshot, make_table, make_tenant
from tests.integration.test_commands import Run as Command
from tests.runs import ask, claimed
from tests.together import Background

pytestmark = pytest.mark.django_db(transaction=True)


def test_a_command_is_a_run_in_the_history_and_prints_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    tenant_id = make_tenant()
    make_table(tenant_id=tenant_id)
    done = Command(capsys, "compact", "--tenant", tenant_id, "--table", "EVENTS", "--json")
    document: dict[str, Any] = done.document()
    assert (done.status, done.err) == (0, "")
    run = CompactionRun.objects.get(run_id=uuid.UUID(document["run_id"]))
    assert (run.state, run.requested_by, run.tenant_id) == ("succeeded", "operator", tenant_id)
    assert (document["state"], document["summary"], document["table_name"]) == ("succeeded", run.summary, "events")


def test_a_run_that_found_something_is_status_1(capsys: pytest.CaptureFixture[str]) -> None:
    tenant_id = make_tenant()
    make_snapshot(tenant_id=tenant_id, table_id=make_table(tenant_id=tenant_id).table_id)  # whose object nobody wrote
    found = Command(capsys, "integrity", "--tenant", tenant_id, "--json")
    document: dict[str, Any] = found.document()
    assert (found.status, document["state"], document["error_code"]) == (1, "failed", "INTEGRITY_CHECK_FAILED")
    run = IntegrityRun.objects.get(run_id=uuid.UUID(document["run_id"]))
    assert (run.summary, run.findings.exists()) == (document["summary"], True)
    assert "INTEGRITY_CHECK_FAILED" in found.err


def test_what_cannot_be_asked_makes_no_run(capsys: pytest.CaptureFixture[str]) -> None:
    tenant_id = make_tenant()
    for owner in (tenant_id, make_tenant()):
        make_table(tenant_id=owner, name="events")
    for arguments, status, code in (
        (("--tenant", "nobody"), 1, "TENANT_NOT_FOUND"),
        (("--tenant", tenant_id, "--table", "nothing"), 1, "TABLE_NOT_FOUND"),
        (("--table", "nothing"), 1, "TABLE_NOT_FOUND"),
        (("--table", "events"), 2, "INVALID_REQUEST"),
    ):
        refused = Command(capsys, "compact", *arguments, "--json")
        assert (refused.status, refused.document()["error_code"]) == (status, code)
    assert not CompactionRun.objects.exists()


def test_a_command_waits_for_its_turn(capsys: pytest.CaptureFixture[str]) -> None:
    tenant_id = make_tenant()
    running = claimed(ask(tenant_id))

    def end_soon() -> None:
        deadline = time.monotonic() + 20
        while CompactionRun.objects.count() < 2 and time.monotonic() < deadline:
            time.sleep(0.02)
        assert CompactionRun.objects.filter(state="queued").count() == 1
        time.sleep(0.2)
        assert CompactionRun.objects.filter(state="queued").count() == 1
        finish_run(running, state=Run.State.SUCCEEDED, summary={})

    ending = Background(end_soon)
    done = Command(capsys, "compact", "--tenant", tenant_id, "--json")
    ending.result()
    assert (done.status, done.document()["state"]) == (0, "succeeded")
