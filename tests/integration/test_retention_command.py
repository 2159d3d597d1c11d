"""`manage.py retention`: the plan for people and machines, and the deed."""

import json
from io import StringIO

import pytest
from django.core.management import call_command

from catalog.models import Snapshot
from catalog.pins import pin_snapshot
from maintenance.models import GcRun
from tests.factories import make_snapshot, make_table, make_tenant

pytestmark = pytest.mark.django_db(transaction=True)


def run(*arguments: str) -> str:
    out = StringIO()
    call_command("retention", *arguments, stdout=out)
    return out.getvalue()


def test_command_lists_what_would_go_and_then_lets_it_go() -> None:
    tenant_id = make_tenant()
    table_id = make_table(tenant_id=tenant_id).table_id
    make_snapshot(tenant_id=tenant_id, table_id=table_id)
    pin_snapshot(tenant_id=tenant_id, snapshot_id=1, name="audit", actor="test")
    asked = ("--tenant", tenant_id, "--keep-all-for", "0s", "--ladder", "")
    lines = run(*asked, "--dry-run").splitlines()
    assert lines[:3] == [
        f"{tenant_id} snapshot 2: stays, the latest",
        f"{tenant_id} snapshot 1: stays, pinned as audit",
        f"{tenant_id} snapshot 0: expires, older than 0ms",
    ]
    assert lines[-1].startswith("1 snapshots would be expired, 0 files")
    assert Snapshot.objects.filter(tenant_id=tenant_id).count() == 3
    done = json.loads(run(*asked, "--json", "--no-orphans"))
    assert (done["state"], done["summary"]["snapshots_expired"], done["summary"]["tenants_swept"]) == (
        "succeeded",
        1,
        0,
    )
    assert Snapshot.objects.filter(tenant_id=tenant_id).count() == 2
    assert GcRun.objects.count() == 2
