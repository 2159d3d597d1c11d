"""CONTRACT.md, section 7: lag, health, readiness, metrics, and the description of the API."""

import json
import re
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.acceptance.caller import Caller, problem_of
from tests.acceptance.conftest import SETTINGS
from tests.metrics import documented, fetch, shown
from tests.stack import Stack

OPEN = ("/v1/health", "/v1/ready", "/v1/metrics", "/v1/openapi.json", "/v1/docs")

COUNTERS = (
    *("duckmesh_ingest_requests_total", "duckmesh_ingest_records_total", "duckmesh_ingest_duplicates_total"),
    *("duckmesh_consistency_timeout_total", "duckmesh_claim_retries_total"),
    *("duckmesh_snapshot_publish_failures_total", "duckmesh_query_requests_total"),
)
HISTOGRAMS = (
    *("duckmesh_ingest_ack_latency_ms", "duckmesh_write_to_visible_latency_ms", "duckmesh_claim_batch_size"),
    *("duckmesh_commit_batch_latency_ms", "duckmesh_query_latency_ms", "duckmesh_query_scanned_files"),
    *("duckmesh_query_scanned_bytes",),
)
GAUGES = ("duckmesh_ingest_lag_events", "duckmesh_visibility_lag_ms", "duckmesh_latest_visibility_token")

LAG = (
    *("accepted_events", "claimed_events", "failed_events", "pending_events", "oldest_pending_lag_ms", "token_lag"),
    *("latest_visibility_token", "latest_issued_token", "latest_snapshot_id", "snapshot_age_ms"),
)


def types_and_samples(page: str) -> tuple[dict[str, str], dict[str, float]]:
    """The type of each family, and the sum of the samples of each name."""
    types, values = {}, dict[str, float]()
    for family in text_string_to_metric_families(page):
        types[family.name] = family.type
        for sample in family.samples:
            values[sample.name] = values.get(sample.name, 0) + sample.value
    return types, values


def sampled(caller: Caller) -> dict[str, float]:
    """The sums of the page as it is now."""
    return types_and_samples(caller.call("GET", "/v1/metrics").body.decode())[1]


def test_every_metric_is_there_before_anything_has_happened() -> None:
    with Stack(programs=("runners", "api"), settings=SETTINGS) as stack:
        caller = Caller(stack.base_url, None)
        types, values = types_and_samples(caller.call("GET", "/v1/metrics").body.decode())
        caller.close()
    for name in COUNTERS:
        assert (types[name.removesuffix("_total")], values[name]) == ("counter", 0), name
    for name in HISTOGRAMS:
        assert (types[name], values[f"{name}_count"], values[f"{name}_sum"]) == ("histogram", 0, 0), name
    for name in GAUGES:
        assert (types[name], values[name]) == ("gauge", 0), name


def test_metrics_count_what_happens(demo: Caller) -> None:
    table = demo.create({"a": "int64"})
    before = sampled(demo)
    for _ in range(2):
        demo.ingest(table, {"idempotency_key": "k", "payload": {"a": 1}}, wait=True)
    problem_of(demo.send(table, {"records": []}), 400, "INVALID_REQUEST")
    demo.rows(f"FROM {table}")
    demo.refused(403, "QUERY_FORBIDDEN", "SHOW TABLES")
    after = sampled(demo)
    for name, increase in (
        ("duckmesh_ingest_requests_total", 3),
        ("duckmesh_ingest_records_total", 1),
        ("duckmesh_ingest_duplicates_total", 1),
        ("duckmesh_ingest_ack_latency_ms_count", 2),
        ("duckmesh_query_requests_total", 2),
        ("duckmesh_query_latency_ms_count", 2),
        ("duckmesh_query_scanned_files_sum", 1),
        ("duckmesh_latest_visibility_token", 1),
    ):
        assert after[name] - before[name] == increase, name


def test_the_pages_of_a_live_stack_show_what_is_documented_and_nothing_else(
    contract_stack: Stack, demo: Caller
) -> None:
    table = demo.create({"a": "int64"})
    demo.ingest(table, {"payload": {"a": 1}}, wait=True)
    demo.rows(f"FROM {table}")
    assert contract_stack.manage("retention").returncode == 0
    found, known = shown(map(fetch, contract_stack.metrics_urls.values())), documented(tenant_labels=False)
    assert {name: described for name, described in found.items() if known.get(name) != described} == {}
    assert {name for name in known if name.startswith("duckmesh_")} <= found.keys()


def test_what_is_open_tells_nothing_of_a_tenant(nobody: Caller, demo: Caller, others: tuple[str, str]) -> None:
    table = demo.create({"a": "int64"}, name="very_private")
    demo.ingest(table, {"payload": {"a": 1}}, wait=True)
    for path in OPEN:
        for headers in ({}, {"Authorization": "Bearer nonsense"}):
            answer = nobody.call("GET", path, headers=headers)
            assert answer.status == 200, path
            for name in (b"very_private", b'"demo"', f'"{others[0]}"'.encode()):
                assert name not in answer.body, path
    assert demo.call("DELETE", f"/v1/tables/{table}").status == 204


def test_health_and_readiness_say_so(nobody: Caller) -> None:
    assert nobody.call("GET", "/v1/health").json()["status"] == "ok"
    ready = nobody.call("GET", "/v1/ready").json()
    assert ready["status"] == "ready"
    assert {"postgresql", "redis", "object_store", "migrations"} <= set(ready["checks"])
    assert set(ready["checks"].values()) == {"ok"}


def test_lag_has_its_members_and_is_nothing_when_all_is_visible(
    demo: Caller, other: Caller, others: tuple[str, str]
) -> None:
    table = demo.create({"a": "int64"})
    acknowledged = demo.ingest(table, *({"payload": {"a": n}} for n in range(3)), wait=True)
    lag = demo.call("GET", "/v1/lag").json()
    assert set(lag) >= {"tenant_id", "tables", *LAG}
    assert lag["tenant_id"] == "demo"
    token, snapshot_id = acknowledged["max_visibility_token"], acknowledged["visible_snapshot_id"]
    assert (lag["latest_visibility_token"], lag["latest_issued_token"]) == (token, token)
    assert lag["latest_snapshot_id"] == snapshot_id
    for name in ("accepted_events", "claimed_events", "pending_events", "oldest_pending_lag_ms", "token_lag"):
        assert lag[name] == 0
    assert lag["snapshot_age_ms"] >= 0
    assert other.call("GET", "/v1/lag").json()["tenant_id"] == others[0]


@pytest.fixture(scope="module")
def document(contract_stack: Stack) -> dict[str, Any]:
    caller = Caller(contract_stack.base_url, None)
    answer = caller.call("GET", "/v1/openapi.json")
    caller.close()
    found: dict[str, Any] = answer.json()
    return found


def resolved(document: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    """The schema that a reference stands for."""
    while "$ref" in schema:
        schema = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    return schema


def test_the_description_names_every_address_and_its_members(document: dict[str, Any]) -> None:
    assert re.fullmatch(r"3\.1\.\d", document["openapi"])

    def members(path: str, verb: str, status: str = "") -> set[str]:
        operation = document["paths"][path][verb]
        part = operation["responses"][status] if status else operation["requestBody"]
        return set(resolved(document, part["content"]["application/json"]["schema"])["properties"])

    definition = {
        *("table_name", "schema_json", "primary_key_cols", "partition_spec", "sort_cols", "compatibility_mode"),
    }
    table = definition | {"table_id", "tenant_id", "schema_version", "created_at"}
    assert members("/v1/tables", "post") == definition
    assert members("/v1/tables", "post", "201") == members("/v1/tables/{table}", "get", "200") >= table
    assert members("/v1/tables", "get", "200") >= {"tenant_id", "tables"}
    assert "204" in document["paths"]["/v1/tables/{table}"]["delete"]["responses"]
    assert members("/v1/ingest/{table}", "post") == {"records", "wait_for_visibility", "visibility_timeout_ms"}
    assert members("/v1/ingest/{table}", "post", "200") == {
        *("accepted_count", "duplicate_count", "max_visibility_token", "status", "visible_snapshot_id"),
    }
    assert members("/v1/query", "post") >= {
        *("sql", "params", "snapshot_id", "snapshot_time", "min_visibility_token"),
        *("consistency_timeout_ms", "timeout_ms", "row_limit"),
    }
    assert members("/v1/query", "post", "200") >= {
        *("columns", "column_types", "rows", "snapshot_id", "snapshot_time", "max_visibility_token"),
        *("truncated", "stats"),
    }
    assert members("/v1/lag", "get", "200") >= {"tenant_id", "tables", *LAG}
    for path in OPEN:
        assert "get" in document["paths"][path]
    problem = document["components"]["schemas"]["Problem"]["properties"]
    assert {"type", "title", "status", "detail", "error_code", "message", "retryable", "context", "trace_id"} == set(
        problem
    )


def test_answers_are_as_the_description_has_them(demo: Caller, document: dict[str, Any]) -> None:
    name = demo.create({"a": "int64"})
    for method, path, body, status in (
        ("get", "/v1/tables", None, "200"),
        ("get", "/v1/tables/{table}", None, "200"),
        ("post", "/v1/ingest/{table}", {"records": [{"payload": {"a": 1}}]}, "200"),
        ("post", "/v1/query", {"sql": f"FROM {name}"}, "200"),
        ("get", "/v1/lag", None, "200"),
        ("get", "/v1/health", None, "200"),
        ("get", "/v1/ready", None, "200"),
    ):
        answer = demo.call(method.upper(), path.replace("{table}", name), body)
        described = document["paths"][path][method]["responses"][status]["content"]["application/json"]["schema"]
        shape = resolved(document, described)
        assert set(shape["required"]) <= set(answer.json()) <= set(shape["properties"]), path


def test_the_page_of_the_description_needs_nothing_from_elsewhere(nobody: Caller) -> None:
    page = nobody.call("GET", "/v1/docs")
    assert page.headers["content-type"].startswith("text/html")
    text = page.body.decode()
    assert "://" not in text
    assert not re.search(r"""["'(]//""", text)
    assets = re.findall(r'(?:src|href)="(/[^"]+)"', text)
    assert len(assets) >= 2
    for asset in assets:
        assert nobody.call("GET", asset).status == 200
    assert json.loads(nobody.call("GET", "/v1/openapi.json").body)["info"]["title"] == "DuckMesh"
