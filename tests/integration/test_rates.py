"""What a tenant may write: rates, depth and quotas, judged where its writes meet, exact whoever asks."""

import time
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest

from catalog.models import Tenant
from ingest.errors import Backpressure, QuotaExceeded, RateLimited
from ingest.publishing import WriteLimits
from tests.factories import make_table, make_tenant
from tests.lake import NO_LIMITS, Lake, record, write
from tests.together import together

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def tenant_id() -> str:
    tenant_id = make_tenant()
    make_table(tenant_id=tenant_id)
    return tenant_id


def records(prefix: str, count: int) -> list[dict[str, object]]:
    return [record(f"{prefix}-{n}") for n in range(count)]


def test_rate_lets_a_burst_pass_and_then_says_when_to_come_again(tenant_id: str) -> None:
    limits = WriteLimits(max_records_per_second=10, burst=timedelta(seconds=2))
    first = write(tenant_id, records("a", 20), limits=limits)
    assert [(rate.unit, rate.per_second) for rate in first.rates] == [("records", 10)]
    assert 1.5 < first.rates[0].owed <= 2
    with pytest.raises(RateLimited) as refused:
        write(tenant_id, records("b", 10), limits=limits)
    assert refused.value.context == {"unit": "records", "limit": 10}
    assert refused.value.retry_after == 1
    time.sleep(1.05)
    assert write(tenant_id, records("b", 10), limits=limits).accepted_count == 10


def test_request_larger_than_the_burst_passes_when_nothing_is_owed(tenant_id: str) -> None:
    limits = WriteLimits(max_records_per_second=10, burst=timedelta(seconds=1))
    assert write(tenant_id, records("a", 30), limits=limits).accepted_count == 30
    with pytest.raises(RateLimited) as refused:
        write(tenant_id, records("b", 1), limits=limits)
    assert refused.value.retry_after == 3


def test_duplicates_cost_nothing(tenant_id: str) -> None:
    limits = WriteLimits(max_records_per_second=10, burst=timedelta(seconds=1))
    for _ in range(5):
        write(tenant_id, records("a", 10), limits=limits)


def test_rate_in_bytes_is_of_what_is_kept(tenant_id: str) -> None:
    size = write(tenant_id, records("a", 100), limits=NO_LIMITS).size_bytes
    limits = WriteLimits(max_bytes_per_second=size, burst=timedelta(seconds=1))
    write(tenant_id, records("b", 100), limits=limits)
    with pytest.raises(RateLimited) as refused:
        write(tenant_id, records("c", 100), limits=limits)
    assert refused.value.context["unit"] == "bytes"


def test_what_the_tenants_row_says_goes_before_the_default_at_the_next_write(tenant_id: str) -> None:
    limits = WriteLimits(max_records_per_second=1, burst=timedelta(seconds=1))
    tenant = Tenant.objects.filter(tenant_id=tenant_id)
    tenant.update(max_records_per_second=0)
    assert write(tenant_id, records("b", 1_000), limits=limits).rates == ()
    tenant.update(max_records_per_second=5)
    write(tenant_id, records("c", 5), limits=limits)
    with pytest.raises(RateLimited):
        write(tenant_id, records("d", 5), limits=limits)
    tenant.update(max_records_per_second=None, max_pending_records=1_009)
    with pytest.raises(Backpressure):
        write(tenant_id, records("e", 5), limits=NO_LIMITS)


def test_rate_is_exact_whoever_writes(tenant_id: str) -> None:
    limits = WriteLimits(max_records_per_second=100, burst=timedelta(seconds=1))
    started = time.monotonic()

    def client(number: int) -> int:
        taken = 0
        for attempt in range(40):
            try:
                taken += write(tenant_id, records(f"{number}-{attempt}", 7), limits=limits).accepted_count
            except RateLimited:
                time.sleep(0.02)
        return taken

    taken = sum(together([partial(client, n) for n in range(6)]))
    elapsed = time.monotonic() - started
    assert 100 - 7 < taken <= 100 * (elapsed + 1)


def test_quota_counts_what_is_stored_in_files(tenant_id: str, tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    limits = WriteLimits(max_stored_files=2)
    for name in "ab":
        write(tenant_id, records(name, 1), limits=limits)
        lake.materialize(tenant_id)
    with pytest.raises(QuotaExceeded) as refused:
        write(tenant_id, records("c", 1), limits=limits)
    assert refused.value.context["stored_files"] == 2
    assert write(tenant_id, records("a", 1), limits=limits).duplicate_count == 1, "a retry is told the truth"
    stored = Tenant.objects.get(tenant_id=tenant_id).catalog.stored_bytes
    Tenant.objects.filter(tenant_id=tenant_id).update(max_stored_files=0, max_stored_bytes=stored)
    with pytest.raises(QuotaExceeded):
        write(tenant_id, records("c", 1), limits=limits)
    Tenant.objects.filter(tenant_id=tenant_id).update(max_stored_bytes=stored + 1)
    assert write(tenant_id, records("c", 1), limits=limits).accepted_count == 1
