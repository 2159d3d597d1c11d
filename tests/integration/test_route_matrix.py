"""Who may call what: every route against the checked-in matrix in tests/data/route_matrix.json."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.test import Client
from django.urls import URLPattern

from api.views.base import Endpoint
from catalog.definition import parse_definition
from catalog.pins import pin_snapshot
from catalog.snapshots import resolve
from catalog.tables import create_table
from duckmesh.urls import urlpatterns
from tests.factories import make_tenant
from tests.http import ALL_ROLES, bearer, make_key, problem_of
from tests.lake import fail_oldest, write
from tests.runs import ask
from tests.serving import serving

MATRIX: list[dict[str, Any]] = json.loads(
    (Path(__file__).parents[1] / "data" / "route_matrix.json").read_text("utf-8")
)["routes"]
CALLERS = ("no_key", *ALL_ROLES, "other_tenant")


@pytest.fixture
def _serving() -> Iterator[None]:
    with serving():
        yield


def _id(tenant_id: str, address: str, table: str) -> object:
    """The id, in an address, of something that the tenant has and another has not."""
    if "/runs/" in address:
        return ask(tenant_id)
    if "/snapshots/" in address:
        return resolve(tenant_id=tenant_id).snapshot_id
    write(tenant_id, [{"payload": {"a": 1}}], table=table)
    return fail_oldest(tenant_id)


def declared_routes() -> set[str]:
    found = set()
    for route in urlpatterns:
        address = "/" + str(route.pattern).replace("<str:", "{").replace(">", "}")
        if isinstance(route, URLPattern):
            view = route.callback.view_class  # type: ignore[attr-defined]
            offered = [verb for verb in Endpoint.http_method_names if verb != "head" and hasattr(view, verb)]
            found |= {f"{verb.upper()} {address}" for verb in offered}
        else:
            found.add(f"GET {address}")
    return found


def test_every_route_is_in_the_matrix_with_every_caller() -> None:
    assert sorted(row["route"] for row in MATRIX) == sorted(declared_routes())
    for row in MATRIX:
        assert tuple(row["expect"]) == CALLERS, row["route"]


def test_every_view_is_one_of_ours_and_declares_who_may_use_it() -> None:
    for route in urlpatterns:
        if isinstance(route, URLPattern):
            view = route.callback.view_class  # type: ignore[attr-defined]
            assert issubclass(view, Endpoint)
            verbs = {verb.upper() for verb in Endpoint.http_method_names if verb != "head" and hasattr(view, verb)}
            assert view.open_to_everyone or set(view.required_roles) == verbs


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("_serving")
@pytest.mark.parametrize("row", MATRIX, ids=lambda row: row["route"])
def test_the_matrix_holds(row: dict[str, Any]) -> None:
    definition = {"table_name": "t", "schema_json": {"columns": [{"name": "a", "type": "int64"}]}}
    method, _, address = row["route"].partition(" ")
    owner, other = make_tenant("owner"), make_tenant("other")
    outcomes = {}
    for caller in CALLERS:
        tenant_id = other if caller == "other_tenant" else owner
        name = f"t_{caller}"
        create_table(tenant_id=owner, definition=parse_definition({**definition, "table_name": name}), actor="test")
        id_ = _id(owner, address, name) if "{id}" in address else 0
        if "{name}" in address:
            pin_snapshot(tenant_id=owner, snapshot_id=0, name=name, actor="test")
        roles = ALL_ROLES if caller == "other_tenant" else (caller,)
        headers = {} if caller == "no_key" else bearer(make_key(tenant_id, *roles))
        body = json.dumps(row["body"]) if "body" in row else ""
        path = address.replace("{table}", name).replace("{id}", str(id_)).replace("{name}", name)
        response = Client().generic(method, path, body, content_type="application/json", headers=headers)
        outcomes[caller] = response.status_code
        if response.status_code == 401:
            problem_of(response, 401, "UNAUTHENTICATED")
        if response.status_code == 403:
            problem_of(response, 403, "FORBIDDEN")
        if caller == "other_tenant":
            assert owner.encode() not in response.getvalue()
            assert b"t_ingest_writer" not in response.getvalue()
    assert outcomes == row["expect"]
