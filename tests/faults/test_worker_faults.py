"""Workers that are killed or stopped, at each step, under load: every acknowledged write is there, once."""

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.client import Client
from tests.faults.load import Load, settle
from tests.history import Recorder
from tests.stack import Stack

WORKER = "worker-materialize"
SECOND = "worker-materialize-2"


@pytest.fixture(autouse=True)
def healthy(stack: Stack) -> Iterator[None]:
    """Each test ends with one plain worker."""
    yield
    stack.signal(WORKER, signal.SIGCONT)
    stack.kill(WORKER)
    stack.start(WORKER, failpoints="")


def wait_for(path: Path, *, seconds: float = 20) -> None:
    """The failpoint that makes this file has been reached."""
    deadline = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < deadline, f"{path.name} was not reached"
        time.sleep(0.01)


def wait_until_it_knows(stack: Stack, *, seconds: float = 20) -> None:
    """The worker has noticed that its claim is not its own any more, or that its session was ended."""
    deadline = time.monotonic() + seconds
    while not {"lease_lost", "publish_postponed"} & set(stack.log(WORKER).read_text(encoding="utf-8").split('"')):
        assert time.monotonic() < deadline, "the resumed worker noticed nothing"
        time.sleep(0.02)


@pytest.mark.parametrize("step", ["after_claim", "after_put", "before_commit", "after_commit"])
def test_worker_process_killed_at_a_step_under_load(
    stack: Stack, client: Client, recorder: Recorder, table: str, tmp_path: Path, step: str
) -> None:
    reached = tmp_path / step
    stack.kill(WORKER)
    with Load(client, table) as load:
        load.wait_for_acks(20)
        stack.start(WORKER, failpoints=f"materialize.{step}=kill@{reached}")
        wait_for(reached)
        load.wait_for_acks(50)
    settle(client, recorder, table)
    assert load.outcomes["unknown"] == 0, "no client notices a worker's death"


def test_whole_worker_killed_under_load_again_and_again(
    stack: Stack, client: Client, recorder: Recorder, table: str
) -> None:
    with Load(client, table) as load:
        for _ in range(3):
            load.wait_for_acks(30)
            stack.kill(WORKER)
            load.wait_for_acks(10)
            stack.start(WORKER)
    settle(client, recorder, table)
    assert load.outcomes["unknown"] == 0


@pytest.mark.parametrize(
    "step",
    [
        pytest.param("after_claim", marks=pytest.mark.long),
        pytest.param("after_put", marks=pytest.mark.long),
        "before_commit",
    ],
)
def test_worker_stopped_past_its_lease_and_resumed(
    stack: Stack, client: Client, recorder: Recorder, table: str, tmp_path: Path, step: str
) -> None:
    reached = tmp_path / step
    stack.kill(WORKER)
    stack.log(WORKER).unlink()
    with Load(client, table) as load:
        load.wait_for_acks(20)
        stack.start(WORKER, failpoints=f"materialize.{step}=stop@{reached}")
        wait_for(reached)
        stack.start(SECOND)
        try:
            stopped_at = load.token
            client.read(table, min_token=stopped_at, seconds=20)
            stack.thaw(WORKER)
            wait_until_it_knows(stack)
            load.wait_for_acks(50)
            settle(client, recorder, table)
        finally:
            stack.stop(SECOND)
    settle(client, recorder, table)
