"""CONTRACT.md, section 2: keys, roles, request ids, and errors of one shape, whatever is asked."""

import contextlib
import re
from collections.abc import Iterator

import pytest

from tests.acceptance.caller import Caller, new_name, problem_of
from tests.acceptance.conftest import make_key
from tests.stack import Stack


@pytest.fixture(scope="module")
def reader_key(contract_stack: Stack) -> str:
    return make_key(contract_stack, contract_stack.tenant, "query_reader")


@pytest.fixture
def reader(contract_stack: Stack, reader_key: str) -> Iterator[Caller]:
    caller = Caller(contract_stack.base_url, reader_key)
    yield caller
    caller.close()


def test_a_key_is_taken_from_either_header(nobody: Caller, contract_stack: Stack) -> None:
    for headers in (
        {"Authorization": f"Bearer {contract_stack.key}"},
        {"Authorization": f"bearer {contract_stack.key}"},
        {"X-API-Key": contract_stack.key},
    ):
        answer = nobody.call("GET", "/v1/tables", headers=headers)
        assert (answer.status, answer.json()["tenant_id"]) == (200, "demo")


def test_who_has_no_key_or_a_wrong_one_is_told_how_to_show_one(nobody: Caller, contract_stack: Stack) -> None:
    for headers in (
        {},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer dm_aaaaaaaaaaaa_nonsense"},
        {"Authorization": f"Basic {contract_stack.key}"},
        {"Authorization": contract_stack.key},
        {"X-API-Key": ""},
        {"X-API-Key": contract_stack.key[:-1] + "!"},
        {"Authorization": "Bearer nonsense", "X-API-Key": contract_stack.key},
    ):
        answer = nobody.call("GET", "/v1/tables", headers=headers)
        assert not problem_of(answer, 401, "UNAUTHENTICATED")["retryable"]
        assert answer.headers["www-authenticate"].startswith("Bearer")


def test_no_role_is_implied_by_another(reader: Caller, demo: Caller) -> None:
    table = demo.create({"a": "int64"})
    assert reader.call("GET", "/v1/tables").status == 200
    assert reader.rows(f"FROM {table}") == []
    definition = {"table_name": "x", "schema_json": {"columns": [{"name": "a", "type": "int64"}]}}
    for method, path, document, role in (
        ("POST", "/v1/tables", definition, "table_admin"),
        ("DELETE", f"/v1/tables/{table}", None, "table_admin"),
        ("POST", f"/v1/ingest/{table}", {"records": [{"payload": {"a": 1}}]}, "ingest_writer"),
        ("GET", "/v1/lag", None, "ops_admin"),
    ):
        problem = problem_of(reader.call(method, path, document), 403, "FORBIDDEN")
        assert role in problem["message"]


@pytest.mark.parametrize("given", ["abc-1", "a", "0f.3:x_Y-9", "a" * 128])
def test_a_sane_request_id_is_kept_on_answers_and_errors(demo: Caller, given: str) -> None:
    for path in ("/v1/health", "/v1/nothing", "/v1/tables"):
        assert demo.call("GET", path, headers={"X-Request-ID": given}).headers["x-request-id"] == given


@pytest.mark.parametrize("given", ["", " ", "a b", "<script>", "a" * 129, "é", '"', "a,b", "-"])
def test_an_insane_request_id_is_replaced(demo: Caller, given: str) -> None:
    made = demo.call("GET", "/v1/health", headers={"X-Request-ID": given}).headers["x-request-id"]
    assert re.fullmatch("[0-9a-f]{32}", made)


def test_the_trace_id_is_that_of_the_caller(demo: Caller) -> None:
    trace = "0af7651916cd43dd8448eb211c80319c"
    answer = demo.call("GET", "/v1/nothing", headers={"traceparent": f"00-{trace}-b7ad6b7169203331-01"})
    assert problem_of(answer, 404, "NOT_FOUND")["trace_id"] == trace


@pytest.mark.parametrize(
    "path",
    ["/", "/v1", "/v1/", "/v2/tables", "/v1/tables/", "/v1/tables/a/b", "/v1//tables", "/v1/tables/a%2Fb", "/v1/%00"],
)
def test_an_address_that_is_no_route_is_not_found_by_any_method(demo: Caller, path: str) -> None:
    for method in ("GET", "POST", "DELETE", "PUT"):
        problem_of(demo.call(method, path, {} if method != "GET" else None), 404, "NOT_FOUND")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("PUT", "/v1/tables", "GET, HEAD, POST"),
        ("OPTIONS", "/v1/tables", "GET, HEAD, POST"),
        ("GET", "/v1/query", "POST"),
        ("HEAD", "/v1/query", "POST"),
        ("GET", "/v1/ingest/t", "POST"),
        ("POST", "/v1/health", "GET, HEAD"),
        ("TRACE", "/v1/lag", "GET, HEAD"),
        ("BREW", "/v1/lag", "GET, HEAD"),
    ],
)
def test_a_method_that_is_not_offered_is_answered_with_those_that_are(
    demo: Caller, method: str, path: str, allowed: str
) -> None:
    answer = demo.call(method, path)
    assert (answer.status, answer.headers["allow"]) == (405, allowed)
    if method != "HEAD":
        problem_of(answer, 405, "METHOD_NOT_ALLOWED")


def test_a_head_request_gets_the_headers_of_a_get(demo: Caller) -> None:
    for path in ("/v1/tables", "/v1/health", "/v1/nothing"):
        get, head = demo.call("GET", path), demo.call("HEAD", path)
        assert (head.status, head.body) == (get.status, b"")
        assert head.headers["content-type"] == get.headers["content-type"]
        assert head.headers["content-length"] == get.headers["content-length"]


@pytest.mark.parametrize("path", ["/v1/query", "/v1/tables", "/v1/ingest/t"])
@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Type": "text/plain"},
        {"Content-Type": ""},
        {"Content-Type": "application/jsonp"},
        {"Content-Type": "application/json; charset=latin-1"},
        {"Content-Encoding": "br"},
    ],
)
def test_a_body_of_another_kind_is_refused(demo: Caller, path: str, headers: dict[str, str]) -> None:
    problem_of(demo.call("POST", path, b"{}", headers), 415, "UNSUPPORTED_MEDIA_TYPE")


@pytest.mark.parametrize("path", ["/v1/query", "/v1/tables", "/v1/ingest/{table}"])
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b'"text"',
        b"{} {}",
        b"\xff\xfe",
        b'{"a": NaN}',
        b'{"a": 1, "a": 2}',
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"a": "\xff"}',
    ],
    ids=lambda body: repr(body[:12]),
)
def test_a_body_that_is_no_json_object_is_refused(demo: Caller, path: str, body: bytes) -> None:
    if "{table}" in path:
        path = path.replace("{table}", demo.create({"a": "int64"}))
    problem_of(demo.call("POST", path, body), 400, "INVALID_REQUEST")


@pytest.mark.parametrize("path", ["/v1/query", "/v1/tables", "/v1/ingest/t"])
def test_a_body_that_is_too_large_is_refused(demo: Caller, path: str) -> None:
    problem_of(demo.call("POST", path, b" " * (2**20 + 1)), 413, "PAYLOAD_TOO_LARGE")


def test_an_error_is_read_by_who_still_sends_and_the_next_request_is_answered(reader: Caller, nobody: Caller) -> None:
    body = b" " * 100_000
    for _ in range(20):
        problem_of(reader.call("POST", "/v1/tables", body), 403, "FORBIDDEN")
        problem_of(reader.call("POST", "/v1/query", body, {"Content-Type": "text/csv"}), 415, "UNSUPPORTED_MEDIA_TYPE")
        problem_of(reader.call("PUT", "/v1/tables", body), 405, "METHOD_NOT_ALLOWED")
        problem_of(reader.call("POST", "/v1/nothing", body), 404, "NOT_FOUND")
        problem_of(nobody.call("POST", "/v1/query", body), 401, "UNAUTHENTICATED")


def test_large_headers_do_no_harm(demo: Caller) -> None:
    for size in (8_000, 100_000, 1_000_000):
        with contextlib.suppress(OSError):  # the server may close the connection on who sends that much
            assert demo.call("GET", "/v1/tables", headers={"X-Large": "a" * size}).status in (200, 400, 431)
    assert demo.call("GET", "/v1/health").status == 200


def test_a_name_of_another_tenant_answers_exactly_as_one_that_does_not_exist(demo: Caller, other: Caller) -> None:
    name, missing = demo.create({"a": "int64"}, name=new_name("secret")), "secret_x"
    demo.ingest(name, {"payload": {"a": 1}}, wait=True)
    for method, path, document in (
        ("GET", "/v1/tables/{}", None),
        ("DELETE", "/v1/tables/{}", None),
        ("POST", "/v1/ingest/{}", {"records": [{"payload": {"a": 1}}]}),
        ("POST", "/v1/ingest/{}", {"records": [{"payload": {"b": 1}}]}),
        ("POST", "/v1/query", {"sql": "SELECT * FROM {}"}),
        ("POST", "/v1/query", {"sql": "SELECT * FROM {}", "min_visibility_token": 0}),
    ):
        seen = []
        for candidate in (name, missing):
            asked = {k: v.format(candidate) if isinstance(v, str) else v for k, v in (document or {}).items()}
            answer = other.call(method, path.format(candidate), asked if document else None)
            problem = problem_of(answer, 404, "TABLE_NOT_FOUND")
            seen.append((repr({**problem, "trace_id": ""}).replace(candidate, "…"), len(answer.headers)))
        assert seen[0] == seen[1]
    assert other.call("GET", "/v1/tables").json()["tables"] == []
    assert demo.rows(f"FROM {name}") == [[1]]
