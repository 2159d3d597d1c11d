"""Tables that change: versions over HTTP, writes in flight, and old snapshots by their own names."""

import json
import threading
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from django.db import connection
from django.test import Client

from catalog.change import parse_change
from catalog.definition import parse_definition
from catalog.errors import SchemaIncompatible, TableNotFound
from catalog.evolution import evolve_table
from catalog.models import TableDef
from catalog.schema import ParsedColumn, TableSchema
from catalog.tables import TableInfo, create_table, drop_table, get_table, tables_at
from duckmesh.kernel.errors import Invalid
from ingest.accept import AcceptPolicy, accept
from ingest.decode.batch import DecodedBatch
from ingest.errors import IdempotencyConflict
from query.errors import QueryInvalid
from tests.factories import make_table, make_tenant
from tests.http import bearer, make_key, problem_of
from tests.lake import NO_LIMITS, Lake, decoder, write
from tests.reading import read_rows
from tests.together import Background

pytestmark = pytest.mark.django_db(transaction=True)


def patch(tenant_id: str, name: str = "events", **body: Any) -> TableInfo:
    return evolve_table(tenant_id=tenant_id, name=name, change=parse_change(body), actor="test")


def payloads(*rows: Mapping[str, Any], op: str = "insert") -> list[dict[str, Any]]:
    return [{"payload": dict(row), "op": op} for row in rows]


# Over HTTP.


@pytest.fixture
def caller() -> Callable[..., Any]:
    headers = bearer(make_key(make_tenant()))
    columns = [{"name": "id", "type": "int32", "nullable": False}, {"name": "n", "type": "int32"}]
    body = {"table_name": "t", "schema_json": {"columns": columns}, "sort_cols": ["n"]}
    Client().post("/v1/tables", body, content_type="application/json", headers=headers)

    def call(method: str, address: str, body: object = None) -> Any:
        return Client().generic(
            method, address, json.dumps(body) if body is not None else "", "application/json", headers=headers
        )

    return call


def test_a_patch_answers_the_table_in_its_next_version(caller: Callable[..., Any]) -> None:
    body = {"add": [{"name": "at", "type": "timestamp"}], "widen": {"N": "int64"}, "rename": {"n": "amount"}}
    response = caller("PATCH", "/v1/tables/T", body)
    assert response.status_code == 200, response.content
    table = response.json()
    assert (table["schema_version"], table["sort_cols"]) == (2, ["amount"])
    assert table["schema_json"]["columns"] == [
        {"name": "id", "type": "int32", "nullable": False},
        {"name": "amount", "type": "int64", "nullable": True},
        {"name": "at", "type": "timestamp", "nullable": True},
    ]
    assert caller("GET", "/v1/tables/t").json() == table


def test_a_patch_that_changes_nothing_makes_no_version(caller: Callable[..., Any]) -> None:
    table = caller("GET", "/v1/tables/t").json()
    for body in ({}, {"add": None, "drop": []}, {"schema_json": table["schema_json"]}):
        response = caller("PATCH", "/v1/tables/t", body)
        assert (response.status_code, response.json()) == (200, table)


def test_a_mode_alone_is_changed_without_a_version_and_holds_its_own_change(caller: Callable[..., Any]) -> None:
    changed = caller("PATCH", "/v1/tables/t", {"compatibility_mode": "full"}).json()
    assert (changed["compatibility_mode"], changed["schema_version"]) == ("full", 1)
    refused = caller("PATCH", "/v1/tables/t", {"rename": {"id": "key"}})
    assert problem_of(refused, 409, "SCHEMA_INCOMPATIBLE")["context"]["compatibility_mode"] == "full"
    body = {"rename": {"id": "key"}, "compatibility_mode": "backward"}
    assert caller("PATCH", "/v1/tables/t", body).json()["schema_version"] == 2


def test_every_column_that_does_not_fit_is_named_and_nothing_is_done(caller: Callable[..., Any]) -> None:
    before = caller("GET", "/v1/tables/t").json()
    body = {
        "add": [{"name": "fine", "type": "bool"}, {"name": "never", "type": "bool", "nullable": False}],
        "widen": {"id": "float32"},
        "drop": ["n", "gone"],
        "compatibility_mode": "none",
    }
    problem = problem_of(caller("PATCH", "/v1/tables/t", body), 409, "SCHEMA_INCOMPATIBLE")
    reasons = {error["column"]: error["reason"] for error in problem["context"]["errors"]}
    assert set(reasons) == {"never", "id", "n", "gone"}
    assert "sort order" in reasons["n"]
    assert caller("GET", "/v1/tables/t").json() == before


@pytest.mark.parametrize(
    "body", [{"colour": "red"}, {"drop": "n"}, {"widen": {"n": "int63"}}, {"rename": {"n": ""}}, [], {"add": [1]}]
)
def test_a_body_that_says_nothing_sensible_is_invalid(caller: Callable[..., Any], body: object) -> None:
    problem_of(caller("PATCH", "/v1/tables/t", body), 400, "INVALID_REQUEST")


def test_a_table_that_is_not_there_cannot_be_changed(caller: Callable[..., Any]) -> None:
    problem_of(caller("PATCH", "/v1/tables/nothing", {}), 404, "TABLE_NOT_FOUND")
    others = bearer(make_key(make_tenant()))
    response = Client().patch("/v1/tables/t", {}, content_type="application/json", headers=others)
    problem_of(response, 404, "TABLE_NOT_FOUND")


# Writes in flight.

CHANGES: list[tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = [
    ({"add": [{"name": "x", "type": "list<int64>"}]}, {"x": [1]}, {"id": "a", "n": 1, "x": None}),
    ({"widen": {"n": "decimal(38,2)"}}, {"n": "2.50"}, {"id": "a", "n": "1.00"}),
    ({"rename": {"n": "m"}}, {"m": 2}, {"id": "a", "m": 1}),
    ({"rename": {"n": "id", "id": "n"}}, {"id": 2, "n": "b"}, {"n": "a", "id": 1}),
    ({"drop": ["n"]}, {}, {"id": "a"}),
    ({"drop": ["n"], "add": [{"name": "n", "type": "bool"}]}, {"n": True}, {"id": "a", "n": None}),
    ({"drop": ["n"], "rename": {"id": "n"}}, {"n": "b"}, {"n": "a"}),
    ({"widen": {"n": "json"}, "compatibility_mode": "none"}, {"n": {"k": 1}}, {"id": "a", "n": "1"}),
]


@pytest.mark.parametrize(("body", "later", "first"), CHANGES)
def test_a_write_in_flight_lands_in_the_new_version(
    lake: Lake, body: dict[str, Any], later: dict[str, Any], first: dict[str, Any]
) -> None:
    tenant_id = make_tenant()
    make_table(tenant_id=tenant_id)
    write(tenant_id, payloads({"id": "a", "n": 1}))
    lake.materialize(tenant_id)
    write(tenant_id, payloads({"id": "a", "n": 1}))
    assert patch(tenant_id, **body).schema.version == 2
    write(tenant_id, payloads(later))
    lake.materialize(tenant_id)
    rows = read_rows(lake, tenant_id, "SELECT * FROM events")
    assert len(rows) == 3
    shown = [{name: str(v) if name == "n" and "widen" in body else v for name, v in row.items()} for row in rows]
    assert shown.count(first) == 2


def test_a_write_decoded_under_the_old_version_is_decoded_again(lake: Lake) -> None:
    tenant_id = make_tenant()
    make_table(tenant_id=tenant_id)
    decoded: list[int] = []

    def decode(table: TableInfo) -> DecodedBatch:
        batch = decoder(payloads({"id": "a", "n": 1}))(table)
        decoded.append(table.schema.version)
        if len(decoded) == 1:
            patch_elsewhere(tenant_id, add=[{"name": "x", "type": "int32"}])
        return batch

    accepted = accept(tenant_id=tenant_id, table="events", decode=decode, policy=AcceptPolicy(limits=NO_LIMITS))
    assert (decoded, accepted.accepted_count) == ([1, 2], 1)
    assert lake.materialize(tenant_id) == 1
    assert read_rows(lake, tenant_id, "SELECT * FROM events") == [{"id": "a", "n": 1, "x": None}]


def test_a_write_of_a_column_that_is_dropped_meanwhile_is_refused(lake: Lake) -> None:
    tenant_id = make_tenant()
    make_table(tenant_id=tenant_id)
    write(tenant_id, payloads({"id": "a", "n": 1}))
    patch(tenant_id, drop=["n"])
    with pytest.raises(Invalid):
        write(tenant_id, payloads({"id": "a", "n": 1}))
    lake.materialize(tenant_id)
    assert read_rows(lake, tenant_id, "SELECT * FROM events") == [{"id": "a"}]


def patch_elsewhere(tenant_id: str, **body: Any) -> None:
    """The change is made by another connection."""

    def work() -> None:
        patch(tenant_id, **body)

    Background(work).result()


def test_writers_and_changes_at_once_lose_nothing(lake: Lake) -> None:
    tenant_id = make_tenant()
    make_table(tenant_id=tenant_id)
    stop = threading.Event()
    written: list[str] = []

    def produce() -> None:
        while not stop.is_set():
            identity = f"r{len(written)}"
            write(tenant_id, payloads({"id": identity}))
            written.append(identity)

    def publish() -> None:
        while not stop.is_set():
            lake.materialize(tenant_id)

    running = [Background(produce), Background(publish)]
    try:
        for number in range(8):
            patch(tenant_id, add=[{"name": f"c{number}", "type": "int32"}])
            patch(tenant_id, widen={f"c{number}": "int64"}, rename={f"c{number}": f"d{number}"})
            if number % 2:
                patch(tenant_id, drop=[f"d{number}"])
    finally:
        stop.set()
        for work in running:
            work.result()
    lake.materialize(tenant_id)
    rows = read_rows(lake, tenant_id, "SELECT * FROM events")
    assert sorted(row["id"] for row in rows) == sorted(written)
    assert set(rows[0]) == {"id", "n", "d0", "d2", "d4", "d6"}


# Names of the table's own.


def test_an_old_snapshot_keeps_the_names_of_key_partitions_and_order(lake: Lake) -> None:
    tenant_id = make_tenant()
    table = make_table(tenant_id=tenant_id, primary_key_cols=["id"])
    fields = [{"column": "id", "transform": "bucket[4]"}]
    TableDef.objects.filter(table_id=table.table_id).update(partition_spec={"fields": fields}, sort_cols=["n"])
    write(tenant_id, payloads({"id": "a", "n": 1}, {"id": "b", "n": 2}))
    lake.materialize(tenant_id)
    old = latest(tenant_id)
    patch(tenant_id, add=[{"name": "x", "type": "int32"}])
    between = latest(tenant_id)
    patch(tenant_id, rename={"id": "n", "n": "id"})
    renamed = latest(tenant_id)
    write(tenant_id, payloads({"n": "a", "id": 5}))
    lake.materialize(tenant_id)
    patch(tenant_id, rename={"n": "key"})
    write(tenant_id, payloads({"key": "b"}, op="delete"))
    lake.materialize(tenant_id)

    def named(snapshot_id: int) -> tuple[object, ...]:
        at = tables_at(tenant_id=tenant_id, snapshot_id=snapshot_id)["events"]
        (field,) = at.partition_spec["fields"]
        return at.primary_key_cols, field["column"], at.sort_cols

    assert named(old) == named(between) == (("id",), "id", ("n",))
    assert named(renamed) == (("n",), "n", ("id",))
    assert named(latest(tenant_id)) == (("key",), "key", ("id",))
    live = get_table(tenant_id=tenant_id, name="events")
    assert live.primary_key_cols == ("key",)
    everything = "SELECT * FROM events ORDER BY 1"
    assert read_rows(lake, tenant_id, everything, snapshot_id=old) == [{"id": "a", "n": 1}, {"id": "b", "n": 2}]
    both = [{"n": "a", "id": 1, "x": None}, {"n": "b", "id": 2, "x": None}]
    assert read_rows(lake, tenant_id, everything, snapshot_id=renamed) == both
    assert read_rows(lake, tenant_id, everything) == [{"key": "a", "id": 5, "x": None}]


def latest(tenant_id: str) -> int:
    with connection.cursor() as cursor:
        cursor.execute("SELECT snapshot_seq FROM tenant_catalog WHERE tenant_id = %s", [tenant_id])
        return int(cursor.fetchone()[0])


def test_field_ids_are_never_used_again() -> None:
    tenant_id = make_tenant()
    make_table(tenant_id=tenant_id)
    patch(tenant_id, drop=["n"])
    table = patch(tenant_id, add=[{"name": "n", "type": "int64"}])
    assert [column.field_id for column in table.schema.columns] == [1, 3]
    table = patch(tenant_id, drop=["n"], add=[{"name": "N", "type": "int64"}])
    assert [(column.field_id, column.name) for column in table.schema.columns] == [(1, "id"), (4, "N")]


def test_a_refused_change_and_a_dropped_table_leave_no_version() -> None:
    tenant_id = make_tenant()
    make_table(tenant_id=tenant_id)
    before = latest(tenant_id)
    with pytest.raises(SchemaIncompatible):
        patch(tenant_id, drop=["id", "n"])
    assert latest(tenant_id) == before
    drop_table(tenant_id=tenant_id, name="events", actor="test")
    with pytest.raises(TableNotFound):
        patch(tenant_id, drop=["n"])


def test_changes_at_once_follow_each_other() -> None:
    tenant_id = make_tenant()
    make_table(tenant_id=tenant_id)
    running = [
        Background(lambda n=number: patch(tenant_id, add=[{"name": f"c{n}", "type": "bool"}])) for number in range(6)
    ]
    versions = sorted(work.result().schema.version for work in running)
    assert versions == [2, 3, 4, 5, 6, 7]
    schema: TableSchema = get_table(tenant_id=tenant_id, name="events").schema
    assert sorted(column.field_id for column in schema.columns) == list(range(1, 9))


# Retries.


@pytest.mark.parametrize(
    ("old", "new", "value"),
    [
        ("int32", "int64", 1),
        ("int32", "float64", 1),
        ("int32", "decimal(12,2)", 1),
        ("float32", "float64", 0.5),
        ("decimal(5,2)", "decimal(12,4)", "1.50"),
        ("list<int32>", "list<int64>", [1, None]),
        ("int32", "json", 1),
        ("string", "json", "x"),
        ("bool", "json", True),
    ],
)
def test_a_retry_is_a_duplicate_whatever_the_column_has_become(old: str, new: str, value: Any) -> None:
    tenant_id = make_tenant()
    make_table(tenant_id=tenant_id, columns=[ParsedColumn(name="id", type="string"), ParsedColumn(name="n", type=old)])
    record = {"payload": {"id": "a", "n": value}, "idempotency_key": "k"}
    first = write(tenant_id, [record])
    patch(tenant_id, widen={"n": new}, compatibility_mode="none", add=[{"name": "more", "type": "bool"}])
    again = write(tenant_id, [record])
    assert (again.accepted_count, again.duplicate_count) == (0, 1)
    assert again.max_visibility_token == first.max_visibility_token


def test_a_retry_that_names_a_column_as_it_was_is_refused() -> None:
    tenant_id = make_tenant()
    make_table(tenant_id=tenant_id)
    write(tenant_id, [{"payload": {"id": "a", "n": 1}, "idempotency_key": "k"}])
    patch(tenant_id, rename={"n": "m"})
    with pytest.raises(Invalid):
        write(tenant_id, [{"payload": {"id": "a", "n": 1}, "idempotency_key": "k"}])
    with pytest.raises(IdempotencyConflict):
        write(tenant_id, [{"payload": {"id": "a", "m": 1}, "idempotency_key": "k"}])


def test_a_growing_table_is_changed_too(lake: Lake) -> None:
    tenant_id = make_tenant()
    create_table(tenant_id=tenant_id, definition=parse_definition({"table_name": "events"}), actor="test")
    with pytest.raises(QueryInvalid, match="no columns yet"):
        read_rows(lake, tenant_id, "SELECT * FROM events")
    patch(tenant_id, add=[{"name": "id", "type": "string"}])
    write(tenant_id, payloads({"id": "a"}))
    lake.materialize(tenant_id)
    patch(tenant_id, rename={"id": "name"}, add=[{"name": "id", "type": "int64"}])
    write(tenant_id, payloads({"name": "b", "id": 1}))
    lake.materialize(tenant_id)
    everything = "SELECT * FROM events ORDER BY name"
    assert read_rows(lake, tenant_id, everything) == [{"name": "a", "id": None}, {"name": "b", "id": 1}]


def test_a_key_that_is_widened_is_the_same_key(lake: Lake) -> None:
    tenant_id = make_tenant()
    columns = [ParsedColumn(name="k", type="int32"), ParsedColumn(name="n", type="int32")]
    make_table(tenant_id=tenant_id, columns=columns, primary_key_cols=["k"])
    write(tenant_id, payloads({"k": 1, "n": 1}, {"k": 2, "n": 1}, {"k": 3, "n": 1}))
    lake.materialize(tenant_id)
    write(tenant_id, payloads({"k": 3}, op="delete"))
    patch(tenant_id, widen={"k": "int64", "n": "decimal(12,1)"})
    write(tenant_id, payloads({"k": 1, "n": "2.5"}, {"k": 2**40, "n": None}))
    lake.materialize(tenant_id)
    rows = read_rows(lake, tenant_id, "SELECT k, n::VARCHAR AS n FROM events ORDER BY k")
    assert rows == [{"k": 1, "n": "2.5"}, {"k": 2, "n": "1.0"}, {"k": 2**40, "n": None}]
