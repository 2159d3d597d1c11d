"""Writes over HTTP, from the body's bytes to the answer."""

import json
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from django.test import Client
from prometheus_client import REGISTRY

from catalog.definition import parse_definition
from catalog.snapshots import resolve
from catalog.tables import create_table
from ingest.models import IngestEvent
from tests.factories import make_tenant
from tests.http import bearer, make_key, problem_of
from tests.serving import serving, worker
from tests.together import together

pytestmark = pytest.mark.django_db(transaction=True)

COLUMNS = [
    {"name": "carrier", "type": "string", "nullable": False},
    {"name": "n", "type": "int64"},
    {"name": "at", "type": "timestamp"},
]


@pytest.fixture(autouse=True)
def _serving() -> Iterator[None]:
    with serving():
        yield


class Sender:
    """Sends to the table `t` of a new tenant."""

    def __init__(self) -> None:
        self.tenant_id = make_tenant()
        definition = parse_definition({"table_name": "t", "schema_json": {"columns": COLUMNS}})
        self.table_id = create_table(tenant_id=self.tenant_id, definition=definition, actor="test").table_id
        self.headers = bearer(make_key(self.tenant_id, "ingest_writer"))

    def post(self, body: bytes, *, content_type: str = "application/json", **headers: str) -> Any:
        """Django's test response; its stubs have no one type for it."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return Client().post("/v1/ingest/t", body, content_type=content_type, headers={**self.headers, **named})

    def send(self, records: Sequence[object], **members: object) -> Any:
        return self.post(json.dumps({"records": records, **members}).encode())


@pytest.fixture
def sender() -> Sender:
    return Sender()


def record(n: int, key: str | None = None) -> dict[str, object]:
    return {"payload": {"carrier": "UA", "n": n}} | ({"idempotency_key": key} if key else {})


def test_accepted_records_are_durable_and_have_a_token(sender: Sender) -> None:
    assert sender.send([record(1), record(2)]).json() == {
        "accepted_count": 2,
        "duplicate_count": 0,
        "max_visibility_token": 2,
        "status": "accepted",
        "visible_snapshot_id": None,
    }
    assert IngestEvent.objects.get().record_count == 2
    assert sender.send([record(3)]).json()["max_visibility_token"] == 3


def test_duplicates_are_counted_and_covered_by_the_token(sender: Sender) -> None:
    sender.send([record(1, "a"), record(2, "b")])
    sender.send([record(9)])
    again = sender.send([record(1, "a"), record(3, "c")]).json()
    assert (again["accepted_count"], again["duplicate_count"], again["status"]) == (1, 1, "partial_duplicate")
    assert again["max_visibility_token"] == 4
    only = sender.send([record(1, "a")]).json()
    assert (only["accepted_count"], only["duplicate_count"], only["status"]) == (0, 1, "partial_duplicate")
    assert 1 <= only["max_visibility_token"] <= 2


def test_the_same_key_with_another_payload_is_a_conflict(sender: Sender) -> None:
    sender.send([record(1, "a")])
    problem_of(sender.send([record(2, "a")]), 409, "IDEMPOTENCY_CONFLICT")
    assert IngestEvent.objects.count() == 1


def test_a_request_key_answers_a_retry_with_the_first_result(sender: Sender) -> None:
    body = json.dumps({"records": [record(1), record(2)]}).encode()
    first = sender.post(body, idempotency_key="r1")
    assert "Idempotency-Replayed" not in first
    retry = sender.post(body, idempotency_key="r1")
    assert retry["Idempotency-Replayed"] == "true"
    assert retry.json() == first.json()
    problem_of(sender.post(body.replace(b"2", b"3"), idempotency_key="r1"), 409, "IDEMPOTENCY_CONFLICT")
    assert IngestEvent.objects.count() == 1


def test_one_bad_record_refuses_the_request_and_is_named(sender: Sender) -> None:
    records = [record(n) for n in range(1_000)]
    records[517] = {"payload": {"n": "many", "colour": 1}}
    problem = problem_of(sender.send(records), 400, "INVALID_RECORD")
    named = {(error["index"], error["column"]) for error in problem["context"]["errors"]}
    assert named == {(517, "n"), (517, "colour"), (517, "carrier")}
    assert not IngestEvent.objects.exists()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b'{"records": 1}',
        b'{"records": [], "colour": 1}',
        b'{"records": [{"payload": {"carrier": "\\ud800"}}]}',
        b'{"records": [{"payload": {"carrier": "a", "carrier": "b"}}]}',
        b'{"records": [{"payload": {"carrier": "a", "n": 1e400}}]}',
        b'{"records": [{"payload": {"carrier": "a", "n": NaN}}]}',
        b'{"records": [{"payload": {"carrier": "\xff"}}]}',
        b'{"records": ' + b"[" * 100_000,
        b'{"records": [{"payload": {"carrier": "a"}}], "wait_for_visibility": 1}',
        b'{"records": [{"payload": {"carrier": "a"}}], "visibility_timeout_ms": -1}',
    ],
    ids=range(13),
)
def test_a_body_that_cannot_be_understood_is_refused_whole(sender: Sender, body: bytes) -> None:
    response = Client().generic("POST", "/v1/ingest/t", body, CONTENT_TYPE="application/json", headers=sender.headers)
    code = json.loads(response.content)["error_code"]
    assert code in ("INVALID_REQUEST", "INVALID_RECORD")
    problem_of(response, 400, code)
    assert not IngestEvent.objects.exists()


def test_other_kinds_of_body_are_refused(sender: Sender) -> None:
    for kind in ("text/plain", "application/x-www-form-urlencoded", "application/jsonx"):
        problem = problem_of(sender.post(b"a,b\n", content_type=kind), 415, "UNSUPPORTED_MEDIA_TYPE")
        assert problem["context"] == {"content_type": kind}
    problem = problem_of(sender.post(b"x", content_encoding="br"), 415, "UNSUPPORTED_MEDIA_TYPE")
    assert problem["context"]["accepted"] == ["identity", "gzip", "zstd"]
    body = json.dumps({"records": [record(1)]}).encode()
    assert sender.post(body, content_type="Application/JSON; charset=UTF-8").status_code == 200


def test_a_body_is_read_no_further_than_its_bound(sender: Sender, settings: Any) -> None:
    settings.DUCKMESH = settings.DUCKMESH.model_copy(update={"max_body_bytes": 1_000})
    body = json.dumps({"records": [record(1)]}).encode()
    assert sender.post(body.ljust(1_000)).status_code == 200
    problem = problem_of(sender.post(body.ljust(1_001)), 413, "PAYLOAD_TOO_LARGE")
    assert problem["context"] == {"limit_bytes": 1_000}
    settings.DUCKMESH = settings.DUCKMESH.model_copy(update={"max_records_per_request": 1})
    problem_of(sender.send([record(1), record(2)]), 413, "PAYLOAD_TOO_LARGE")


def test_too_much_that_is_pending_is_pushed_back(sender: Sender, settings: Any) -> None:
    settings.DUCKMESH = settings.DUCKMESH.model_copy(update={"max_pending_records": 2})
    sender.send([record(1), record(2)])
    problem = problem_of(sender.send([record(3)]), 429, "BACKPRESSURE")
    assert problem["retryable"]


def test_a_table_that_is_not_the_tenants_does_not_exist(sender: Sender) -> None:
    body = json.dumps({"records": [record(1)]})
    headers = bearer(make_key(make_tenant()))
    for table in ("t", "nothing", "x" * 100, "a%20b"):
        response = Client().post(f"/v1/ingest/{table}", body, content_type="application/json", headers=headers)
        problem_of(response, 404, "TABLE_NOT_FOUND")


def test_who_waits_gets_the_snapshot_that_holds_the_records(sender: Sender) -> None:
    with worker(sender.tenant_id):
        answer = sender.send([record(1, "a"), record(1, "a")], wait_for_visibility=True).json()
    assert answer["status"] == "visible"
    assert (answer["accepted_count"], answer["duplicate_count"]) == (1, 1)
    snapshot = resolve(tenant_id=sender.tenant_id, snapshot_id=answer["visible_snapshot_id"])
    assert snapshot.visible_token >= answer["max_visibility_token"]


def test_a_wait_that_runs_out_says_that_the_records_are_accepted(sender: Sender) -> None:
    sender.send([record(1)])
    response = sender.send([record(2), record(3)], wait_for_visibility=True, visibility_timeout_ms=50)
    problem = problem_of(response, 504, "CONSISTENCY_TIMEOUT")
    assert problem["context"] == {
        "accepted": True,
        "accepted_count": 2,
        "duplicate_count": 0,
        "max_visibility_token": 3,
        "latest_visibility_token": 0,
    }
    assert not problem["retryable"]
    assert sum(event.record_count for event in IngestEvent.objects.all()) == 3


def test_a_process_with_too_many_waiters_says_that_the_records_are_accepted(sender: Sender) -> None:
    def wait() -> int:
        response = sender.send([record(1)], wait_for_visibility=True, visibility_timeout_ms=1_500)
        return int(problem_of(response, 504, "CONSISTENCY_TIMEOUT")["context"]["accepted_count"])

    assert together([wait] * 60) == [1] * 60  # more than DUCKMESH_MAX_WAITERS


def test_who_waits_for_a_write_that_failed_is_told(sender: Sender) -> None:
    sender.send([record(1)])
    IngestEvent.objects.update(state="failed", error="it broke", passed_in=1)
    with worker(sender.tenant_id):
        response = sender.send([record(3)], wait_for_visibility=True)
    context = problem_of(response, 409, "INGEST_FAILED")["context"]
    assert context["failed_event_id"] == IngestEvent.objects.get(state="failed").event_id
    assert context["accepted"]


def test_requests_are_counted_by_how_they_end(sender: Sender) -> None:
    def count(outcome: str) -> float:
        return REGISTRY.get_sample_value("duckmesh_ingest_requests_total", {"outcome": outcome}) or 0

    def total(name: str) -> float:
        return REGISTRY.get_sample_value(name) or 0

    before = {outcome: count(outcome) for outcome in ("accepted", "partial_duplicate", "refused")}
    records, duplicates = total("duckmesh_ingest_records_total"), total("duckmesh_ingest_duplicates_total")
    latency = total("duckmesh_ingest_ack_latency_ms_count")
    sender.send([record(1, "a")])
    sender.send([record(1, "a"), record(2, "b")])
    sender.send([record(1, "a"), {"payload": {}}])
    sender.post(b"x", content_type="text/plain")
    assert {outcome: count(outcome) - was for outcome, was in before.items()} == {
        "accepted": 1,
        "partial_duplicate": 1,
        "refused": 2,
    }
    assert total("duckmesh_ingest_records_total") - records == 2
    assert total("duckmesh_ingest_duplicates_total") - duplicates == 1
    assert total("duckmesh_ingest_ack_latency_ms_count") - latency == 2
