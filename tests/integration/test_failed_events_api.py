"""Failed writes over HTTP: told of at once, then replayed and visible, or discarded and sent again."""

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
from django.test import Client

from catalog.models import IncidentAudit
from ingest.models import IngestPayload
from tests.factories import make_table, make_tenant
from tests.http import bearer, make_key, problem_of
from tests.lake import fail_oldest, write_ids
from tests.serving import query_runners, serving, worker

pytestmark = pytest.mark.django_db(transaction=True)

TRACE = "7" * 32
COUNT = "SELECT count(*) FROM events"


@pytest.fixture(scope="module", autouse=True)
def _runners() -> Iterator[None]:
    with query_runners():
        yield


@pytest.fixture(autouse=True)
def _serving() -> Iterator[None]:
    with serving():
        yield


class Caller:
    """A key of every role of a new tenant, which has the empty tables `events` and `other`."""

    def __init__(self) -> None:
        self.tenant_id = make_tenant()
        for name in ("events", "other"):
            make_table(tenant_id=self.tenant_id, name=name)
        self.headers = bearer(make_key(self.tenant_id)) | {"traceparent": f"00-{TRACE}-{'1' * 16}-01"}

    # `Any` below: Django's test response; its stubs have no one type for it.
    def call(self, method: str, path: str, body: object = None) -> Any:
        text = "" if body is None else json.dumps(body)
        return Client().generic(method, path, text, content_type="application/json", headers=self.headers)

    def send(self, *identities: str, wait: bool = False) -> Any:
        records = [{"payload": {"id": each, "n": 0}, "idempotency_key": each} for each in identities]
        return self.call("POST", "/v1/ingest/events", {"records": records, "wait_for_visibility": wait})

    def query(self, sql: str, token: int) -> Any:
        return self.call("POST", "/v1/query", {"sql": sql, "min_visibility_token": token})

    def listed(self, query: str = "") -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.call("GET", f"/v1/failed-events{query}").json()["failed_events"]
        return found

    def poisoned(self, *identities: str) -> tuple[int, bytes]:
        """A write that cannot be read from the bus: its token, and what it was."""
        token = self.send(*identities).json()["max_visibility_token"]
        (stored,) = IngestPayload.objects.filter(event__tenant_id=self.tenant_id)
        payload = bytes(stored.payload)
        IngestPayload.objects.filter(pk=stored.pk).update(payload=b"not an envelope")
        return token, payload


@pytest.fixture
def caller() -> Caller:
    return Caller()


def test_failed_write_is_told_of_at_once_and_visible_after_its_replay(caller: Caller) -> None:
    token, payload = caller.poisoned("a", "b")
    with worker(caller.tenant_id):
        refused = problem_of(caller.send("c", wait=True), 409, "INGEST_FAILED")
        failed_id = refused["context"]["failed_event_id"]
        began = time.monotonic()
        for needed in (token, token + 1):
            problem = problem_of(caller.query(COUNT, needed), 409, "INGEST_FAILED")
            assert problem["context"] == {"failed_event_id": failed_id}
        assert time.monotonic() - began < 2
        assert caller.query("SELECT count(*) FROM other", token).json()["rows"] == [[0]]

        (event,) = caller.listed()
        assert event == caller.call("GET", f"/v1/failed-events/{failed_id}").json()
        assert (event["id"], event["table_name"], event["state"]) == (failed_id, "events", "failed")
        assert (event["first_token"], event["last_token"], event["record_count"]) == (1, 2, 2)
        assert (event["attempts"], bool(event["error"]), bool(event["reason"])) == (5, True, True)
        assert event["failed_at"].endswith("Z") and event["accepted_at"].endswith("Z")

        IngestPayload.objects.filter(event_id=failed_id).update(payload=payload)
        replayed = caller.call("POST", f"/v1/failed-events/{failed_id}/replay")
        assert (replayed.status_code, replayed.json()["state"]) == (202, "pending")
        assert caller.listed() == []
        deadline = time.monotonic() + 10
        while caller.call("GET", f"/v1/failed-events/{failed_id}").json()["state"] != "committed":
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert caller.query(COUNT, token + 1).json()["rows"] == [[3]]
        problem = problem_of(caller.call("DELETE", f"/v1/failed-events/{failed_id}"), 409, "EVENT_NOT_FAILED")
        assert problem["context"] == {"failed_event_id": failed_id, "state": "committed"}


def test_discarded_write_is_passed_by_barriers_and_can_be_sent_again(caller: Caller) -> None:
    token = caller.send("a").json()["max_visibility_token"]
    failed_id = fail_oldest(caller.tenant_id)
    assert caller.send("a").json()["duplicate_count"] == 1
    problem_of(caller.query(COUNT, token), 409, "INGEST_FAILED")
    discarded = caller.call("DELETE", f"/v1/failed-events/{failed_id}")
    assert (discarded.status_code, discarded.content) == (204, b"")
    assert IncidentAudit.objects.get(kind="ingest_event_discarded").trace_id == TRACE
    assert caller.query(COUNT, token).json()["rows"] == [[0]]
    with worker(caller.tenant_id):
        again = caller.send("a", wait=True).json()
    assert (again["accepted_count"], again["status"]) == (1, "visible")
    assert caller.query(COUNT, again["max_visibility_token"]).json()["rows"] == [[1]]
    assert caller.call("GET", f"/v1/failed-events/{failed_id}").json()["state"] == "discarded"


def test_failed_writes_come_in_pages_and_by_table(caller: Caller) -> None:
    for table in ("events", "other", "events"):
        write_ids(caller.tenant_id, "x" * len(caller.listed()) or "-", table=table)
        fail_oldest(caller.tenant_id)
    first = caller.call("GET", "/v1/failed-events?limit=2").json()
    assert (first["tenant_id"], len(first["failed_events"])) == (caller.tenant_id, 2)
    second = caller.call("GET", f"/v1/failed-events?limit=2&cursor={first['next_cursor']}").json()
    tokens = [event["first_token"] for event in first["failed_events"] + second["failed_events"]]
    assert (tokens, second["next_cursor"]) == ([1, 2, 3], None)
    assert [event["first_token"] for event in caller.listed("?table=EVENTS")] == [1, 3]
    assert caller.listed("?table=nobody") == []
    for query in ("?limit=0", "?cursor=%00", "?cursor=bm90IGEgdG9rZW4=", "?table=%00"):
        problem_of(caller.call("GET", f"/v1/failed-events{query}"), 400, "INVALID_REQUEST")


def test_failed_write_of_another_tenant_is_none(caller: Caller) -> None:
    write_ids(caller.tenant_id, "a")
    failed_id = fail_oldest(caller.tenant_id)
    other = Caller()
    assert other.listed() == []
    for name in (str(failed_id), "999999999999", "0", "-1", "x", "1" * 40, "%00"):
        for method, path in (("GET", ""), ("DELETE", ""), ("POST", "/replay")):
            problem_of(other.call(method, f"/v1/failed-events/{name}{path}"), 404, "FAILED_EVENT_NOT_FOUND")
    assert len(caller.listed()) == 1
