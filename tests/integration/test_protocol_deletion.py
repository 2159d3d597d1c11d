"""Attempts that commit late by a hair: what is about to be named is not deleted."""

from datetime import timedelta

import pytest
from django.db import transaction

from catalog.models import Snapshot
from catalog.publish import publish_snapshot
from ingest import bus
from maintenance.gc import Collected
from maintenance.orphans import sweep_orphans
from tests.ages import advance
from tests.factories import make_table, make_tenant
from tests.keeping import GRACE, check_reachable, new_file, retain
from tests.lake import Lake, write_ids
from tests.progress import Recorder
from tests.together import Background, wait_until_blocked

pytestmark = pytest.mark.django_db(transaction=True)

A_WHILE = timedelta(seconds=1)


@pytest.fixture
def tenant_id() -> str:
    tenant_id = make_tenant()
    make_table(tenant_id=tenant_id)
    return tenant_id


def sweep(lake: Lake, tenant_id: str) -> Collected:
    return sweep_orphans(tenant_id=tenant_id, grace=GRACE, store=lake.store, progress=Recorder(), done=0)


def test_object_whose_name_is_being_committed_is_no_orphan(lake: Lake, tenant_id: str) -> None:
    file = new_file(lake.store, tenant_id, make_table(tenant_id=tenant_id, name="more").table_id)
    retain(lake)
    advance(GRACE + A_WHILE, only="orphan_sighting")
    with transaction.atomic():
        publish_snapshot(tenant_id=tenant_id, kind=Snapshot.Kind.COMPACTION, actor="test", added=[file])
        # What the attempt asked of the clock was right a moment ago; the commit is late.
        sweeping = Background(lambda: sweep(lake, tenant_id))
        wait_until_blocked(1)
    assert sweeping.result() == Collected()
    check_reachable(tenant_id, lake.store)


def test_object_of_a_claim_that_is_being_published_is_no_orphan(lake: Lake, tenant_id: str) -> None:
    write_ids(tenant_id, "a")
    claim = bus.claim(tenant_id=tenant_id, consumer_id="test", policy=lake.claim)
    assert claim is not None
    file = new_file(lake.store, tenant_id, claim.envelopes[0].table_id)
    retain(lake)
    advance(GRACE + A_WHILE, only="orphan_sighting")
    with transaction.atomic():
        bus.hold(claim)
        sweeping = Background(lambda: sweep(lake, tenant_id))
        wait_until_blocked(1)
        snapshot = publish_snapshot(tenant_id=tenant_id, kind=Snapshot.Kind.INGEST, actor="test", added=[file])
        bus.ack(claim, snapshot_id=snapshot.snapshot_id, max_envelopes=9)
    assert sweeping.result() == Collected()
    check_reachable(tenant_id, lake.store)
