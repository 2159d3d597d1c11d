"""Restores over HTTP: waited for, or not; and what is told when the wait runs out or the restore fails."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from django.test import Client

from catalog.definition import parse_definition
from catalog.expire import expire_snapshots
from catalog.snapshots import resolve
from catalog.tables import create_table
from tests.factories import make_tenant
from tests.http import bearer, make_key, problem_of
from tests.lake import fail_oldest
from tests.serving import query_runners, serving, worker
from tests.together import Background

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def _serving() -> Iterator[None]:
    with serving():
        yield


class Caller:
    """A key with every role of a tenant that has a table `t` with a column `a`."""

    def __init__(self) -> None:
        self.tenant_id = make_tenant()
        definition = {"table_name": "t", "schema_json": {"columns": [{"name": "a", "type": "int64"}]}}
        create_table(tenant_id=self.tenant_id, definition=parse_definition(definition), actor="test")
        self._headers = bearer(make_key(self.tenant_id))

    def post(self, address: str, body: object) -> Any:
        """Django's test response; its stubs have no one type for it."""
        return Client().post(f"/v1/{address}", json.dumps(body), content_type="application/json", headers=self._headers)

    def write(self, *values: int) -> int:
        """The snapshot in which the values are visible."""
        records = [{"payload": {"a": value}} for value in values]
        response = self.post("ingest/t", {"records": records, "wait_for_visibility": True})
        assert response.status_code == 200, response.content
        return int(response.json()["visible_snapshot_id"])

    def restore(self, snapshot_id: object, **members: object) -> Any:
        return self.post("snapshots/restore", {"snapshot_id": snapshot_id, **members})


@pytest.fixture
def caller() -> Caller:
    return Caller()


def test_a_restore_answers_with_the_new_snapshot_which_a_query_reads(caller: Caller) -> None:
    with worker(caller.tenant_id), query_runners():
        one = caller.write(1, 2)
        two = caller.write(3)
        response = caller.restore(one)
        assert response.status_code == 200, response.content
        answer = response.json()
        assert answer == {
            "status": "visible",
            "snapshot_id": two + 1,
            "restored_from": one,
            "max_visibility_token": 4,
        }
        sums: list[int] = []
        for chosen in ({"min_visibility_token": 4}, {"snapshot_id": two}, {"snapshot_id": one}):
            found = caller.post("query", {"sql": "SELECT sum(a)::BIGINT FROM t", **chosen})
            assert found.status_code == 200, found.content
            sums.append(found.json()["rows"][0][0])
        assert sums == [3, 6, 3]
        assert caller.write(10) > answer["snapshot_id"]


def test_a_restore_that_is_not_waited_for_is_accepted(caller: Caller) -> None:
    with worker(caller.tenant_id):
        one = caller.write(1)
    response = caller.restore(one, wait_for_visibility=False)
    assert response.status_code == 202
    assert response.json() == {
        "status": "accepted",
        "snapshot_id": None,
        "restored_from": one,
        "max_visibility_token": 2,
    }


def test_a_wait_that_runs_out_says_that_the_restore_is_accepted(caller: Caller) -> None:
    with worker(caller.tenant_id):
        one = caller.write(1)
    problem = problem_of(caller.restore(one, visibility_timeout_ms=50), 504, "CONSISTENCY_TIMEOUT")
    assert problem["context"] == {"accepted": True, "max_visibility_token": 2, "latest_visibility_token": 1}
    assert problem["retryable"] is False


def test_a_restore_that_fails_is_told_to_who_waits(caller: Caller) -> None:
    with worker(caller.tenant_id):
        one = caller.write(1)
    waiting = Background(lambda: caller.restore(one))
    failed_id = None
    while failed_id is None and not waiting.done:
        try:
            failed_id = fail_oldest(caller.tenant_id)
        except AssertionError:
            continue
    problem = problem_of(waiting.result(), 409, "INGEST_FAILED")  # type: ignore[arg-type]
    assert problem["context"]["failed_event_id"] == failed_id
    assert problem["context"]["max_visibility_token"] == 2


def test_a_snapshot_that_is_gone_or_never_was_is_not_restored(caller: Caller) -> None:
    with worker(caller.tenant_id):
        caller.write(1)
    problem_of(caller.restore(99), 404, "SNAPSHOT_NOT_FOUND")
    expire_snapshots(tenant_id=caller.tenant_id, snapshot_ids=[1])
    problem_of(caller.restore(1), 410, "SNAPSHOT_EXPIRED")
    assert resolve(tenant_id=caller.tenant_id).kind == "ingest"


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"snapshot_id": "1"},
        {"snapshot_id": True},
        {"snapshot_id": -1},
        {"snapshot_id": 2**63},
        {"snapshot_id": 1, "more": 1},
        {"snapshot_id": 1, "wait_for_visibility": 1},
        {"snapshot_id": 1, "visibility_timeout_ms": -1},
        {"snapshot_id": 1, "visibility_timeout_ms": 10**12},
    ],
)
def test_a_request_that_says_something_wrong_is_refused(caller: Caller, body: dict[str, Any]) -> None:
    problem_of(caller.post("snapshots/restore", body), 400, "INVALID_REQUEST")
