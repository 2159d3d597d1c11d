"""CONTRACT.md, section 6: snapshots listed, shown, compared, pinned and restored."""

from collections.abc import Iterator

import pytest

from tests.acceptance.caller import Caller, problem_of
from tests.stack import Stack


@pytest.fixture(scope="module")
def keeper(contract_stack: Stack) -> Iterator[Caller]:
    """A tenant of its own, because a restore is about all tables of a tenant."""
    _, key = contract_stack.new_tenant()
    caller = Caller(contract_stack.base_url, key)
    yield caller
    caller.close()


def test_a_history_is_shown_pinned_and_restored(keeper: Caller) -> None:
    table = keeper.create({"a": "int64"})
    one = keeper.ingest(table, {"payload": {"a": 1}}, {"payload": {"a": 2}}, wait=True)["visible_snapshot_id"]
    two = keeper.ingest(table, {"payload": {"a": 3}}, wait=True)["visible_snapshot_id"]

    listed = keeper.call("GET", "/v1/snapshots").json()["snapshots"]
    assert [each["snapshot_id"] for each in listed] == list(range(two, -1, -1))
    shown = keeper.call("GET", f"/v1/snapshots/{two}").json()
    assert (shown["rows"], shown["files"], shown["watermark"], shown["parent"]) == (3, 2, 3, two - 1)
    (change,) = keeper.call("GET", f"/v1/snapshots/{one}/diff?to={two}").json()["tables"]
    assert (change["table_name"], change["added_rows"], change["removed_rows"]) == (table, 1, 0)

    pin = keeper.call("POST", "/v1/snapshots/pin", {"snapshot_id": one, "name": "before"})
    assert pin.status == 201
    assert keeper.call("GET", "/v1/snapshots/pins/before").json()["snapshot_id"] == one
    again = keeper.call("POST", "/v1/snapshots/pin", {"snapshot_id": two, "name": "before"})
    problem_of(again, 409, "PIN_EXISTS")

    sql = f"SELECT sum(a)::BIGINT FROM {table}"
    answer = keeper.call("POST", "/v1/snapshots/restore", {"snapshot_id": one, "visibility_timeout_ms": 20_000})
    assert answer.status == 200, answer.body
    restored = answer.json()
    assert restored["snapshot_id"] > two
    assert keeper.rows(sql, min_visibility_token=restored["max_visibility_token"]) == [[3]]
    assert keeper.rows(sql, snapshot_id=two) == [[6]]
    later = keeper.ingest(table, {"payload": {"a": 10}}, wait=True)
    assert later["max_visibility_token"] == restored["max_visibility_token"] + 1
    assert keeper.rows(sql) == [[13]]

    assert keeper.call("DELETE", "/v1/snapshots/pins/before").status == 204
    problem_of(keeper.call("GET", "/v1/snapshots/pins/before"), 404, "PIN_NOT_FOUND")
    problem_of(keeper.call("GET", "/v1/snapshots/999999"), 404, "SNAPSHOT_NOT_FOUND")
    problem_of(keeper.call("POST", "/v1/snapshots/restore", {"snapshot_id": 999_999}), 404, "SNAPSHOT_NOT_FOUND")


def test_another_tenants_snapshots_are_not_seen(keeper: Caller, other: Caller) -> None:
    keeper.call("POST", "/v1/snapshots/pin", {"snapshot_id": 0, "name": "mine"})
    problem_of(other.call("GET", "/v1/snapshots/pins/mine"), 404, "PIN_NOT_FOUND")
    problem_of(other.call("DELETE", "/v1/snapshots/pins/mine"), 404, "PIN_NOT_FOUND")
    assert b"mine" not in other.call("GET", "/v1/snapshots").body
