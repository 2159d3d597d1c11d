"""What a hostile caller tries over HTTP, beside what the tests of the contract try: docs/penetration-test-checklist.md.

The other tenant holds every role there, so nothing but its tenant stands in its way.
"""

import http.client
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from duckmesh.devstack.http import Answer
from tests.acceptance.caller import Caller, new_name, problem_of
from tests.acceptance.conftest import make_key
from tests.stack import ROLES, Stack

OPEN = ("/v1/health", "/v1/ready", "/v1/metrics", "/v1/openapi.json", "/v1/docs")
LATE = 2**40
"""An id or token that nobody has been given."""


@pytest.fixture(scope="module")
def document(contract_stack: Stack) -> dict[str, Any]:
    caller = Caller(contract_stack.base_url, None)
    found: dict[str, Any] = caller.call("GET", "/v1/openapi.json").json()
    caller.close()
    return found


@pytest.fixture(scope="module")
def keys(contract_stack: Stack) -> dict[str, str]:
    return {role: make_key(contract_stack, "demo", role) for role in ROLES}


@pytest.fixture
def by_role(contract_stack: Stack, keys: dict[str, str]) -> Iterator[dict[str, Caller]]:
    """A caller of each role alone, on connections of this test: the server ends those that are idle for long."""
    callers = {role: Caller(contract_stack.base_url, key) for role, key in keys.items()}
    yield callers
    for caller in callers.values():
        caller.close()


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, set[str]]]:
    """Method and address of every operation, its parameters filled in, and the roles of which it asks for one."""
    for path, verbs in document["paths"].items():
        address = path.replace("{table}", "t").replace("{", "").replace("}", "")
        for verb, operation in verbs.items():
            yield verb.upper(), address, set(operation.get("x-required-roles", ()))


def test_no_operation_answers_without_a_key_of_one_of_its_roles(
    document: dict[str, Any], by_role: dict[str, Caller], nobody: Caller, contract_stack: Stack
) -> None:
    forged = {"Authorization": f"Bearer {contract_stack.key[:-4]}AAAA"}
    tried = 0
    for method, address, roles in operations(document):
        body = b"no json" if method in ("POST", "PATCH") else None
        if not roles:
            assert address in OPEN
            continue
        for headers in ({}, forged):
            problem_of(nobody.call(method, address, body, headers), 401, "UNAUTHENTICATED")
        for role in set(ROLES) - roles:
            problem = problem_of(by_role[role].call(method, address, body), 403, "FORBIDDEN")
            assert set(problem["context"]["roles"]) == roles
            tried += 1
    assert tried > 60


def test_headers_change_neither_tenant_nor_role_nor_address_nor_method(
    by_role: dict[str, Caller], others: tuple[str, str], contract_stack: Stack
) -> None:
    reader = by_role["query_reader"]
    tenant_id, key = others
    for headers in (
        dict.fromkeys(("X-Tenant-ID", "X-Tenant", "Tenant", "X-DuckMesh-Tenant"), tenant_id),
        {"X-Forwarded-For": "127.0.0.1", "X-Real-IP": "127.0.0.1", "Forwarded": "for=127.0.0.1;host=other"},
        {"X-Forwarded-User": "admin", "Remote-User": "admin", "X-Remote-User": "admin", "REMOTE_USER": "admin"},
        {"X-Role": "ops_admin", "X-Roles": "ops_admin,table_admin"},
        {"X-Original-URL": "/v1/lag", "X-Rewrite-URL": "/v1/lag", "X-Forwarded-Prefix": "/v1/lag"},
        {"X-HTTP-Method-Override": "POST", "X-Method-Override": "POST", "X-HTTP-Method": "DELETE"},
        {"X-Forwarded-Host": "elsewhere.example", "X-Host": "elsewhere.example", "X-Forwarded-Server": "x.example"},
        {"X-Forwarded-Proto": "https", "X-Forwarded-Ssl": "on", "X-Forwarded-Port": "443"},
        {"X-API-Key": key},  # beside the Authorization that counts
        {"Cookie": "duckmesh_session=forged; sessionid=forged"},
    ):
        answer = reader.call("GET", "/v1/tables", headers=headers)
        assert (answer.status, answer.json()["tenant_id"]) == (200, contract_stack.tenant), headers
        assert b"elsewhere" not in answer.body
        assert "strict-transport-security" not in answer.headers
        assert reader.call("GET", "/v1/lag", headers=headers).status == 403
    for query in (f"tenant_id={tenant_id}", f"tenant={tenant_id}", "role=ops_admin", "_method=DELETE"):
        assert reader.call("GET", f"/v1/tables?{query}").json()["tenant_id"] == contract_stack.tenant


def test_a_tenant_in_a_body_is_none_of_the_requests_members(other: Caller) -> None:
    table = other.create({"a": "int64"})
    for path, body in (
        (f"/v1/ingest/{table}", {"records": [{"payload": {"a": 1}}]}),
        ("/v1/query", {"sql": f"FROM {table}"}),
        ("/v1/snapshots/pin", {"snapshot_id": 0, "name": "p"}),
        ("/v1/integrity/run", {"table": table, "wait_seconds": 0}),
    ):
        answer = other.call("POST", path, {**body, "tenant_id": "demo"})
        assert answer.status == 400, answer.body
        assert "tenant_id" in json.dumps(problem_of(answer, 400, answer.json()["error_code"]))


@pytest.mark.parametrize("host", ["elsewhere.example", "127.0.0.1.elsewhere.example", "a b", "127.0.0.1@elsewhere", ""])
def test_another_host_is_served_nothing_and_quoted_nowhere(demo: Caller, host: str) -> None:
    for path in ("/v1/tables", "/v1/docs", "/admin/login/"):
        answer = demo.call("GET", path, headers={"Host": host})
        assert answer.status == 400
        assert b"elsewhere" not in answer.body


def test_headers_that_could_be_read_in_two_ways_smuggle_no_request(contract_stack: Stack) -> None:
    """A second request in the body of a first one is never taken for one."""
    inner = b"GET /v1/tables HTTP/1.1\r\nHost: 127.0.0.1\r\nX-API-Key: %b\r\n\r\n" % contract_stack.key.encode()
    chunked = b"0\r\n\r\n" + inner
    for framing in (
        b"Content-Length: %d\r\nTransfer-Encoding: chunked\r\n" % len(chunked),
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
        b"Transfer-Encoding : chunked\r\n",
        b"Content-Length: 0\r\nContent-Length: %d\r\n" % len(chunked),
        b"Content-Length: +%d\r\n" % len(chunked),
    ):
        request = b"POST /v1/query HTTP/1.1\r\nHost: 127.0.0.1\r\n" + framing + b"\r\n" + chunked
        connection = http.client.HTTPConnection("127.0.0.1", contract_stack.port, timeout=2)
        connection.connect()
        connection.sock.settimeout(2)
        received = b""
        try:
            connection.sock.sendall(request)
            while piece := connection.sock.recv(65536):
                received += piece
        except OSError:
            pass
        finally:
            connection.close()
        assert b"tenant_id" not in received, framing


def told(answer: Answer, known: object) -> tuple[int, set[str], str]:
    """What the answer tells, but for its own id and for what was asked for."""
    text = json.dumps({**answer.json(), "trace_id": ""}).replace(str(known), "…")
    return answer.status, set(answer.headers), text


def test_identifiers_of_another_tenant_answer_exactly_as_ones_that_were_never_given(
    demo: Caller, other: Caller
) -> None:
    pin = new_name("pin")
    assert demo.call("POST", "/v1/snapshots/pin", {"snapshot_id": 0, "name": pin}).status == 201
    table = demo.create({"a": "int64"}, name=new_name("private"))
    demo.ingest(table, {"payload": {"a": 1}}, wait=True)
    run = demo.call("POST", "/v1/integrity/run", {"wait_seconds": 0}).json()["run_id"]
    snapshot = demo.query(f"FROM {table}")["snapshot_id"]
    assert snapshot > 0
    for method, address, theirs, missing in (
        ("GET", "/v1/runs/{}", run, LATE),
        ("DELETE", "/v1/runs/{}", run, LATE),
        ("GET", "/v1/snapshots/{}", snapshot, LATE),
        ("GET", "/v1/snapshots/{}/diff?to=0", snapshot, LATE),
        ("GET", "/v1/snapshots/pins/{}", pin, "none"),
        ("DELETE", "/v1/snapshots/pins/{}", pin, "none"),
        ("GET", "/v1/failed-events/{}", 1, LATE),
        ("DELETE", "/v1/failed-events/{}", 1, LATE),
        ("POST", "/v1/failed-events/{}/replay", 1, LATE),
        ("PATCH", "/v1/tables/{}", table, "private_x"),
    ):
        body = {"add": [{"name": "b", "type": "int64"}]} if method == "PATCH" else None
        seen = [told(other.call(method, address.format(known), body), known) for known in (theirs, missing)]
        assert seen[0][0] == 404, address
        assert seen[0] == seen[1]
    empty = [told(other.call("GET", f"/v1/failed-events?table={name}"), name) for name in (table, "private_x")]
    assert empty[0] == empty[1]
    for path, body in (
        ("/v1/snapshots/restore", {"snapshot_id": snapshot}),
        ("/v1/snapshots/pin", {"snapshot_id": snapshot, "name": "mine"}),
        ("/v1/query", {"sql": "SELECT 1", "snapshot_id": snapshot}),
    ):
        problem_of(other.call("POST", path, body), 404, "SNAPSHOT_NOT_FOUND")
    for kind in ("compaction", "retention", "integrity"):
        problem_of(other.call("POST", f"/v1/{kind}/run", {"table": table, "wait_seconds": 0}), 404, "TABLE_NOT_FOUND")
    assert demo.call("GET", f"/v1/snapshots/pins/{pin}").status == 200, "nobody has removed it"
    assert demo.call("GET", f"/v1/runs/{run}").json()["state"] != "cancelled"


def test_a_token_of_another_tenant_is_none(demo: Caller, other: Caller) -> None:
    table = demo.create({"a": "int64"})
    token = demo.ingest(table, *({"payload": {"a": n}} for n in range(1000)))["max_visibility_token"]
    other.refused(400, "VISIBILITY_TOKEN_INVALID", "SELECT 1", min_visibility_token=token + LATE)
    other.refused(400, "VISIBILITY_TOKEN_INVALID", "SELECT 1", min_visibility_token=token)


def test_a_cursor_of_another_tenant_opens_a_page_of_ones_own(demo: Caller, other: Caller) -> None:
    for _ in range(2):
        demo.create({"a": "int64"}, name=new_name("private"))
        demo.call("POST", "/v1/integrity/run", {"wait_seconds": 0})
        demo.query("SELECT 1")
    asked = 0
    for path in ("/v1/tables", "/v1/snapshots", "/v1/runs", "/v1/query/history"):
        cursor = demo.call("GET", f"{path}?limit=1").json().get("next_cursor")
        if cursor is None:
            continue
        page = other.call("GET", f"{path}?limit=100&cursor={cursor}")
        assert page.status in (200, 400)
        assert b"private" not in page.body
        assert b'"demo"' not in page.body
        asked += 1
    assert asked >= 3


def test_a_request_that_is_replayed_at_once_from_everywhere_is_written_once(
    demo: Caller, contract_stack: Stack
) -> None:
    table = demo.create({"a": "int64"})
    headers = {"Idempotency-Key": "one", "Authorization": f"Bearer {contract_stack.key}"}
    body = json.dumps({"records": [{"payload": {"a": n}} for n in range(3)]}).encode()

    def send(number: int) -> dict[str, Any]:
        caller = Caller(contract_stack.base_url, contract_stack.key)
        try:
            answer = caller.send(table, body, headers=headers)
            assert answer.status == 200, answer.body
            return {**answer.json(), "replayed": answer.headers.get("idempotency-replayed")}
        finally:
            caller.close()

    with ThreadPoolExecutor(24) as together:
        answers = list(together.map(send, range(96)))
    assert sorted(str(answer["replayed"]) for answer in answers) == ["None"] + ["true"] * 95
    (token,) = {answer["max_visibility_token"] for answer in answers}
    assert demo.rows(f"SELECT count(*) FROM {table}", min_visibility_token=token) == [[3]]


def test_a_captured_request_is_of_no_use_to_another_tenant(demo: Caller, other: Caller) -> None:
    table = demo.create({"a": "int64"})
    headers = {"Idempotency-Key": "captured"}
    demo.ingest(table, {"payload": {"a": 1}}, headers=headers)
    other.create({"a": "int64"}, name=table)
    mine = other.send(table, {"records": [{"payload": {"a": 1}}]}, headers=headers)
    assert mine.status == 200
    assert "idempotency-replayed" not in mine.headers, "it would tell that the other one has sent it"
    assert mine.json()["accepted_count"] == 1
