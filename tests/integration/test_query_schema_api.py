"""What there is to query, over HTTP: tables of one snapshot, exact counts, and rows that runners read."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from django.test import Client

from api.models import Role
from catalog.models import Snapshot
from catalog.publish import publish_snapshot
from catalog.schema import ParsedColumn
from tests.factories import make_file, make_table, make_tenant
from tests.http import bearer, make_key, problem_of
from tests.lake import record
from tests.serving import query_runners, serving, worker

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(scope="module", autouse=True)
def _runners() -> Iterator[None]:
    with query_runners():
        yield


@pytest.fixture(autouse=True)
def _serving() -> Iterator[None]:
    with serving():
        yield


class Reader:
    """A key of every role of a new tenant."""

    def __init__(self) -> None:
        self.tenant_id = make_tenant()
        self.headers = bearer(make_key(self.tenant_id))

    def schema(self, **query: object) -> dict[str, Any]:
        response = Client().get("/v1/query/schema", query, headers=bearer(make_key(self.tenant_id, Role.QUERY_READER)))
        assert response.status_code == 200, response.content
        answer: dict[str, Any] = response.json()
        return answer

    def tables(self, **query: object) -> dict[str, dict[str, Any]]:
        return {table["table_name"]: table for table in self.schema(**query)["tables"]}

    def write(self, table: str, *records: dict[str, Any]) -> None:
        body = json.dumps({"records": records, "wait_for_visibility": True})
        with worker(self.tenant_id):
            response = Client().post(f"/v1/ingest/{table}", body, content_type="application/json", headers=self.headers)
        assert response.status_code == 200, response.content


@pytest.fixture
def reader() -> Reader:
    return Reader()


def test_tables_are_shown_with_types_counts_and_a_few_rows(reader: Reader) -> None:
    make_table(tenant_id=reader.tenant_id)
    make_table(tenant_id=reader.tenant_id, name="Empty", columns=[ParsedColumn(name="a", type="decimal(10,2)")])
    big = 2**53
    reader.write("events", *(record(str(number), n=big + number) for number in range(8)))
    answer = reader.schema()
    assert answer["snapshot_id"] == 3
    assert answer["max_visibility_token"] == 8
    empty, events = answer["tables"]
    assert empty == {
        "table_name": "Empty",
        "schema_version": 1,
        "primary_key_cols": [],
        "columns": [{"name": "a", "type": "decimal(10,2)", "sql_type": "DECIMAL(10,2)", "nullable": True}],
        "row_count": 0,
        "row_count_reason": None,
        "sample_rows": [],
        "sample_rows_reason": None,
    }
    assert events["row_count"] == 8
    assert len(events["sample_rows"]) == 5
    assert {n - big for _, n in events["sample_rows"]} <= set(range(8))
    assert "sample_rows" not in reader.tables(samples=0)["events"]


def test_rows_of_a_keyed_table_are_the_last_ones_and_are_not_guessed_at(reader: Reader) -> None:
    make_table(tenant_id=reader.tenant_id, primary_key_cols=["id"])
    assert reader.tables()["events"]["row_count"] == 0
    reader.write("events", record("a", n=1, key=None), record("b", n=1, key=None))
    reader.write("events", record("a", n=2, key=None), record("b", key=None, op="delete"))
    shown = reader.tables()["events"]
    assert shown["sample_rows"] == [["a", 2]]
    assert shown["row_count"] is None
    assert "fold" in shown["row_count_reason"]


def test_pages_go_on_behind_the_last_table_and_hold_no_others(reader: Reader) -> None:
    make_table(tenant_id=make_tenant(), name="foreign")
    for name in ("C", "a", "b"):
        make_table(tenant_id=reader.tenant_id, name=name)
    first = reader.schema(limit=2)
    assert [table["table_name"] for table in first["tables"]] == ["a", "b"]
    second = reader.schema(limit=2, cursor=first["next_cursor"])
    assert [table["table_name"] for table in second["tables"]] == ["C"]
    assert second["next_cursor"] is None


def test_table_whose_rows_cannot_be_read_does_not_hide_the_others(reader: Reader) -> None:
    lost = make_table(tenant_id=reader.tenant_id, name="lost")
    huge = make_table(tenant_id=reader.tenant_id, name="huge")
    files = [make_file(table_id=lost.table_id), make_file(table_id=huge.table_id, size_bytes=2**40)]
    publish_snapshot(tenant_id=reader.tenant_id, kind=Snapshot.Kind.INGEST, actor="test", added=files, watermark=1)
    shown = reader.tables()
    assert [shown[name]["sample_rows"] for name in ("lost", "huge")] == [None, None]
    assert all(shown[name]["sample_rows_reason"] for name in ("lost", "huge"))
    assert [shown[name]["row_count"] for name in ("lost", "huge")] == [10, 10]


@pytest.mark.parametrize("query", [{"samples": "yes"}, {"limit": 0}, {"cursor": "?"}])
def test_wrong_options_are_refused(reader: Reader, query: dict[str, object]) -> None:
    problem_of(Client().get("/v1/query/schema", query, headers=reader.headers), 400, "INVALID_REQUEST")
