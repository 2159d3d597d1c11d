"""Snapshots over HTTP: what is listed, shown and compared is what the history holds; pins hold as long as they say."""

import json
from datetime import timedelta
from typing import Any

import pytest
from django.db.models.functions import Now
from django.test import Client

from catalog.change import TableChange
from catalog.evolution import evolve_table
from catalog.expire import expire_snapshots
from catalog.models import SnapshotFile, SnapshotPin
from catalog.schema import ParsedColumn
from catalog.tables import drop_table
from duckmesh.kernel.clock import now, rfc3339
from tests.factories import make_snapshot, make_table, make_tenant
from tests.http import bearer, make_key, problem_of

pytestmark = pytest.mark.django_db(transaction=True)


class Caller:
    """A client with a key of one tenant."""

    def __init__(self, tenant_id: str, *roles: str) -> None:
        self.tenant_id = tenant_id
        self._headers = bearer(make_key(tenant_id, *roles))

    def send(self, method: str, address: str, body: object = None) -> Any:
        text = "" if body is None else json.dumps(body)
        return Client().generic(
            method, f"/v1/snapshots{address}", text, content_type="application/json", headers=self._headers
        )

    def get(self, address: str) -> dict[str, Any]:
        response = self.send("GET", address)
        assert response.status_code == 200, response.content
        answer: dict[str, Any] = response.json()
        return answer


@pytest.fixture
def caller() -> Caller:
    """Snapshot 1 makes the table, 2 and 3 give it a file of 10 rows each, 4 replaces both by one."""
    tenant_id = make_tenant()
    table_id = make_table(tenant_id=tenant_id).table_id
    make_snapshot(tenant_id=tenant_id, table_id=table_id, watermark=10)
    make_snapshot(tenant_id=tenant_id, table_id=table_id, watermark=20)
    live = SnapshotFile.objects.filter(tenant_id=tenant_id, removed_in=None)
    make_snapshot(tenant_id=tenant_id, table_id=table_id, removed=list(live.values_list("file_id", flat=True)))
    return Caller(tenant_id)


def test_snapshots_are_listed_newest_first_in_pages(caller: Caller) -> None:
    everything = caller.get("")
    assert [each["snapshot_id"] for each in everything["snapshots"]] == [4, 3, 2, 1, 0]
    assert everything["next_cursor"] is None
    newest, oldest = everything["snapshots"][0], everything["snapshots"][-1]
    assert (newest["kind"], newest["parent"], newest["watermark"]) == ("compaction", 3, 20)
    assert newest["summary"] == {"tables": ["events"], "added_files": 1, "added_rows": 10, "removed_files": 2}
    assert (oldest["kind"], oldest["parent"], oldest["summary"]["tables"]) == ("create", None, [])
    seen: list[int] = []
    page = caller.get("?limit=2")
    while True:
        seen += [each["snapshot_id"] for each in page["snapshots"]]
        if page["next_cursor"] is None:
            break
        make_snapshot(tenant_id=caller.tenant_id)
        page = caller.get(f"?limit=2&cursor={page['next_cursor']}")
    assert seen == [4, 3, 2, 1, 0]


def test_a_snapshot_shows_what_it_consists_of_and_what_it_changed(caller: Caller) -> None:
    shown = caller.get("/3")
    (table,) = shown["tables"]
    assert (table["table_name"], table["files"], table["rows"], table["bytes"]) == ("events", 2, 20, 2_000)
    assert (shown["files"], shown["rows"], shown["bytes"]) == (2, 20, 2_000)
    assert (shown["watermark"], shown["parent"], shown["kind"], shown["created_by"]) == (20, 2, "ingest", "test")
    (change,) = shown["summary"]["tables"]
    assert (change["change"], change["added_files"], change["added_rows"], change["removed_files"]) == (
        "changed",
        1,
        10,
        0,
    )
    assert caller.get("/1")["summary"]["tables"][0]["change"] == "created"
    assert caller.get("/0")["tables"] == caller.get("/0")["summary"]["tables"] == []


def test_an_expired_snapshot_is_gone_everywhere_and_one_that_never_was_is_not_found(caller: Caller) -> None:
    expire_snapshots(tenant_id=caller.tenant_id, snapshot_ids=[2])
    assert [each["snapshot_id"] for each in caller.get("")["snapshots"]] == [4, 3, 1, 0]
    for address in ("/2", "/2/diff?to=3", "/3/diff?to=2"):
        problem_of(caller.send("GET", address), 410, "SNAPSHOT_EXPIRED")
    assert caller.get("/3")["summary"]["tables"][0]["added_files"] == 1, "its parent has expired, its changes have not"
    for address in ("/5", "/-1", "/x", "/٣", f"/{2**63}", f"/{10**30}", "/3/diff?to=5", "/9/diff?to=3"):
        problem_of(caller.send("GET", address), 404, "SNAPSHOT_NOT_FOUND")
    for address in (
        "/3/diff",
        "/3/diff?to=",
        "/3/diff?to=x",
        "/3/diff?to=-1",
        f"/3/diff?to={2**63}",
        "?limit=0",
        "?cursor=%21",
        "?cursor=YQ==",
    ):
        problem_of(caller.send("GET", address), 400, "INVALID_REQUEST")


def _amounts(answer: dict[str, Any]) -> dict[str, tuple[str, int, int, int, int]]:
    return {
        each["table_name"]: (
            each["change"],
            each["added_files"],
            each["added_rows"],
            each["removed_files"],
            each["removed_rows"],
        )
        for each in answer["tables"]
    }


def test_a_diff_tells_files_and_rows_in_either_direction(caller: Caller) -> None:
    assert _amounts(caller.get("/2/diff?to=3")) == {"events": ("changed", 1, 10, 0, 0)}
    assert _amounts(caller.get("/3/diff?to=2")) == {"events": ("changed", 0, 0, 1, 10)}
    assert _amounts(caller.get("/2/diff?to=4")) == {"events": ("changed", 1, 10, 1, 10)}
    assert _amounts(caller.get("/0/diff?to=4")) == {"events": ("created", 1, 10, 0, 0)}
    assert _amounts(caller.get("/4/diff?to=0")) == {"events": ("dropped", 0, 0, 1, 10)}
    assert caller.get("/4/diff?to=4")["tables"] == []


def test_a_diff_tells_tables_that_came_and_went_and_columns_that_changed(caller: Caller) -> None:
    change = TableChange(
        add=(ParsedColumn(name="extra", type="json"),), rename={"n": "number"}, compatibility_mode="none"
    )
    evolve_table(tenant_id=caller.tenant_id, name="events", change=change, actor="test")
    assert caller.get("/4/diff?to=5")["tables"][0]["schema"] == {
        "from_version": 1,
        "to_version": 2,
        "columns": [
            {"change": "renamed", "column": "number", "was": "n"},
            {"change": "added", "column": "extra", "type": "json"},
        ],
    }
    back = caller.get("/5/diff?to=4")["tables"][0]["schema"]
    assert back["columns"] == [
        {"change": "dropped", "column": "extra", "type": "json"},
        {"change": "renamed", "column": "n", "was": "number"},
    ]
    drop_table(tenant_id=caller.tenant_id, name="events", actor="test")
    make_table(tenant_id=caller.tenant_id)
    answer = caller.get("/5/diff?to=7")["tables"]
    assert [(each["table_name"], each["change"], each["removed_rows"]) for each in answer] == [
        ("events", "dropped", 10),
        ("events", "created", 0),
    ]
    assert answer[0]["table_id"] != answer[1]["table_id"]
    assert caller.get("/6")["tables"] == []


def test_a_pin_holds_its_snapshot_until_it_is_removed(caller: Caller) -> None:
    response = caller.send("POST", "/pin", {"snapshot_id": 2, "name": "audit.2026"})
    assert response.status_code == 201
    assert response["Location"] == "/v1/snapshots/pins/audit.2026"
    pin = response.json()
    assert (pin["snapshot_id"], pin["name"], pin["expires_at"]) == (2, "audit.2026", None)
    assert caller.get("/pins/audit.2026") == pin
    assert caller.get("/pins")["pins"] == [pin]
    assert caller.get("/2")["pins"] == ["audit.2026"]
    problem_of(caller.send("POST", "/pin", {"snapshot_id": 3, "name": "audit.2026"}), 409, "PIN_EXISTS")
    assert caller.send("DELETE", "/pins/audit.2026").status_code == 204
    for method in ("GET", "DELETE"):
        problem_of(caller.send(method, "/pins/audit.2026"), 404, "PIN_NOT_FOUND")
    expire_snapshots(tenant_id=caller.tenant_id, snapshot_ids=[2])
    problem_of(caller.send("POST", "/pin", {"snapshot_id": 2, "name": "late"}), 410, "SNAPSHOT_EXPIRED")
    problem_of(caller.send("POST", "/pin", {"snapshot_id": 99, "name": "early"}), 404, "SNAPSHOT_NOT_FOUND")


def test_a_pin_past_its_time_holds_nothing_and_its_name_is_free(caller: Caller) -> None:
    body = {"snapshot_id": 2, "name": "short", "expires_at": rfc3339(now() + timedelta(hours=1))}
    assert caller.send("POST", "/pin", body).status_code == 201
    SnapshotPin.objects.filter(tenant_id=caller.tenant_id).update(expires_at=Now() - timedelta(seconds=1))
    problem_of(caller.send("GET", "/pins/short"), 404, "PIN_NOT_FOUND")
    problem_of(caller.send("DELETE", "/pins/short"), 404, "PIN_NOT_FOUND")
    assert caller.get("/pins")["pins"] == caller.get("/2")["pins"] == []
    assert caller.send("POST", "/pin", {"snapshot_id": 3, "name": "short"}).status_code == 201
    assert caller.get("/pins/short")["snapshot_id"] == 3


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"snapshot_id": 2},
        {"name": "a"},
        {"snapshot_id": "2", "name": "a"},
        {"snapshot_id": True, "name": "a"},
        {"snapshot_id": -1, "name": "a"},
        {"snapshot_id": 2**63, "name": "a"},
        {"snapshot_id": 2, "name": "a b"},
        {"snapshot_id": 2, "name": "\0"},
        {"snapshot_id": 2, "name": "_duckmesh.restore.1"},
        {"snapshot_id": 2, "name": "a", "expires_at": "tomorrow"},
        {"snapshot_id": 2, "name": "a", "expires_at": 5},
        {"snapshot_id": 2, "name": "a", "expires_at": "2013-01-01T00:00:00Z"},
        {"snapshot_id": 2, "name": "a", "more": 1},
    ],
)
def test_a_pin_that_says_something_wrong_is_refused(caller: Caller, body: dict[str, Any]) -> None:
    problem_of(caller.send("POST", "/pin", body), 400, "INVALID_REQUEST")
    assert caller.get("/pins")["pins"] == []


def test_pins_are_listed_in_pages(caller: Caller) -> None:
    for name in ("a", "b", "c"):
        assert caller.send("POST", "/pin", {"snapshot_id": 2, "name": name}).status_code == 201
    first = caller.get("/pins?limit=2")
    second = caller.get(f"/pins?limit=2&cursor={first['next_cursor']}")
    assert [pin["name"] for page in (first, second) for pin in page["pins"]] == ["a", "b", "c"]
    assert second["next_cursor"] is None
    problem_of(caller.send("GET", "/pins?cursor=AA=="), 400, "INVALID_REQUEST")
