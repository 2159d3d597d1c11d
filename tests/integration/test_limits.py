"""A tenant's limits: set by the service, by command and in the API's answer; with what the tenant uses."""

import json
from typing import Any

import pytest
from django.conf import settings
from django.core.management import load_command_class
from django.test import Client

from catalog.errors import TenantNotFound
from catalog.limits import GREATEST, Limits, effective_limits, own_limits, set_limits, usage
from catalog.models import TenantLimitChange
from catalog.models.tenant import LIMITS
from duckmesh.kernel.errors import Invalid
from tests.factories import make_snapshot, make_table, make_tenant
from tests.http import bearer, make_key
from tests.lake import write_ids

pytestmark = pytest.mark.django_db(transaction=True)

DEFAULTS = Limits(
    max_records_per_second=0,
    max_bytes_per_second=1_000,
    max_pending_records=5_000_000,
    max_stored_bytes=0,
    max_stored_files=7,
)


def limits(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int | str | None, str, str]:
    """Exit status and output of `manage.py limits`."""
    capsys.readouterr()
    status: int | str | None = 0
    try:
        load_command_class("catalog", "limits").run_from_argv(["manage.py", "limits", *arguments])
    except SystemExit as end:
        status = end.code
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_a_tenant_without_limits_of_its_own_has_the_defaults() -> None:
    tenant_id = make_tenant()
    assert effective_limits(tenant_id=tenant_id, defaults=DEFAULTS) == DEFAULTS
    assert own_limits(tenant_id=tenant_id) == dict.fromkeys(LIMITS)


def test_a_limit_can_be_set_lifted_and_given_back_to_the_default() -> None:
    tenant_id = make_tenant()
    set_limits(tenant_id=tenant_id, changes={"max_stored_files": 3, "max_records_per_second": GREATEST}, actor="a")
    effective = effective_limits(tenant_id=tenant_id, defaults=DEFAULTS)
    assert (effective.max_stored_files, effective.max_records_per_second) == (3, GREATEST)
    set_limits(tenant_id=tenant_id, changes={"max_stored_files": 0, "max_records_per_second": None}, actor="b")
    effective = effective_limits(tenant_id=tenant_id, defaults=DEFAULTS)
    assert (effective.max_stored_files, effective.max_records_per_second) == (0, 0)
    assert own_limits(tenant_id=tenant_id)["max_records_per_second"] is None


def test_who_changed_what_stays_on_record_and_no_change_is_none() -> None:
    tenant_id = make_tenant()
    for value, actor in ((3, "admin:ann"), (3, "admin:bob"), (None, "operator")):
        set_limits(tenant_id=tenant_id, changes={"max_stored_files": value, "max_stored_bytes": None}, actor=actor)
    rows = TenantLimitChange.objects.filter(tenant_id=tenant_id).order_by("changed_at")
    assert list(rows.values_list("changed_by", "changes")) == [
        ("admin:ann", {"max_stored_files": [None, 3]}),
        ("operator", {"max_stored_files": [3, None]}),
    ]


@pytest.mark.parametrize("changes", [{"max_stored_files": -1}, {"max_stored_bytes": 2**63}, {"max_wishes": 3}])
def test_a_limit_that_cannot_be_is_refused_and_nothing_changes(changes: dict[str, int]) -> None:
    tenant_id = make_tenant()
    with pytest.raises(Invalid):
        set_limits(tenant_id=tenant_id, changes={"max_stored_files": 5} | changes, actor="a")
    assert own_limits(tenant_id=tenant_id) == dict.fromkeys(LIMITS)


def test_nobody_has_no_limits() -> None:
    with pytest.raises(TenantNotFound):
        set_limits(tenant_id="nobody", changes={"max_stored_files": 5}, actor="a")
    with pytest.raises(TenantNotFound):
        effective_limits(tenant_id="nobody", defaults=DEFAULTS)
    with pytest.raises(TenantNotFound):
        usage(tenant_id="nobody")


def test_usage_tells_what_is_stored_and_what_waits() -> None:
    tenant_id = make_tenant()
    table_id = make_table(tenant_id=tenant_id).table_id
    make_snapshot(tenant_id=tenant_id, table_id=table_id, files=2)
    write_ids(tenant_id, "a", "b", "c")
    used = usage(tenant_id=tenant_id)
    assert (used.stored_files, used.stored_bytes, used.pending_records) == (2, 2_000, 3)
    assert (used.records_ahead_ms, used.bytes_ahead_ms) == (0, 0)


def test_the_api_tells_a_tenant_its_own_limits(client: Client) -> None:
    tenant_id, other = make_tenant(), make_tenant()
    set_limits(tenant_id=tenant_id, changes={"max_stored_files": 3}, actor="a")
    answer = client.get("/v1/limits", headers=bearer(make_key(tenant_id, "ingest_writer"))).json()
    assert answer["tenant_id"] == tenant_id
    assert answer["limits"] == {**{name: getattr(settings.DUCKMESH, name) for name in LIMITS}, "max_stored_files": 3}
    assert answer["usage"] == dict.fromkeys(answer["usage"], 0)
    answer = client.get("/v1/limits", headers=bearer(make_key(other, "ops_admin"))).json()
    assert answer["limits"]["max_stored_files"] == settings.DUCKMESH.max_stored_files


def test_the_command_sets_and_shows(capsys: pytest.CaptureFixture[str]) -> None:
    tenant_id = make_tenant()
    options = ("--records-per-second", "500", "--stored-bytes", "10GiB", "--pending-records", "none")
    status, out, _ = limits(capsys, tenant_id, *options, "--json")
    told: dict[str, Any] = json.loads(out)
    assert status == 0
    assert told["limits"]["max_stored_bytes"] == 10 * 2**30
    assert told["own"] == {
        "max_records_per_second": 500,
        "max_bytes_per_second": None,
        "max_pending_records": 0,
        "max_stored_bytes": 10 * 2**30,
        "max_stored_files": None,
    }
    limits(capsys, tenant_id, "--records-per-second", "default")
    assert own_limits(tenant_id=tenant_id)["max_records_per_second"] is None
    _, out, _ = limits(capsys, tenant_id)
    lines = {line.split()[0]: line.split()[1:] for line in out.splitlines()}
    assert lines["max_stored_bytes"] == [str(10 * 2**30)]
    assert lines["max_records_per_second"] == ["none", "(default)"]
    assert lines["stored_files"] == ["0"]
    assert TenantLimitChange.objects.filter(tenant_id=tenant_id, changed_by="operator").count() == 2


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (("nobody",), 1),
        (("nobody", "--stored-files", "3"), 1),
        (("{tenant}", "--stored-files", "-3"), 2),
        (("{tenant}", "--stored-files", "3GiB"), 2),
        (("{tenant}", "--stored-bytes", "much"), 2),
        ((), 2),
    ],
)
def test_the_command_says_what_it_cannot_do(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], status: int
) -> None:
    tenant_id = make_tenant()
    ended, _, err = limits(capsys, *(argument.replace("{tenant}", tenant_id) for argument in arguments))
    assert (ended, bool(err)) == (status, True)
    assert not TenantLimitChange.objects.filter(tenant_id=tenant_id).exists()
