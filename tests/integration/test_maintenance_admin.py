"""The operator's pages of maintenance."""

from datetime import timedelta

import pytest
from django.contrib.admin.models import LogEntry
from django.test import Client

from maintenance.job import Kind
from maintenance.models import IntegrityFinding, MaintenancePolicy
from maintenance.runs import tell_phase
from tests.factories import make_snapshot, make_table, make_tenant
from tests.integration.test_admin import operator, submit
from tests.runs import ask, claimed

pytestmark = pytest.mark.django_db(transaction=True)

__all__ = ["operator"]  # a fixture

ADD = "/admin/maintenance/maintenancepolicy/add/"


@pytest.fixture(autouse=True)
def _no_defaults() -> None:
    MaintenancePolicy.objects.all().delete()


def form(**values: object) -> dict[str, object]:
    return {"kind": "compaction", "name": "default", "enabled": "on", "interval": "00:05:00", "options": "{}", **values}


def test_a_policy_is_made_with_options_of_the_job_and_the_log_says_who(operator: Client) -> None:
    tenant_id = make_tenant()
    table_id = make_table(tenant_id=tenant_id).table_id
    chosen = {"tenant": tenant_id, "table": table_id, "window_start": "22:00", "window_end": "04:00"}
    submit(operator, ADD, **form(**chosen, options='{"full": true}'))
    made = MaintenancePolicy.objects.get()
    assert (made.tenant_id, made.table_id, made.interval) == (tenant_id, table_id, timedelta(minutes=5))
    assert (made.options, f"{made.window_start:%H}-{made.window_end:%H}") == ({"full": True}, "22-04")
    assert LogEntry.objects.filter(user__username="operator").exists()


REFUSED: list[tuple[dict[str, object], str]] = [
    ({"options": '{"nonsense": 1}'}, "nonsense"),
    ({"options": '{"full": "yes"}'}, "full"),
    ({"options": "[1]"}, "JSON object"),
    ({"kind": "x"}, "valid choice"),
    ({"interval": "0"}, "maintenance_policy_interval"),
    ({"window_start": "02:00"}, "start and an end"),
    ({"window_start": "02:00", "window_end": "02:00"}, "maintenance_policy_window"),
    ({"kind": "restore_drill", "tenant": "TENANT"}, "of everything"),
    ({"table": "TABLE"}, "table of the tenant"),
]


def test_a_policy_that_no_tick_could_act_upon_is_refused(operator: Client) -> None:
    tenant_id = make_tenant()
    known = {"TENANT": tenant_id, "TABLE": make_table(tenant_id=tenant_id).table_id}
    for values, words in REFUSED:
        given = {name: known.get(str(value), value) for name, value in values.items()}
        assert words in submit(operator, ADD, **form(**given)), values
    assert not MaintenancePolicy.objects.exists()


def test_one_policy_of_a_kind_and_name_holds_for_a_scope(operator: Client) -> None:
    submit(operator, ADD, **form())
    assert "errorlist" in submit(operator, ADD, **form(interval="00:01:00"))
    assert MaintenancePolicy.objects.count() == 1
    submit(operator, ADD, **form(name="other"))
    assert MaintenancePolicy.objects.count() == 2


def test_what_holds_for_each_tenant_and_table_is_shown(operator: Client) -> None:
    tenant_id, other = make_tenant("busy"), make_tenant("idle")
    for owner in (tenant_id, other):
        make_snapshot(tenant_id=owner, table_id=make_table(tenant_id=owner, name="flights").table_id)
    MaintenancePolicy.objects.create(kind=Kind.COMPACTION, interval=timedelta(minutes=7))
    MaintenancePolicy.objects.create(
        kind=Kind.COMPACTION, tenant_id=other, interval=timedelta(minutes=9), enabled=False
    )
    MaintenancePolicy.objects.create(kind=Kind.RESTORE_DRILL, interval=timedelta(days=3))
    page = operator.get("/admin/maintenance/maintenancepolicy/effective/").content.decode()
    for words in (tenant_id, other, "flights", "0:07:00", "turned off", "3 days"):
        assert words in page
    assert "0:09:00" not in page
    one = operator.get("/admin/maintenance/maintenancepolicy/effective/", {"tenant": other}).content.decode()
    assert other in one
    assert tenant_id not in one
    assert "What holds for whom" in operator.get("/admin/maintenance/maintenancepolicy/").content.decode()
    assert Client().get("/admin/maintenance/maintenancepolicy/effective/").status_code == 302


def test_runs_and_findings_are_shown_and_cannot_be_changed(operator: Client) -> None:
    tenant_id = make_tenant()
    run_id = ask(tenant_id, kind=Kind.INTEGRITY)
    tell_phase(claimed(run_id, kind=Kind.INTEGRITY), phase="listing", done=0.42)
    IntegrityFinding.objects.create(run_id=run_id, kind="missing_file", severity="error", object_key="t/part-1")
    for name in ("compactionrun", "gcrun", "integrityrun", "restoredrillrun", "integrityfinding"):
        page = operator.get(f"/admin/maintenance/{name}/")
        assert page.status_code == 200
        assert operator.get(f"/admin/maintenance/{name}/add/").status_code == 403
    page = operator.get("/admin/maintenance/integrityrun/").content.decode()
    assert "42%" in page
    assert "listing" in page
    assert operator.get(f"/admin/maintenance/integrityrun/{run_id}/change/").status_code == 200
    assert operator.post(f"/admin/maintenance/integrityrun/{run_id}/delete/").status_code == 403
    assert "t/part-1" in operator.get("/admin/maintenance/integrityfinding/").content.decode()
