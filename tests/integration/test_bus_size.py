"""However much goes through the bus, on disk it stays as large as what it still has to remember."""

import time
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest
from django.db import connection

from ingest.housekeeping import HousekeepingPolicy, keep_house
from ingest.models import IngestEvent, IngestKey
from tests.factories import make_table, make_tenant
from tests.lake import Lake, record, write

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.long]

TABLES = ("ingest_event", "ingest_payload", "ingest_key", "ingest_claim_batch", "ingest_claim_item", "ingest_staged")
WINDOW = timedelta(seconds=4)
REQUESTS, RECORDS, ROUND = 1_000, 1_000, 20


def sizes() -> dict[str, int]:
    """Bytes on disk of the bus's tables, each with its indexes and what is stored out of line."""
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT {', '.join('pg_total_relation_size(%s)' for _ in TABLES)}", TABLES)
        return dict(zip(TABLES, cursor.fetchone(), strict=True))


def vacuum() -> None:
    """What autovacuum does within a minute or so; this test lives faster."""
    with connection.cursor() as cursor:
        for table in TABLES:
            cursor.execute(f"VACUUM (ANALYZE) {table}")


def test_a_million_records_leave_the_bus_as_large_as_its_window(tmp_path: Path) -> None:
    lake, tenant_id = Lake(tmp_path), make_tenant()
    make_table(tenant_id=tenant_id)
    policy = HousekeepingPolicy(window=WINDOW, unnamed_for=timedelta(days=1), scratch=tmp_path / "scratch")
    clean = partial(keep_house, store=lake.store, policy=policy, seconds=60)
    most: dict[str, int] = dict.fromkeys(TABLES, 0)
    half: dict[str, int] = {}
    most_keys, purged = 0, 0
    for request in range(REQUESTS):
        write(tenant_id, [record(f"{request}-{n}") for n in range(RECORDS)])
        if request % ROUND != ROUND - 1:
            continue
        lake.materialize(tenant_id)
        purged += clean().keys
        vacuum()
        most_keys = max(most_keys, IngestKey.objects.count())
        most = {table: max(size, most[table]) for table, size in sizes().items()}
        if request < REQUESTS / 2:
            half = most
    assert purged + IngestKey.objects.count() == REQUESTS * RECORDS
    assert most_keys < REQUESTS * RECORDS / 2, "the window is short, or this machine is very slow"
    print(f"\nmost keys at once {most_keys}, sizes {most}, after half of the records {half}")
    for table in TABLES:
        assert most[table] <= 1.5 * half[table] + 2**20, f"{table} grows with the traffic: {half} {most}"

    time.sleep(WINDOW.total_seconds())
    clean()
    assert (IngestEvent.objects.count(), IngestKey.objects.count()) == (1, RECORDS)
