"""Workers, claims and rings over time: what is not an envelope's doing is not its attempt, and nothing piles up."""

import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from django.conf import settings
from django.db import connection

from duckmesh.kernel.config import ROOT
from ingest.models import IngestClaimBatch, IngestEvent
from storage.local import LocalStore
from storage.store import ObjectInfo
from tests.factories import make_table, make_tenant
from tests.lake import Lake, write_ids
from tests.together import Background

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(tmp_path)


@pytest.fixture
def tenant_id() -> str:
    tenant_id = make_tenant()
    make_table(tenant_id=tenant_id)
    return tenant_id


def test_session_ended_for_standing_idle_is_nobodys_attempt(lake: Lake, tenant_id: str) -> None:
    write_ids(tenant_id, "alone")
    address, _ = settings.DUCKMESH.database_url.rsplit("/", 1)
    environment = {
        **os.environ,
        "DUCKMESH_DATABASE_URL": f"{address}/{connection.settings_dict['NAME']}",
        "DUCKMESH_FAILPOINTS": f"materialize.before_commit=sleep:6@{lake.root / 'once'}",
    }
    command = [sys.executable, "-m", "tests.worker", tenant_id, str(lake.root)]
    subprocess.run(command, cwd=ROOT, env=environment, check=True, timeout=60, stdout=subprocess.DEVNULL)
    event = IngestEvent.objects.get(tenant_id=tenant_id)
    assert (event.state, event.attempts, event.error) == ("pending", 0, None)
    assert lake.materialize(tenant_id) == 1
    assert lake.rows(tenant_id) == {"alone": 1}


class Demoted(LocalStore):
    """While the file is put, the database's server becomes one that can only be read."""

    def put_file(self, key: str, path: Path) -> ObjectInfo:
        with connection.cursor() as cursor:
            cursor.execute("SET default_transaction_read_only = on")
        return super().put_file(key, path)


def test_demoted_database_is_nobodys_attempt_and_is_left(lake: Lake, tenant_id: str) -> None:
    write_ids(tenant_id, "alone")
    assert Background(partial(lake.materialize, tenant_id, store=Demoted(root=lake.root / "objects"))).result() == 0
    event = IngestEvent.objects.get(tenant_id=tenant_id)
    assert (event.state, event.attempts, event.error) == ("pending", 0, None)
    assert not IngestClaimBatch.objects.filter(tenant_id=tenant_id, state="claimed").exists(), (
        "another server released it"
    )
