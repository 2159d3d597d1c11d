"""The OpenAPI document agrees with the routes and with CONTRACT.md."""

import json
from typing import Any

import pytest
from django.conf import settings
from django.test import Client
from django.urls import URLPattern
from jsonschema import Draft202012Validator

from api.views.base import Endpoint
from duckmesh.urls import urlpatterns
from maintenance.jobs import jobs

# The paths of CONTRACT.md that exist so far.
CONTRACT = {
    "/v1/tables": {"get", "post"},
    "/v1/tables/{table}": {"get", "patch", "delete"},
    "/v1/ingest/{table}": {"post"},
    "/v1/failed-events": {"get"},
    "/v1/failed-events/{id}": {"get", "delete"},
    "/v1/failed-events/{id}/replay": {"post"},
    "/v1/query": {"post"},
    "/v1/snapshots": {"get"},
    "/v1/snapshots/{id}": {"get"},
    "/v1/snapshots/{id}/diff": {"get"},
    "/v1/snapshots/pin": {"post"},
    "/v1/snapshots/restore": {"post"},
    "/v1/snapshots/pins": {"get"},
    "/v1/snapshots/pins/{name}": {"get", "delete"},
    "/v1/query/schema": {"get"},
    "/v1/query/history": {"get"},
    "/v1/queries": {"get"},
    "/v1/queries/{query}": {"delete"},
    **{f"/v1/{kind.value.replace('_', '-')}/run": {"post"} for kind in jobs(settings.DUCKMESH)},
    "/v1/runs": {"get"},
    "/v1/runs/{id}": {"get", "delete"},
    "/v1/limits": {"get"},
    "/v1/lag": {"get"},
    "/v1/doctor": {"get"},
    "/v1/health": {"get"},
    "/v1/ready": {"get"},
    "/v1/metrics": {"get"},
    "/v1/openapi.json": {"get"},
    "/v1/docs": {"get"},
}


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(Client().get("/v1/openapi.json").content)
    return answer


def operations(document: dict[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
    return {(path, verb): item for path, verbs in document["paths"].items() for verb, item in verbs.items()}


def test_the_document_is_openapi_3_1_and_names_every_path(document: dict[str, Any]) -> None:
    assert document["openapi"].startswith("3.1")
    assert document["info"]["title"] == "DuckMesh"
    assert {path: set(verbs) for path, verbs in document["paths"].items()} == CONTRACT


def test_every_reference_resolves_and_every_schema_is_one(document: dict[str, Any]) -> None:
    components = document["components"]["schemas"]
    for schema in components.values():
        Draft202012Validator.check_schema(schema)

    def references(part: Any) -> list[str]:
        if isinstance(part, dict):
            own = [part["$ref"]] if isinstance(part.get("$ref"), str) else []
            return own + [found for value in part.values() for found in references(value)]
        return [found for value in part for found in references(value)] if isinstance(part, list) else []

    assert {found.removeprefix("#/components/schemas/") for found in references(document)} <= set(components)


def test_every_operation_says_who_may_and_how_it_fails(document: dict[str, Any]) -> None:
    views = {
        "/" + str(route.pattern).replace("<str:", "{").replace(">", "}"): route.callback.view_class  # type: ignore[attr-defined]
        for route in urlpatterns
        if isinstance(route, URLPattern)
    }
    for (path, verb), operation in operations(document).items():
        view = views[path]
        assert issubclass(view, Endpoint)
        assert operation["operationId"]
        assert operation["summary"]
        assert operation["responses"]["default"]["content"] == {
            "application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}
        }
        if "requestBody" in operation:
            assert operation["requestBody"].get("required", False) is not path.endswith("/run")
        if view.open_to_everyone:
            assert "security" not in operation or operation["security"] == [{}]
            assert "x-required-roles" not in operation
        else:
            assert operation["security"] == [{"bearer": []}, {"api_key": []}]
            assert set(operation["x-required-roles"]) == {role.value for role in view.required_roles[verb.upper()]}


def test_the_page_needs_nothing_from_elsewhere(client: Client) -> None:
    page = client.get("/v1/docs")
    assert page.status_code == 200
    text = page.content.decode()
    assert 'src="/v1/docs?script="' in text
    script = client.get("/v1/docs?script=").content.decode()
    assert "/v1/openapi.json" in script
    assert "https://" not in text + script
    assert "http://" not in text + script
    for asset in ("swagger-ui-bundle.js", "swagger-ui.css"):
        assert f"/static/drf_spectacular_sidecar/swagger-ui-dist/{asset}" in text
        found = client.get(f"/static/drf_spectacular_sidecar/swagger-ui-dist/{asset}")
        assert found.status_code == 200
        assert len(b"".join(found)) > 10_000  # type: ignore[call-overload]
