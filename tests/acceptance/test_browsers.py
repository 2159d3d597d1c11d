"""What a browser is told and given, over real HTTP: headers of every kind of answer, and the admin's cookies."""

import re

import pytest

from api.headers import ADMIN, DATA, DOCS
from tests.acceptance.browser import PASSWORD, Browser
from tests.acceptance.caller import Caller
from tests.stack import Stack

EVERY_ANSWER = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}
ANSWERS = {
    "data": ("GET", "/v1/tables", 200, DATA),
    "refused by a view": ("POST", "/v1/query", 400, DATA),
    "no such address": ("GET", "/v2", 404, DATA),
    "no such method": ("PUT", "/v1/tables", 405, DATA),
    "open": ("GET", "/v1/health", 200, DATA),
    "document": ("GET", "/v1/openapi.json", 200, DATA),
    "docs": ("GET", "/v1/docs", 200, DOCS),
    "the script of the docs": ("GET", "/v1/docs?script=", 200, DOCS),
    "static file": ("GET", "/static/admin/css/base.css", 200, DATA),
    "no such static file": ("GET", "/static/none.css", 404, DATA),
    "admin": ("GET", "/admin/", 302, ADMIN),
    "login": ("GET", "/admin/login/", 200, ADMIN),
    "no such page of the admin": ("GET", "/admin/none", 302, ADMIN),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_every_answer_tells_browsers_what_they_may_do(demo: Caller, name: str) -> None:
    method, path, status, policy = ANSWERS[name]
    answer = demo.call(method, path, {} if method == "POST" else None)
    assert answer.status == status
    assert {header: answer.headers.get(header) for header in EVERY_ANSWER} == EVERY_ANSWER
    assert answer.headers["content-security-policy"] == policy
    assert "unsafe-eval" not in policy
    assert "script-src 'unsafe-inline'" not in policy
    assert ("no-store" in answer.headers["cache-control"]) == (name != "static file")
    assert "strict-transport-security" not in answer.headers, "HTTPS is not configured"
    assert "access-control-allow-origin" not in answer.headers


def test_an_answer_to_a_host_that_is_not_served_has_the_headers_too(nobody: Caller) -> None:
    answer = nobody.call("GET", "/v1/health", headers={"Host": "elsewhere.example"})
    assert answer.status == 400
    assert EVERY_ANSWER.items() <= answer.headers.items()
    assert answer.headers["content-security-policy"] == DATA


@pytest.mark.parametrize("path", ["/v1/docs", "/admin/login/"])
def test_no_page_holds_a_script_that_its_policy_forbids(nobody: Caller, path: str) -> None:
    page = nobody.call("GET", path).body.decode()
    scripts = re.findall(r"<script([^>]*)>(.*?)</script>", page, re.DOTALL)
    assert scripts
    for attributes, text in scripts:
        assert re.search(r'src="/(static|v1)/', attributes)
        assert text == ""
    assert not re.search(r"\son[a-z]+=", page)
    assert "javascript:" not in page


def test_the_docs_start_from_their_own_script(nobody: Caller) -> None:
    page = nobody.call("GET", "/v1/docs").body.decode()
    (address,) = re.findall(r'src="(/v1/docs[^"]*)"', page)
    script = nobody.call("GET", address)
    assert script.status == 200
    assert script.headers["content-type"].startswith("application/javascript")
    assert b"SwaggerUIBundle(" in script.body
    assert b"/v1/openapi.json" in script.body


@pytest.fixture(scope="module")
def operator(contract_stack: Stack) -> None:
    code = f"from django.contrib.auth.models import User; User.objects.create_superuser('browsing', '', '{PASSWORD}')"
    made = contract_stack.manage("shell", "-c", code)
    assert made.returncode == 0, made.stderr


@pytest.mark.usefixtures("operator")
def test_cookies_are_the_admins_alone_and_no_script_reads_them(contract_stack: Stack) -> None:
    browser = Browser(contract_stack)
    assert browser.login("browsing") == 302
    assert set(browser.jar) == {"duckmesh_session", "duckmesh_csrf"}
    for cookie in browser.jar.values():
        assert (cookie["path"], cookie["httponly"], cookie["samesite"]) == ("/admin/", True, "Lax")
    assert browser.open("GET", "/admin/")[0] == 200


@pytest.mark.usefixtures("operator")
def test_a_form_without_the_sessions_token_changes_nothing(contract_stack: Stack) -> None:
    browser = Browser(contract_stack)
    assert browser.login("browsing") == 302
    form = {"tenant_id": "forged", "name": "x"}
    for extra in ({}, {"csrfmiddlewaretoken": "x" * 64}):
        assert browser.open("POST", "/admin/catalog/tenant/add/", {**form, **extra})[0] == 403
    elsewhere = Browser(contract_stack, Origin="https://elsewhere.example")
    elsewhere.jar = browser.jar
    sent = {**form, "csrfmiddlewaretoken": browser.token("/admin/catalog/tenant/add/")}
    assert elsewhere.open("POST", "/admin/catalog/tenant/add/", sent)[0] == 403
    assert "forged" not in browser.open("GET", "/admin/catalog/tenant/")[1]


@pytest.mark.usefixtures("operator")
def test_a_session_opens_nothing_of_the_api(contract_stack: Stack) -> None:
    browser = Browser(contract_stack)
    assert browser.login("browsing") == 302
    for cookie in browser.jar.values():
        cookie["path"] = "/"  # as a browser that minds no path
    assert browser.open("GET", "/v1/tables")[0] == 401
    assert browser.open("GET", "/v1/runs")[0] == 401
