"""Tables dropped and made anew under load: every 200 is visible in the table it was sent to, or went with it."""

import json
import time

from tests.client import Client, Refused
from tests.faults.load import Load, settle
from tests.history import Recorder
from tests.stack import Stack
from tests.together import Background


def await_worker(stack: Stack, name: str) -> None:
    """The worker takes tasks: what is timed from here on is not its start."""
    deadline = time.monotonic() + 30
    while f"{name}@" not in (log := stack.log(name).read_text()) or " ready." not in log:
        assert time.monotonic() < deadline, log[-1000:]
        time.sleep(0.1)


def test_table_dropped_and_recreated_under_load(client: Client, recorder: Recorder, table: str) -> None:
    client.create_table(f"{table}_steady")

    def write() -> None:
        for number in range(400):
            try:
                client.ingest(table, f"{table}-{number}-a", f"{table}-{number}-b")
            except Refused as exc:
                assert exc.code == "TABLE_NOT_FOUND", exc

    with Load(client, f"{table}_steady", writers=1, pause=0.05):
        writers = [Background(write)]
        for _ in range(8):
            time.sleep(0.15)
            client.drop_table(table)
            client.create_table(table)
        for writer in writers:
            writer.result(60)
    client.ingest(table, "last")
    rows = settle(client, recorder, table, f"{table}_steady")
    assert rows["last"] == 1


def test_pending_writes_of_a_dropped_table_do_not_appear_in_the_next(
    stack: Stack, client: Client, recorder: Recorder, table: str
) -> None:
    stack.kill("worker-materialize")
    try:
        client.ingest(table, "old-1", "old-2")
        client.drop_table(table)
        client.create_table(table)
        ack = client.ingest(table, "old-1", "new")
        assert (ack.accepted, ack.duplicates) == (2, 0)
    finally:
        stack.start("worker-materialize")
    assert settle(client, recorder, table) == {"old-1": 1, "new": 1}


def test_stopped_worker_of_one_tenant_holds_up_no_other(
    stack: Stack, client: Client, recorder: Recorder, table: str, tmp_path_factory: object
) -> None:
    assert stack.manage("create_tenant", "neighbour", "--name", "Neighbour").returncode == 0
    roles = [part for role in ("ingest_writer", "query_reader", "table_admin") for part in ("--role", role)]
    made = stack.manage("create_api_key", "neighbour", *roles, "--json")
    key = json.loads(made.stdout)["api_key"]
    theirs = Recorder()
    with Client(base_url=stack.base_url, key=key, tenant="neighbour", recorder=theirs) as neighbour:
        neighbour.create_table("events")
        neighbour.ingest("events", "warm", wait=True)
        stack.kill("worker-materialize")
        stack.start("worker-materialize", failpoints="materialize.after_claim=stop")
        stack.start("worker-materialize-2")
        try:
            client.ingest(table, "stuck")
            time.sleep(1)
            waiting = [Background(lambda: client.ingest(table, "also", wait=True)) for _ in range(3)]
            took = []
            for number in range(5):
                began = time.monotonic()
                neighbour.ingest("events", f"n{number}", wait=True)
                took.append(time.monotonic() - began)
            for background in waiting:
                background.result(30)
        finally:
            stack.thaw("worker-materialize")
            stack.kill("worker-materialize")
            stack.stop("worker-materialize-2")
            stack.start("worker-materialize", failpoints="")
        settle(neighbour, theirs, "events")
    settle(client, recorder, table)
    # The second worker may still be starting when the first write comes; who is held up waits until it is thawed.
    first, *others = took
    assert first < 10, took
    assert max(others) < 3, took
