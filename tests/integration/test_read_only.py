"""Read-only mode: what is refused, what goes on, and that every process knows within a second."""

import json
import time
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from catalog.errors import ReadOnly
from catalog.mode import REMEMBERED_FOR, forget_mode, is_read_only, require_writable, service_mode, set_mode
from catalog.models import IncidentAudit, ServiceMode
from duckmesh.kernel.errors import JSON
from ingest import tasks
from maintenance.job import Kind, Progress
from maintenance.runs import MODELS
from tests.factories import make_table, make_tenant
from tests.http import bearer, make_key, problem_of
from tests.integration.test_admin import operator, submit
from tests.integration.test_commands import Run
from tests.lake import Lake, fail_oldest, write_ids
from tests.runs import ask, row, run_here

pytestmark = pytest.mark.django_db(transaction=True)

__all__ = ["operator"]

NORMAL, READ_ONLY = ServiceMode.Mode.NORMAL, ServiceMode.Mode.READ_ONLY


@pytest.fixture(autouse=True)
def afterwards_normal() -> Iterator[None]:
    """The row goes with the test's data; what this process remembers must go as well."""
    forget_mode()
    yield
    forget_mode()


def stop_writes() -> None:
    set_mode(mode=READ_ONLY, reason="disk swap", actor="test")


def take_writes() -> None:
    set_mode(mode=NORMAL, reason="done", actor="test")


def test_a_write_is_refused_by_name_and_taken_again_afterwards(client: Client) -> None:
    tenant_id = make_tenant()
    headers = bearer(make_key(tenant_id))
    make_table(tenant_id=tenant_id)
    body = json.dumps({"records": [{"payload": {"id": "a", "n": 1}}]})
    send = partial(client.post, "/v1/ingest/events", body, content_type="application/json", headers=headers)
    stop_writes()
    problem = problem_of(send(), 503, "READ_ONLY")
    assert problem["retryable"]
    assert "disk swap" not in json.dumps(problem)  # the reason is the operators'
    assert client.get("/v1/tables", headers=headers).status_code == 200
    take_writes()
    assert send().status_code == 200


@pytest.mark.parametrize(
    ("method", "address", "body"),
    [
        ("POST", "/v1/tables", {"table_name": "new"}),
        ("PATCH", "/v1/tables/events", {"add": [{"name": "c", "type": "string"}]}),
        ("DELETE", "/v1/tables/events", None),
        ("POST", "/v1/snapshots/restore", {"snapshot_id": 0}),
        ("POST", "/v1/compaction/run", {}),
        ("POST", "/v1/retention/run", {}),
    ],
)
def test_whatever_changes_or_deletes_is_refused(client: Client, method: str, address: str, body: JSON) -> None:
    tenant_id = make_tenant()
    headers = bearer(make_key(tenant_id))
    make_table(tenant_id=tenant_id)
    stop_writes()
    text = "" if body is None else json.dumps(body)
    refused = client.generic(method, address, text, content_type="application/json", headers=headers)
    problem_of(refused, 503, "READ_ONLY")


def test_what_was_accepted_becomes_visible_and_a_failed_write_is_replayed_but_not_discarded(
    tmp_path: Path, client: Client
) -> None:
    tenant_id, lake = make_tenant(), Lake(tmp_path)
    make_table(tenant_id=tenant_id)
    write_ids(tenant_id, "a")
    failed = fail_oldest(tenant_id)
    write_ids(tenant_id, "b")
    stop_writes()
    lake.materialize(tenant_id)
    assert set(lake.rows(tenant_id)) == {"b"}
    address = f"/v1/failed-events/{failed}"
    headers = bearer(make_key(tenant_id))
    problem_of(client.delete(address, headers=headers), 503, "READ_ONLY")
    assert client.post(f"{address}/replay", headers=headers).status_code == 202
    lake.materialize(tenant_id)
    assert set(lake.rows(tenant_id)) == {"a", "b"}


def test_requests_share_one_look_at_the_mode() -> None:
    require_writable()
    with CaptureQueriesContext(connection) as statements:
        began = time.monotonic()
        for _ in range(10_000):
            require_writable()
        seconds = time.monotonic() - began
    assert len(statements) <= 1 + seconds / REMEMBERED_FOR


def test_another_process_knows_within_a_second() -> None:
    require_writable()
    # As another process does it, of which this one hears nothing.
    ServiceMode.objects.create(mode=READ_ONLY, changed_by="elsewhere")
    deadline = time.monotonic() + 1
    while not is_read_only():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    with pytest.raises(ReadOnly):
        require_writable()


def test_a_change_is_on_record_with_who_and_why_and_choosing_it_twice_changes_nothing() -> None:
    assert (service_mode().mode, service_mode().since) == (NORMAL, None)
    first = set_mode(mode=READ_ONLY, reason="disk swap", actor="admin:eve")
    assert set_mode(mode=READ_ONLY, reason="another", actor="admin:bob") == first == service_mode()
    assert (first.reason, first.changed_by) == ("disk swap", "admin:eve")
    (incident,) = IncidentAudit.objects.filter(kind="service_mode_changed")
    assert incident.context == {"mode": "read-only", "reason": "disk swap", "actor": "admin:eve"}


def test_runs_that_delete_wait_and_are_done_afterwards() -> None:
    tenant_id = make_tenant()
    waiting, reading = ask(tenant_id), ask(tenant_id, kind=Kind.INTEGRITY)
    stop_writes()
    assert run_here(waiting) is None
    assert (row(waiting).state, row(waiting).attempts) == ("queued", 0)
    assert run_here(reading, kind=Kind.INTEGRITY) is not None
    take_writes()
    assert run_here(waiting) is not None


@pytest.mark.parametrize("kind", [Kind.COMPACTION, Kind.RETENTION])
def test_a_run_at_work_gives_itself_back_at_its_next_step(kind: Kind) -> None:
    run_id = ask(make_tenant(), kind=kind)

    def interrupted(progress: Progress) -> Mapping[str, JSON]:
        progress.save({"done": 1})
        stop_writes()
        progress.at("deleting", 0.5)
        raise AssertionError("it went on")

    assert run_here(run_id, interrupted, kind=kind) is None
    assert (row(run_id, kind=kind).state, row(run_id, kind=kind).cursor) == ("queued", {"done": 1})


def test_a_dry_run_is_computed() -> None:
    run_id = ask(make_tenant())
    MODELS[Kind.COMPACTION]._default_manager.filter(run_id=run_id).update(options={"dry_run": True})
    stop_writes()
    assert run_here(run_id, _three_steps) is not None


def _three_steps(progress: Progress) -> Mapping[str, JSON]:
    for number in range(3):
        progress.at("looking", number / 3)
    return {}


def test_housekeeping_waits() -> None:
    stop_writes()
    with CaptureQueriesContext(connection) as statements:
        tasks.keep_house()
    (_looks_at_the_mode,) = statements.captured_queries
    take_writes()
    with CaptureQueriesContext(connection) as statements:
        tasks.keep_house()
    assert len(statements) > 1


def test_commands_set_show_and_obey_the_mode(capsys: pytest.CaptureFixture[str]) -> None:
    assert Run(capsys, "mode", "--json").document()["mode"] == "normal"
    chosen = Run(capsys, "mode", "read-only", "--reason", "disk swap")
    assert (chosen.status, chosen.out.splitlines()[0]) == (0, "mode: read-only")
    assert "by operator (disk swap)" in chosen.out
    shown = Run(capsys, "mode", "--json").document()
    assert (shown["mode"], shown["reason"], shown["changed_by"]) == ("read-only", "disk swap", "operator")
    for command in ("compact", "retention", "housekeeping"):
        refused = Run(capsys, command, "--json")
        assert (refused.status, refused.document()["error_code"]) == (1, "READ_ONLY")
    assert Run(capsys, "retention", "--dry-run", "--json").status == 0
    assert Run(capsys, "mode", "--reason", "none").status == 2
    assert Run(capsys, "mode", "normal", "--json").document()["mode"] == "normal"


def test_readiness_and_metrics_say_it_and_reads_stay_ready(client: Client) -> None:
    def gauge() -> str:
        lines = client.get("/v1/metrics").content.decode().splitlines()
        return next(line for line in lines if line.startswith("duckmesh_read_only"))

    assert gauge() == "duckmesh_read_only 0.0"
    stop_writes()
    ready = client.get("/v1/ready")
    assert ready.status_code == 200
    assert (ready.json()["writes"]["taken"], ready.json()["writes"]["mode"]) == (False, "read-only")
    assert gauge() == "duckmesh_read_only 1.0"


def test_an_operator_chooses_the_mode_in_the_admin(operator: Client) -> None:
    submit(operator, "/admin/catalog/servicemode/add/", mode="read-only", reason="disk swap")
    assert (service_mode().read_only, service_mode().changed_by) == (True, "admin:operator")
    assert operator.get("/admin/catalog/servicemode/add/").status_code == 403
    submit(operator, "/admin/catalog/servicemode/True/change/", mode="normal", reason="done")
    assert (service_mode().mode, service_mode().reason) == (NORMAL, "done")
    assert IncidentAudit.objects.filter(kind="service_mode_changed").count() == 2
