"""A tenant that is suspended: nothing of it is served, nothing of it is lost, and nobody else notices."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from django.http import HttpResponse
from django.test import Client

from api import keys
from catalog.models import IncidentAudit
from catalog.tenants import create_tenant, resume_tenant, suspend_tenant
from tests.factories import make_table, make_tenant
from tests.http import bearer, make_key, problem_of
from tests.integration.test_commands import Run
from tests.lake import Lake, record, write_ids

pytestmark = pytest.mark.django_db(transaction=True)

Call = Callable[[str, str, object], HttpResponse]


@pytest.fixture(autouse=True)
def _keys_are_looked_up_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys, "CACHE_FOR", keys.CACHE_FOR * 0)


def caller(client: Client, tenant_id: str) -> Call:
    headers = bearer(make_key(tenant_id))

    def call(method: str, address: str, body: object) -> HttpResponse:
        text = "" if body is None else json.dumps(body)
        return client.generic(method, address, text, content_type="application/json", headers=headers)

    return call


def test_every_request_is_refused_by_name_until_the_suspension_is_lifted(client: Client) -> None:
    tenant_id = make_tenant()
    call, other = caller(client, tenant_id), caller(client, make_tenant())
    make_table(tenant_id=tenant_id)
    requests = [
        ("POST", "/v1/ingest/events", {"records": [record("a")]}),
        ("POST", "/v1/query", {"sql": "SELECT 1"}),
        ("GET", "/v1/tables", None),
        ("DELETE", "/v1/tables/events", None),
        ("POST", "/v1/retention/run", {}),
    ]
    suspend_tenant(tenant_id=tenant_id, reason="unpaid", actor="test")
    for request in requests:
        problem = problem_of(call(*request), 403, "TENANT_SUSPENDED")
        assert not problem["retryable"]
        assert "unpaid" not in str(problem)
    assert other("GET", "/v1/tables", None).status_code == 200
    resume_tenant(tenant_id=tenant_id, reason="", actor="test")
    assert call("GET", "/v1/tables", None).status_code == 200


def test_what_was_accepted_becomes_visible_meanwhile_and_is_there_afterwards(client: Client, tmp_path: Path) -> None:
    tenant_id, lake = make_tenant(), Lake(tmp_path)
    make_table(tenant_id=tenant_id)
    call = caller(client, tenant_id)
    write_ids(tenant_id, "before")
    suspend_tenant(tenant_id=tenant_id, reason="", actor="test")
    problem_of(call("POST", "/v1/ingest/events", {"records": [record("refused")]}), 403, "TENANT_SUSPENDED")
    lake.materialize(tenant_id)
    assert set(lake.rows(tenant_id)) == {"before"}
    resume_tenant(tenant_id=tenant_id, reason="", actor="test")
    assert call("POST", "/v1/ingest/events", {"records": [record("after")]}).status_code == 200
    lake.materialize(tenant_id)
    assert set(lake.rows(tenant_id)) == {"before", "after"}


def test_the_command_suspends_and_lifts_and_both_are_on_record_once(capsys: pytest.CaptureFixture[str]) -> None:
    create_tenant(tenant_id="acme")
    done = Run(capsys, "suspend_tenant", "acme", "--reason", "unpaid", "--json")
    assert (done.status, done.document()) == (0, {"tenant_id": "acme", "state": "suspended"})
    assert Run(capsys, "suspend_tenant", "acme").out == "Tenant acme is suspended: its keys open nothing.\n"
    assert Run(capsys, "suspend_tenant", "acme", "--lift", "--json").document()["state"] == "active"
    assert Run(capsys, "suspend_tenant", "acme", "--lift").out == "Tenant acme is active: its keys open again.\n"
    on_record = IncidentAudit.objects.filter(tenant_id="acme", kind="tenant_state_changed").order_by("id")
    assert list(on_record.values_list("context", flat=True)) == [
        {"state": "suspended", "reason": "unpaid", "actor": "operator"},
        {"state": "active", "reason": "", "actor": "operator"},
    ]
