"""Workers, claims and rings over time: what is not an envelope's doing is not its attempt, and nothing piles up."""

import os
import select
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
from django.conf import settings
from django.db import connection
from django.db.models import F
from django.db.models.functions import Now

from duckmesh.kernel.config import ROOT
from ingest import bus
from ingest.doorbell import Doorbell
from ingest.models import IngestClaimBatch, IngestClaimItem, IngestEvent
from storage.local import LocalStore
from storage.store import ObjectInfo
from tests.factories import make_table, make_tenant
from tests.lake import AT_ONCE, CLAIM, Lake, write_ids
from tests.together import Background

pytestmark = pytest.mark.django_db(transaction=True)


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


def test_old_claims_are_forgotten(lake: Lake, tenant_id: str) -> None:
    claims = IngestClaimBatch.objects.filter(tenant_id=tenant_id)
    write_ids(tenant_id, "a")
    assert lake.materialize(tenant_id) == 1
    assert IngestClaimItem.objects.filter(batch__in=claims).count() == 1
    claims.update(epoch=F("epoch") + 1)
    for epoch in (1, 1 + bus.KEPT_CLAIMS):
        ended = {"state": "released", "lease_until": Now(), "ended_at": Now(), "envelope_limit": 1}
        claims.create(tenant_id=tenant_id, consumer_id="test", epoch=epoch, **ended)
    write_ids(tenant_id, "b")
    assert lake.materialize(tenant_id) == 1
    kept = claims.order_by("epoch").values_list("epoch", flat=True)
    assert list(kept) == [1, 1 + bus.KEPT_CLAIMS, 2 + bus.KEPT_CLAIMS]
    assert IngestClaimItem.objects.filter(batch__in=claims).count() == 1, "with what they held"


def test_claim_that_finds_nothing_forgets_nothing(tenant_id: str) -> None:
    claims = IngestClaimBatch.objects.filter(tenant_id=tenant_id)
    for epoch in (1, bus.KEPT_CLAIMS):
        ended = {"state": "released", "lease_until": Now(), "ended_at": Now(), "envelope_limit": 1}
        claims.create(tenant_id=tenant_id, consumer_id="test", epoch=epoch, **ended)
    assert bus.claim(tenant_id=tenant_id, consumer_id="test", policy=CLAIM) is None
    assert claims.count() == 2


def test_doorbell_rings_in_a_forked_process() -> None:
    reader, writer = os.pipe()

    def send(tenant_id: str, wanted: int) -> None:
        os.write(writer, f"{tenant_id} {wanted}".encode())

    bell = Doorbell(send=send, policy=AT_ONCE)
    bell.awaited(tenant_id="parent", token=1)
    assert heard(reader) == "parent 1"
    time.sleep(0.05)  # its thread waits again
    child = os.fork()
    if child == 0:
        bell.awaited(tenant_id="child", token=1)
        time.sleep(2)
        os._exit(0)
    try:
        assert heard(reader) == "child 1"
    finally:
        os.waitpid(child, 0)
        os.close(reader)
        os.close(writer)


def heard(reader: int) -> str:
    ready, _, _ = select.select([reader], [], [], 5)
    return os.read(reader, 100).decode() if ready else "nothing"
