"""One stack for all the tests that hold the product against CONTRACT.md from outside."""

import json
from collections.abc import Iterator

import pytest

from tests.acceptance.caller import Caller
from tests.composed import ComposeStack, ScaledStack
from tests.stack import Stack

SETTINGS = {"DUCKMESH_MAX_RECORDS_PER_REQUEST": "1000", "DUCKMESH_MAX_BODY_BYTES": "1MiB"}


STACKS = {"embedded": Stack, "compose": ComposeStack, "scaled": ScaledStack}


@pytest.fixture(scope="session")
def contract_stack(pytestconfig: pytest.Config) -> Iterator[Stack]:
    """The stack that `--stack` names: that of `make up`, or the one of deploy/compose.yaml, once or scaled out."""
    kind = STACKS[pytestconfig.getoption("stack")]
    with kind(settings=SETTINGS, exporting=("worker-materialize", "beat")) as stack:
        yield stack


@pytest.fixture
def demo(contract_stack: Stack) -> Iterator[Caller]:
    """The first tenant, with every role."""
    caller = Caller(contract_stack.base_url, contract_stack.key)
    yield caller
    caller.close()


@pytest.fixture(scope="session")
def others(contract_stack: Stack) -> tuple[str, str]:
    """Another tenant, and its key of every role."""
    return contract_stack.new_tenant()


@pytest.fixture
def other(contract_stack: Stack, others: tuple[str, str]) -> Iterator[Caller]:
    """Another tenant, with every role."""
    caller = Caller(contract_stack.base_url, others[1])
    yield caller
    caller.close()


@pytest.fixture
def nobody(contract_stack: Stack) -> Iterator[Caller]:
    """A caller without a key."""
    caller = Caller(contract_stack.base_url, None)
    yield caller
    caller.close()


def make_key(stack: Stack, tenant_id: str, *roles: str) -> str:
    """A new key of the tenant with these roles."""
    options = [option for role in roles for option in ("--role", role)]
    made = stack.manage("create_api_key", tenant_id, *options, "--json")
    assert made.returncode == 0, made.stderr
    key: str = json.loads(made.stdout)["api_key"]
    return key
