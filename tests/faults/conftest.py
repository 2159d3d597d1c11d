"""One stack for the tests of this directory, with leases so short that they run out while a test looks on."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace

import pytest

from duckmesh.devstack.postgres import THROW_AWAY
from tests.client import Client
from tests.history import Recorder
from tests.stack import PROGRAMS, Stack

SETTINGS = {"DUCKMESH_LEASE": "2s", "DUCKMESH_RUN_LEASE": "2s", "DUCKMESH_FLUSH_INTERVAL": "100ms"}

_numbers = itertools.count(1)


def make_stack(*, programs: Sequence[str] = PROGRAMS, **settings: str) -> Stack:
    """A stack whose PostgreSQL keeps what it has acknowledged when it is stopped at once."""
    stack = Stack(programs=programs, settings={**SETTINGS, **settings}, exporting=("worker-materialize",))
    stack.postgres = replace(stack.postgres, settings={**THROW_AWAY, "synchronous_commit": "on"})
    return stack


@pytest.fixture(scope="package")
def stack() -> Iterator[Stack]:
    with make_stack() as running:
        yield running


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def client(stack: Stack, recorder: Recorder) -> Iterator[Client]:
    with Client(base_url=stack.base_url, key=stack.key, tenant=stack.tenant, recorder=recorder) as made:
        yield made


@pytest.fixture
def table(client: Client) -> str:
    """A new table of the columns `id` and `n`."""
    name = f"events_{next(_numbers)}"
    client.create_table(name)
    return name
