"""Health, readiness, lag and metrics over HTTP."""

import json
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta

import pytest
from django.db import connection
from django.test import Client
from prometheus_client.parser import text_string_to_metric_families

from api.metrics import page, reading
from api.process import scrape_policy
from api.readiness import NotReady, Readiness, broker
from catalog.models import TenantCatalog
from catalog.tenants import create_tenant
from duckmesh.devstack.programs import free_port
from ingest.models import IngestEvent
from tests.factories import make_table
from tests.http import bearer, make_key, problem_of

# CONTRACT.md, section 7: what ingest, freshness, coordination and queries show.
CONTRACT = (
    "duckmesh_ingest_requests_total",
    "duckmesh_ingest_records_total",
    "duckmesh_ingest_duplicates_total",
    "duckmesh_ingest_ack_latency_ms",
    "duckmesh_ingest_lag_events",
    "duckmesh_visibility_lag_ms",
    "duckmesh_latest_visibility_token",
    "duckmesh_write_to_visible_latency_ms",
    "duckmesh_consistency_timeout_total",
    "duckmesh_claim_batch_size",
    "duckmesh_claim_retries_total",
    "duckmesh_commit_batch_latency_ms",
    "duckmesh_snapshot_publish_failures_total",
    "duckmesh_query_requests_total",
    "duckmesh_query_latency_ms",
    "duckmesh_query_scanned_files",
    "duckmesh_query_scanned_bytes",
)

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def no_database() -> Iterator[None]:
    """PostgreSQL is not where it should be."""
    port = connection.settings_dict["PORT"]
    connection.close()
    connection.settings_dict["PORT"] = str(free_port())
    yield
    connection.close()
    connection.settings_dict["PORT"] = port


def pending(tenant_id: str, *, table_id: int, first: int, records: int, state: str = "pending") -> None:
    IngestEvent.objects.create(
        tenant_id=tenant_id,
        table_id=table_id,
        schema_version=1,
        first_token=first,
        last_token=first + records - 1,
        record_count=records,
        size_bytes=9,
        state=state,
        error="it broke" if state == "failed" else None,
        passed_in=1 if state == "failed" else None,
    )


def samples(text: bytes) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (sample.name, tuple(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


def test_health_asks_nobody(client: Client, no_database: None) -> None:
    response = client.get("/v1/health")
    assert (response.status_code, response.json()) == (200, {"status": "ok"})


def test_ready_names_everything_it_asked(client: Client) -> None:
    response = client.get("/v1/ready")
    assert response.status_code == 200, response.content
    names = ["postgresql", "migrations", "redis", "object_store", "query_sealing"]
    writes = {"taken": True, "short_of": [], "mode": "normal", "server": "known"}
    assert response.json() == {"status": "ready", "checks": dict.fromkeys(names, "ok"), "writes": writes}


def test_a_database_that_is_down_is_named_and_nothing_else_told(client: Client, no_database: None) -> None:
    response = client.get("/v1/ready")
    problem = problem_of(response, 503, "DEPENDENCY_UNAVAILABLE")
    assert problem["context"]["down"] == ["postgresql", "migrations"]
    assert problem["context"]["checks"]["redis"] == "ok"
    assert connection.settings_dict["PORT"] not in response.content.decode()


def test_a_broker_that_is_down_is_named_and_nothing_else_told() -> None:
    redis = broker(f"redis://:hunter2@127.0.0.1:{free_port()}/0")
    with pytest.raises(NotReady) as caught:
        Readiness({"redis": redis, "well": lambda: None}, within=timedelta(seconds=5)).require()
    assert caught.value.context == {"down": ["redis"], "checks": {"redis": "does not answer", "well": "ok"}}
    assert caught.value.message == "Not ready: redis does not answer."


def test_a_dependency_that_hangs_is_down_in_time_and_holds_one_thread() -> None:
    release = threading.Event()
    asked = []

    def hang() -> None:
        asked.append(1)
        release.wait(30)

    readiness = Readiness({"slow": hang, "quick": lambda: None}, within=timedelta(milliseconds=50))
    began = time.monotonic()
    for _ in range(5):
        with pytest.raises(NotReady) as caught:
            readiness.require()
        assert caught.value.context["checks"] == {"slow": "does not answer", "quick": "ok"}
    assert time.monotonic() - began < 5
    assert len(asked) == 1
    release.set()
    for _ in range(100):
        if _answers(readiness):
            break
        time.sleep(0.05)
    assert readiness.require() == {"slow": "ok", "quick": "ok"}


def _answers(readiness: Readiness) -> bool:
    try:
        readiness.require()
    except NotReady:
        return False
    return True


def test_a_database_that_lacks_migrations_is_not_ready(client: Client) -> None:
    with connection.cursor() as cursor:
        cursor.execute("UPDATE django_migrations SET app = 'gone' WHERE app = 'api' AND name LIKE '0001%'")
    try:
        problem = problem_of(client.get("/v1/ready"), 503, "DEPENDENCY_UNAVAILABLE")
        assert problem["context"]["down"] == ["migrations"]
        assert "migrations lacks 1 of" in problem["detail"]
    finally:
        with connection.cursor() as cursor:
            cursor.execute("UPDATE django_migrations SET app = 'api' WHERE app = 'gone'")


def test_lag_tells_what_waits_with_no_worker_alive(client: Client) -> None:
    create_tenant(tenant_id="acme")
    table_id = make_table(tenant_id="acme", name="t").table_id
    pending("acme", table_id=table_id, first=1, records=3)
    pending("acme", table_id=table_id, first=4, records=4, state="failed")
    pending("acme", table_id=make_table(tenant_id="acme", name="u").table_id, first=8, records=2)
    lag = client.get("/v1/lag", headers=bearer(make_key("acme", "ops_admin"))).json()
    assert lag.pop("oldest_pending_lag_ms") >= 0
    assert lag.pop("snapshot_age_ms") >= 0
    for table in lag["tables"]:
        assert table.pop("oldest_pending_lag_ms") >= 0
    assert lag == {
        "tenant_id": "acme",
        "accepted_events": 5,
        "claimed_events": 0,
        "failed_events": 4,
        "retrying_events": 0,
        "pending_events": 5,
        "token_lag": 9,
        "latest_visibility_token": 0,
        "latest_issued_token": 9,
        "latest_snapshot_id": 2,
        "tables": [
            {"table_name": "t", "pending_events": 3, "failed_events": 4, "retrying_events": 0},
            {"table_name": "u", "pending_events": 2, "failed_events": 0, "retrying_events": 0},
        ],
    }


def test_lag_is_of_the_own_tenant(client: Client) -> None:
    for tenant_id in ("acme", "other"):
        create_tenant(tenant_id=tenant_id)
    pending("acme", table_id=make_table(tenant_id="acme", name="t").table_id, first=1, records=3)
    lag = client.get("/v1/lag", headers=bearer(make_key("other", "ops_admin"))).json()
    assert (lag["tenant_id"], lag["pending_events"], lag["tables"]) == ("other", 0, [])


def test_the_gauges_are_read_from_the_catalog_at_the_scrape(client: Client) -> None:
    for tenant_id, first, records in (("acme", 1, 3), ("other", 3, 4)):
        create_tenant(tenant_id=tenant_id)
        pending(tenant_id, table_id=make_table(tenant_id=tenant_id).table_id, first=first, records=records)
    TenantCatalog.objects.filter(tenant_id="other").update(visible_token=2)
    response = client.get("/v1/metrics")
    assert response["Content-Type"].startswith("text/plain")
    values = samples(response.content)
    assert values["duckmesh_ingest_lag_events", ()] == 7
    assert values["duckmesh_latest_visibility_token", ()] == 2
    assert values["duckmesh_latest_issued_token", ()] == 9
    assert values["duckmesh_visibility_lag_ms", ()] > 0
    assert values["duckmesh_catalog_up", ()] == 1
    assert b"acme" not in response.content
    labelled = samples(page(reading(replace(scrape_policy(), tenant_labels=True))))
    assert labelled["duckmesh_ingest_lag_events", (("tenant", "acme"),)] == 3
    assert labelled["duckmesh_ingest_lag_events", (("tenant", "other"),)] == 4


def test_every_metric_of_the_contract_that_exists_is_on_the_page(client: Client) -> None:
    text = client.get("/v1/metrics").content.decode()
    for name in CONTRACT:
        assert f"# TYPE {name} " in text, name
    values = samples(text.encode())
    for name in CONTRACT:  # with several processes a family without samples would not be there at all
        assert any(sample.startswith(name) for sample, _ in values), name
    assert ("duckmesh_ingest_requests_total", (("outcome", "accepted"),)) in values


def test_metrics_say_that_the_catalog_is_down(client: Client, no_database: None) -> None:
    response = client.get("/v1/metrics")
    assert response.status_code == 200
    values = samples(response.content)
    assert values["duckmesh_catalog_up", ()] == 0
    assert ("duckmesh_ingest_lag_events", ()) not in values


def test_without_a_catalog_nobody_is_let_in(client: Client, no_database: None) -> None:
    response = client.get("/v1/lag", headers=bearer("dm_aaaaaaaaaaaa_x"))
    assert problem_of(response, 503, "DEPENDENCY_UNAVAILABLE")["retryable"]
    assert json.loads(response.content)["context"] == {}
