"""Errors have one shape, whatever goes wrong and wherever."""

import importlib
import pkgutil
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from django.db import OperationalError
from django.http import HttpRequest, HttpResponse
from django.test import Client, override_settings
from django.urls import path
from rest_framework.request import Request

import api
import catalog
import ingest
import maintenance
import query
import storage
from api import problems
from api.views.base import OpenEndpoint
from catalog.tenants import create_tenant
from duckmesh import urls
from duckmesh.kernel.errors import Conflict, DuckMeshError, LimitExceeded
from storage.errors import ObjectNotFound, StoreDenied
from tests.http import bearer, make_key, problem_of

pytestmark = pytest.mark.django_db(transaction=True)

ERRORS_MD = Path(__file__).parents[2] / "docs" / "errors.md"

# CONTRACT.md, section 2.
CONTRACT = {
    "INVALID_REQUEST": 400,
    "INVALID_RECORD": 400,
    "VISIBILITY_TOKEN_INVALID": 400,
    "QUERY_INVALID": 400,
    "QUERY_FORBIDDEN": 403,
    "UNAUTHENTICATED": 401,
    "FORBIDDEN": 403,
    "TABLE_NOT_FOUND": 404,
    "SNAPSHOT_NOT_FOUND": 404,
    "TABLE_EXISTS": 409,
    "SCHEMA_INCOMPATIBLE": 409,
    "INGEST_FAILED": 409,
    "IDEMPOTENCY_CONFLICT": 409,
    "TOKEN_SCOPE_MISMATCH": 409,
    "INTEGRITY_CHECK_FAILED": 409,
    "SNAPSHOT_EXPIRED": 410,
    "PAYLOAD_TOO_LARGE": 413,
    "UNSUPPORTED_MEDIA_TYPE": 415,
    "QUERY_RESOURCES_EXCEEDED": 422,
    "RATE_LIMITED": 429,
    "BACKPRESSURE": 429,
    "DEPENDENCY_UNAVAILABLE": 503,
    "CONSISTENCY_TIMEOUT": 504,
    "QUERY_TIMEOUT": 504,
}


def _modules(package: ModuleType) -> Iterator[ModuleType]:
    for found in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        if not {"migrations", "management", "runner", "zygote"} & set(found.name.split(".")):
            yield importlib.import_module(found.name)


def _descendants(cls: type[DuckMeshError]) -> set[type[DuckMeshError]]:
    return {cls}.union(*(_descendants(child) for child in cls.__subclasses__()))


def all_errors() -> list[type[DuckMeshError]]:
    for package in (storage, catalog, ingest, query, maintenance, api):
        list(_modules(package))
    ours = {error for error in _descendants(DuckMeshError) if not error.__module__.startswith("tests")}
    return sorted(ours, key=lambda error: (error.code, error.__module__, error.__qualname__))


def test_every_error_has_the_status_that_the_contract_fixes() -> None:
    by_code = defaultdict(set)
    for error in all_errors():
        by_code[error.code].add(problems.status_of(error))
    assert {code: by_code[code] for code in CONTRACT if code in by_code} == {
        code: {status} for code, status in CONTRACT.items() if code in by_code
    }
    assert {code: statuses for code, statuses in by_code.items() if len(statuses) > 1} == {}


def test_every_error_has_a_code_and_says_what_it_means() -> None:
    for error in all_errors():
        assert re.fullmatch(r"[A-Z][A-Z_]+[A-Z]", error.code)
        assert error.__doc__, error


def test_every_error_is_documented_as_it_is() -> None:
    rows = re.findall(r"^\| `([A-Z_]+)` \| (\d{3}) \| (yes|no|depends) \| .+ \|$", ERRORS_MD.read_text("utf-8"), re.M)
    documented = {code: (int(status), retry) for code, status, retry in rows}
    assert len(documented) == len(rows), "a code has one line, and one meaning"
    retryable = defaultdict(set)
    for error in all_errors():
        retryable[error.code].add(error.retryable)
    words = {frozenset({True}): "yes", frozenset({False}): "no", frozenset({True, False}): "depends"}
    assert documented == {
        error.code: (problems.status_of(error), words[frozenset(retryable[error.code])]) for error in all_errors()
    }


def test_what_the_store_says_of_our_objects_is_not_the_callers_business(failing: Client) -> None:
    problem_of(failing.get("/fail/object"), 500, "INTERNAL")
    problem_of(failing.get("/fail/credentials"), 503, "DEPENDENCY_UNAVAILABLE")


class _Failing(OpenEndpoint):
    def get(self, _request: Request, kind: str) -> HttpResponse:
        raise FAILURES[kind]


def _plain(request: HttpRequest) -> HttpResponse:
    raise RuntimeError(SECRET)


SECRET = "postgresql://root:hunter2@db/duckmesh /srv/secret SELECT * FROM api_key"
FAILURES: dict[str, Exception] = {
    "bug": RuntimeError(SECRET),
    "database": OperationalError(SECRET),
    "limit": LimitExceeded("Slow down.", retry_after=2.1, limit=5),
    "object": ObjectNotFound("No such object.", key="acme/t/part-1"),
    "credentials": StoreDenied("Wrong secret."),
    "conflict": Conflict("No.", reason="x"),
}


class _Routes:
    urlpatterns = [path("fail/<str:kind>", _Failing.as_view()), path("plain", _plain), *urls.urlpatterns]
    handler400, handler403, handler404, handler500 = urls.handler400, urls.handler403, urls.handler404, urls.handler500


@pytest.fixture
def failing() -> Iterator[Client]:
    with override_settings(ROOT_URLCONF=_Routes):
        yield Client(raise_request_exception=False)


def test_an_unexpected_exception_tells_nothing_and_is_logged(failing: Client, caplog: pytest.LogCaptureFixture) -> None:
    for address in ("/fail/bug", "/plain"):
        caplog.clear()
        problem = problem_of(failing.get(address), 500, "INTERNAL")
        assert problem["context"] == {}
        assert not problem["retryable"]
        assert "hunter2" not in str(problem)
        assert "RuntimeError" not in str(problem)
        assert "RuntimeError" in caplog.text
        assert problem["trace_id"] in caplog.text


def test_a_database_that_does_not_answer_is_unavailable(failing: Client) -> None:
    problem = problem_of(failing.get("/fail/database"), 503, "DEPENDENCY_UNAVAILABLE")
    assert problem["retryable"]
    assert "hunter2" not in str(problem)


def test_an_error_brings_its_context_and_its_retry_time(failing: Client) -> None:
    response = failing.get("/fail/limit")
    assert problem_of(response, 429, "RATE_LIMITED")["context"] == {"limit": 5}
    assert response["Retry-After"] == "3"
    assert problem_of(failing.get("/fail/conflict"), 409, "CONFLICT")["context"] == {"reason": "x"}


def test_an_address_that_is_no_route_is_a_problem(client: Client) -> None:
    for address in ("/", "/v1", "/v2/tables", "/v1/tables/", "/v1/tables/a/b", "/v1/" + "x" * 3000, "/v1/%ff%00"):
        problem_of(client.get(address), 404, "NOT_FOUND")
        problem_of(client.post(address, b"{", content_type="application/json"), 404, "NOT_FOUND")


def test_a_method_that_is_not_offered_is_a_problem_that_lists_those_that_are(client: Client) -> None:
    create_tenant(tenant_id="acme")
    headers = bearer(make_key("acme"))
    for method in ("put", "patch", "options", "trace", "delete"):
        response = client.generic(method.upper(), "/v1/tables", headers=headers)
        problem_of(response, 405, "METHOD_NOT_ALLOWED")
        assert response["Allow"] == "GET, HEAD, POST"
    problem_of(client.post("/v1/health"), 405, "METHOD_NOT_ALLOWED")
    problem_of(client.put("/v1/tables"), 401, "UNAUTHENTICATED")


BAD_BODIES = [
    (b" ", "not JSON"),
    (b"{", "not JSON"),
    (b"[]", "JSON object"),
    (b"null", "JSON object"),
    (b'"\\ud800"', "JSON object"),
    (b'{"table_name": "\\ud800"}', "surrogate"),
    (b'{"\\udc00": 1}', "surrogate"),
    (b'{"a": [{"b": "\\udfff"}]}', "surrogate"),
    (b'{"a": 1, "a": 1}', "twice"),
    (b'{"x": {"a": 1, "b": 2, "a": 3}}', "twice"),
    (b'{"a": NaN}', "NaN"),
    (b'{"a": -Infinity}', "Infinity"),
    (b'{"a": 1e400}', "double"),
    (b'{"a": ' + b"9" * 5000 + b"}", "digits"),
    (b'{"a": "\xff"}', "UTF-8"),
    (b"\xef\xbb\xbf{}", "not JSON"),
    (b"\xff\xfe{\x00}\x00", "UTF-8"),
    (b'{"a": ' + b"[" * 100_000, "nests deeper"),
    (b'{"a": ' * 101 + b"1" + b"}" * 101, "nests deeper"),
    (b'{"a": ' + b"[" * 200 + b"]" * 200 + b"}", "nests deeper"),
    (b'{"a": "' + b'\\"' * 300_000, "not JSON"),
]


@pytest.mark.parametrize(("body", "reason"), BAD_BODIES, ids=range(len(BAD_BODIES)))
def test_a_body_that_two_readers_might_read_differently_is_refused(client: Client, body: bytes, reason: str) -> None:
    create_tenant(tenant_id="acme")
    response = client.post("/v1/tables", body, content_type="application/json", headers=bearer(make_key("acme")))
    assert reason in problem_of(response, 400, "INVALID_REQUEST")["detail"]


def test_brackets_in_strings_are_not_depth(client: Client) -> None:
    create_tenant(tenant_id="acme")
    body = b'{"colour": "' + rb"[{\\\"" * 500 + b'"}'
    response = client.post("/v1/tables", body, content_type="application/json", headers=bearer(make_key("acme")))
    assert "nests" not in problem_of(response, 400, "INVALID_REQUEST")["detail"]


def test_a_body_of_another_kind_or_size_is_refused(client: Client) -> None:
    create_tenant(tenant_id="acme")
    headers = bearer(make_key("acme"))
    for content_type in ("text/plain", "application/x-www-form-urlencoded", "", "application/json; charset=utf-16"):
        response = client.post("/v1/tables", b"{}", content_type=content_type, headers=headers)
        problem_of(response, 415, "UNSUPPORTED_MEDIA_TYPE")
    zipped = client.post("/v1/tables", b"x", "application/json", headers={**headers, "Content-Encoding": "gzip"})
    problem_of(zipped, 415, "UNSUPPORTED_MEDIA_TYPE")
    large = client.post("/v1/tables", b" " * (2**20 + 1), content_type="application/json", headers=headers)
    assert problem_of(large, 413, "PAYLOAD_TOO_LARGE")["context"] == {"limit_bytes": 2**20}
    assert client.post("/v1/tables", b" " * 2**20, "application/json", headers=headers).status_code == 400


def test_a_request_id_is_kept_if_it_is_sane_and_made_if_not(client: Client) -> None:
    assert client.get("/v1/health", headers={"X-Request-ID": "abc-1.2:3"})["X-Request-ID"] == "abc-1.2:3"
    for wild in ("", "x" * 129, "a b", "a\tb", "<script>", "é"):
        assert re.fullmatch(r"[0-9a-f]{32}", client.get("/v1/health", headers={"X-Request-ID": wild})["X-Request-ID"])
    first, second = (client.get("/v1/health")["X-Request-ID"] for _ in range(2))
    assert first != second


def test_the_trace_of_the_caller_is_continued(client: Client) -> None:
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    response = client.get("/nowhere", headers={"traceparent": f"00-{trace}-00f067aa0ba902b7-01"})
    assert problem_of(response, 404, "NOT_FOUND")["trace_id"] == trace


def test_a_host_that_is_not_ours_is_refused(client: Client) -> None:
    for host in ("evil.example", "127.0.0.1.evil.example", "a b"):
        problem_of(client.get("/v1/health", headers={"Host": host}), 400, "INVALID_REQUEST")
    assert client.get("/v1/health", headers={"Host": "127.0.0.1:8080"}).status_code == 200


def test_answers_say_how_long_they_are(client: Client) -> None:
    for address in ("/v1/health", "/v1/openapi.json", "/nowhere", "/admin/login/"):
        response = client.get(address)
        assert int(response["Content-Length"]) == len(response.content)
