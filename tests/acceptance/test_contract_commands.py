"""CONTRACT.md, section 1: the commands of manage.py, and the credentials that a stack leaves."""

import json
import re
import subprocess
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.acceptance.caller import Caller, problem_of
from tests.stack import Stack

# Arguments, exit status, and what the one JSON document says; None where the arguments themselves are wrong. What else
# each command says is held against tests/integration/test_commands.py, without the start of a program for each.
CASES: list[tuple[tuple[str, ...], int, dict[str, Any] | None]] = [
    (("create_tenant", "acme", "--name", "Acme Ltd"), 0, {"tenant_id": "acme", "name": "Acme Ltd"}),
    (("create_tenant", "demo"), 1, {"error_code": "TENANT_EXISTS"}),
    (("create_tenant",), 2, None),
    (("lag", "demo"), 0, {"tenant_id": "demo", "failed_events": 0}),
    (("requeue_expired",), 0, {"requeued_claims": 0}),
    (("replay_failed",), 0, {"replayed": 0, "failed_event_ids": []}),
]


def run_all(stack: Stack, calls: list[tuple[str, ...]]) -> list[subprocess.CompletedProcess[str]]:
    """The commands, two at a time: most of their time is the start of Python."""
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(lambda arguments: stack.manage(*arguments), calls))


@pytest.fixture(scope="module")
def runs(contract_stack: Stack) -> dict[tuple[str, ...], subprocess.CompletedProcess[str]]:
    """Every command of the cases, run once."""
    calls = [(*arguments, "--json") for arguments, _, _ in CASES]
    return dict(zip([arguments for arguments, _, _ in CASES], run_all(contract_stack, calls), strict=True))


@pytest.mark.parametrize(("arguments", "status", "expected"), CASES, ids=[" ".join(case[0]) for case in CASES])
def test_the_exit_status_and_the_one_document_say_what_became_of_it(
    runs: dict[tuple[str, ...], subprocess.CompletedProcess[str]],
    arguments: tuple[str, ...],
    status: int,
    expected: dict[str, Any] | None,
) -> None:
    run = runs[arguments]
    assert run.returncode == status, run.stderr
    assert "Traceback" not in run.stderr
    if expected is None:
        assert run.stdout == ""
        assert "usage: manage.py" in run.stderr
        return
    document = json.loads(run.stdout)
    assert document.items() >= expected.items()
    if status:
        assert document["message"] in run.stderr


def test_a_key_is_made_used_and_revoked(contract_stack: Stack, nobody: Caller) -> None:
    options = ("--role", "table_admin", "--role", "query_reader", "--name", "CI", "--json")
    created = json.loads(contract_stack.manage("create_api_key", "demo", *options).stdout)
    assert set(created) == {"key_id", "tenant_id", "api_key", "roles"}
    assert created["tenant_id"] == "demo"
    assert sorted(created["roles"]) == ["query_reader", "table_admin"]
    headers = {"Authorization": f"Bearer {created['api_key']}"}
    assert nobody.call("GET", "/v1/tables", headers=headers).status == 200
    problem_of(nobody.call("GET", "/v1/lag", headers=headers), 403, "FORBIDDEN")
    revoked = contract_stack.manage("revoke_api_key", created["key_id"], "--json")
    assert (revoked.returncode, json.loads(revoked.stdout)["key_id"]) == (0, created["key_id"])
    # The command's own start takes longer than the second in which a revoked key may still open.
    assert contract_stack.manage("revoke_api_key", created["key_id"], "--json").returncode in (0, 1)
    problem_of(nobody.call("GET", "/v1/tables", headers=headers), 401, "UNAUTHENTICATED")


def test_lag_without_a_tenant_is_of_all_and_people_get_lines(contract_stack: Stack) -> None:
    as_json, as_text = run_all(contract_stack, [("lag", "--json"), ("lag",)])
    assert "demo" in {lag["tenant_id"] for lag in json.loads(as_json.stdout)["tenants"]}
    assert (as_json.returncode, as_text.returncode) == (0, 0)
    assert re.search(r"^ *demo +\d+ ", as_text.stdout, re.MULTILINE)


def test_the_stack_leaves_credentials_that_open_it_to_its_owner_alone(contract_stack: Stack, nobody: Caller) -> None:
    path = contract_stack.home.root / "credentials.json"
    assert path.stat().st_mode & 0o777 == 0o600
    credentials = json.loads(path.read_text(encoding="utf-8"))
    assert set(credentials) == {"base_url", "tenant_id", "api_key"}
    assert (credentials["base_url"], credentials["tenant_id"]) == (contract_stack.base_url, "demo")
    for path_of_role in ("/v1/tables", "/v1/lag"):
        assert nobody.call("GET", path_of_role, headers={"X-API-Key": credentials["api_key"]}).status == 200
