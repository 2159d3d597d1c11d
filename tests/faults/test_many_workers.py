"""Two and ten workers beside each other: everything once, in the order of the tokens."""

from collections.abc import Iterator

import pytest

from tests.client import Client
from tests.faults.conftest import make_stack
from tests.faults.load import Load, settle
from tests.history import Recorder
from tests.stack import Stack


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    with make_stack(DUCKMESH_MATERIALIZE_WORKERS="10", DUCKMESH_CLAIM_MAX_ENVELOPES="3") as running:
        yield running


@pytest.mark.long
def test_ten_workers_publish_everything_once_and_in_order(client: Client, recorder: Recorder, table: str) -> None:
    client.create_table("beside")
    with Load(client, table, "beside", writers=6, readers=2, pause=0.01) as load:
        load.wait_for_acks(400, seconds=30)
    settle(client, recorder, table, "beside")
    assert load.outcomes["unknown"] == 0


def test_two_worker_programs_share_the_work(stack: Stack, client: Client, recorder: Recorder, table: str) -> None:
    stack.start("worker-materialize-2")
    with Load(client, table, writers=4, pause=0.01) as load:
        load.wait_for_acks(100)
        stack.kill("worker-materialize")
        load.wait_for_acks(100)
    settle(client, recorder, table)
    assert load.outcomes["unknown"] == 0
