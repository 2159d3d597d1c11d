"""Tokens that leap: after a catalog was restored, the next token lies far beyond all that are visible."""

import pytest

from catalog.models import TenantCatalog
from catalog.snapshots import latest_issued_token
from ingest.backlog import lag
from ingest.errors import Backpressure
from ingest.publishing import WriteLimits
from tests.factories import make_table, make_tenant
from tests.lake import record, write, write_ids

THREE = WriteLimits(max_pending_records=3)

pytestmark = pytest.mark.django_db(transaction=True)

FLOOR = 10**12


@pytest.fixture
def tenant_id() -> str:
    """A tenant whose tokens go on behind the floor that a restore has set."""
    tenant_id = make_tenant()
    make_table(tenant_id=tenant_id)
    TenantCatalog.objects.filter(tenant_id=tenant_id).update(token_floor=FLOOR)
    return tenant_id


def test_tokens_go_on_behind_the_floor(tenant_id: str) -> None:
    assert write_ids(tenant_id, "a", "b").max_visibility_token == FLOOR + 2
    assert write_ids(tenant_id, "c").max_visibility_token == FLOOR + 3
    assert latest_issued_token(tenant_id=tenant_id) == FLOOR + 3


def test_tokens_that_were_leapt_over_are_not_pending(tenant_id: str) -> None:
    assert lag(tenant_id=tenant_id).token_lag == 0
    for identity in "abc":
        write(tenant_id, [record(identity)], limits=THREE)
    told = lag(tenant_id=tenant_id)
    assert (told.token_lag, told.pending_events) == (3, 3)
    with pytest.raises(Backpressure) as full:
        write(tenant_id, [record("d")], limits=THREE)
    assert full.value.context == {"pending_records": 3, "limit": 3}


def test_first_write_is_never_refused_for_its_size(tenant_id: str) -> None:
    assert write(tenant_id, [record(identity) for identity in "abcdef"], limits=THREE).accepted_count == 6
    with pytest.raises(Backpressure):
        write(tenant_id, [record("g")], limits=THREE)
