"""Tables over HTTP."""

import json
from typing import Any

import pytest
from django.test import Client

from catalog.tenants import create_tenant
from tests.http import bearer, make_key, problem_of

pytestmark = pytest.mark.django_db(transaction=True)

COLUMNS = [
    {"name": "carrier", "type": "string", "nullable": False},
    {"name": "time_hour", "type": "timestamp"},
    {"name": "price", "type": "decimal(10, 2)"},
]


@pytest.fixture
def headers() -> dict[str, str]:
    create_tenant(tenant_id="acme")
    return bearer(make_key("acme"))


def create(client: Client, headers: dict[str, str], name: str = "flights", **members: Any) -> Any:
    body = {"table_name": name, "schema_json": {"columns": COLUMNS}, **members}
    return client.post("/v1/tables", body, content_type="application/json", headers=headers)


def test_a_created_table_is_described_and_listed(client: Client, headers: dict[str, str]) -> None:
    response = create(client, headers, sort_cols=["TIME_HOUR"], primary_key_cols=["carrier"])
    assert response.status_code == 201
    assert response["Location"].endswith("/v1/tables/flights")
    table = dict(response.json())
    assert isinstance(table.pop("table_id"), int)
    assert table.pop("created_at").endswith("Z")
    assert table == {
        "tenant_id": "acme",
        "table_name": "flights",
        "schema_version": 1,
        "schema_json": {
            "columns": [
                {"name": "carrier", "type": "string", "nullable": False},
                {"name": "time_hour", "type": "timestamp", "nullable": True},
                {"name": "price", "type": "decimal(10,2)", "nullable": True},
            ]
        },
        "primary_key_cols": ["carrier"],
        "partition_spec": {},
        "sort_cols": ["time_hour"],
        "compatibility_mode": "backward",
        "grows": False,
    }
    assert client.get("/v1/tables/FLIGHTS", headers=headers).json() == response.json()
    listing = client.get("/v1/tables", headers=headers).json()
    assert listing == {"tenant_id": "acme", "tables": [response.json()], "next_cursor": None}


def test_a_listing_is_paged_in_the_order_of_names(client: Client, headers: dict[str, str]) -> None:
    for name in ("c", "A", "select", "b", "_x"):
        assert create(client, headers, name).status_code == 201
    seen: list[str] = []
    cursor = ""
    for _ in range(3):
        page = client.get(f"/v1/tables?limit=2&cursor={cursor}", headers=headers).json()
        seen += [table["table_name"] for table in page["tables"]]
        cursor = page["next_cursor"]
    assert seen == ["_x", "A", "b", "c", "select"]
    assert cursor is None
    for query in (
        "limit=0",
        "limit=1001",
        "limit=x",
        "limit=²",
        "limit=-1",
        "cursor=%25%25",
        "cursor=é",
        "cursor=_w==",
    ):
        problem_of(client.get(f"/v1/tables?{query}", headers=headers), 400, "INVALID_REQUEST")


def test_a_second_table_of_a_name_is_refused_whatever_its_case(client: Client, headers: dict[str, str]) -> None:
    create(client, headers)
    problem_of(create(client, headers, "FLIGHTS"), 409, "TABLE_EXISTS")


def test_a_dropped_table_does_not_exist_and_its_name_is_free(client: Client, headers: dict[str, str]) -> None:
    first = create(client, headers).json()
    response = client.delete("/v1/tables/flights", headers=headers)
    assert (response.status_code, response.content) == (204, b"")
    problem_of(client.get("/v1/tables/flights", headers=headers), 404, "TABLE_NOT_FOUND")
    problem_of(client.delete("/v1/tables/flights", headers=headers), 404, "TABLE_NOT_FOUND")
    second = create(client, headers).json()
    assert second["table_id"] != first["table_id"]


def test_every_problem_of_a_definition_is_named(client: Client, headers: dict[str, str]) -> None:
    problem = problem_of(
        create(client, headers, "1x", sort_cols=["nope"], compatibility_mode="sideways", colour="red"),
        400,
        "INVALID_REQUEST",
    )
    for word in ("table_name", "nope", "compatibility_mode", "colour"):
        assert word in problem["detail"]


@pytest.mark.parametrize("member", ["primary_key_cols", "sort_cols", "partition_spec"])
@pytest.mark.parametrize("value", [0, False, "", [[]]])
def test_what_is_no_list_and_no_object_is_refused_also_when_it_is_empty(
    client: Client, headers: dict[str, str], member: str, value: object
) -> None:
    assert member in problem_of(create(client, headers, **{member: value}), 400, "INVALID_REQUEST")["detail"]


def test_null_stands_for_an_absent_member(client: Client, headers: dict[str, str]) -> None:
    members = ("primary_key_cols", "sort_cols", "partition_spec", "compatibility_mode")
    table = create(client, headers, **dict.fromkeys(members)).json()
    assert [table[member] for member in members] == [[], [], {}, "backward"]


def test_a_table_without_a_schema_has_no_columns_yet_and_grows(client: Client, headers: dict[str, str]) -> None:
    response = create(client, headers, schema_json=None)
    assert response.status_code == 201
    table = client.get("/v1/tables/flights", headers=headers).json()
    assert (table["grows"], table["schema_json"], table["schema_version"]) == (True, {"columns": []}, 1)


@pytest.mark.parametrize(
    "member",
    [
        {"primary_key_cols": ["a"]},
        {"sort_cols": ["a"]},
        {"partition_spec": {"fields": [{"column": "a", "transform": "day"}]}},
    ],
)
def test_a_table_without_a_schema_has_no_columns_to_name(
    client: Client, headers: dict[str, str], member: dict[str, Any]
) -> None:
    problem = problem_of(create(client, headers, schema_json=None, **member), 400, "INVALID_REQUEST")
    assert f"{next(iter(member))} needs schema_json" in problem["detail"]


def test_a_name_that_no_table_can_have_is_not_found(client: Client, headers: dict[str, str]) -> None:
    for name in ("%00", "a%00b", "%ff", "a" * 5_000):
        for method in (client.get, client.delete):
            problem_of(method(f"/v1/tables/{name}", headers=headers), 404, "TABLE_NOT_FOUND")


def test_a_foreign_table_answers_as_one_that_does_not_exist(client: Client, headers: dict[str, str]) -> None:
    create(client, headers)
    create_tenant(tenant_id="other")
    others = bearer(make_key("other"))
    for method in (client.get, client.delete):
        foreign = method("/v1/tables/flights", headers=others)
        missing = method("/v1/tables/nothing", headers=others)
        assert foreign.status_code == missing.status_code == 404
        drop = {"trace_id": "", "instance": ""}
        one, two = (json.loads(answer.content.replace(b"nothing", b"flights")) | drop for answer in (foreign, missing))
        assert one == two
    assert client.get("/v1/tables", headers=others).json()["tables"] == []
