"""A write that no worker can read: it stops nobody, is told of at once, and comes back whole when it is repaired."""

import time
from contextlib import closing

import psycopg2
import pytest

from tests.client import Client, Refused
from tests.faults.load import settle
from tests.history import Recorder
from tests.stack import Stack


def exchange(stack: Stack, token: int, payload: bytes) -> bytes:
    """The payload of the write with this token is another one now; what it was."""
    one = "(SELECT event_id FROM ingest_event WHERE tenant_id = %s AND last_token = %s)"
    with closing(psycopg2.connect(stack.superusers)) as connection, connection, connection.cursor() as cursor:
        cursor.execute(f"SELECT payload FROM ingest_payload WHERE event_id = {one}", [stack.tenant, token])
        before = bytes(cursor.fetchone()[0])
        changed = [psycopg2.Binary(payload), stack.tenant, token]
        cursor.execute(f"UPDATE ingest_payload SET payload = %s WHERE event_id = {one}", changed)
    return before


def test_unreadable_write_is_passed_by_the_others_and_replayed(
    stack: Stack, client: Client, recorder: Recorder, table: str
) -> None:
    client.create_table(f"{table}_other")
    client.ingest(table, "before", wait=True)
    stack.kill("worker-materialize")
    poisoned = client.ingest(table, "poisoned-1", "poisoned-2")
    payload = exchange(stack, poisoned.token, b"not an envelope")
    behind = client.ingest(table, "behind")
    other = client.ingest(f"{table}_other", "other")
    stack.start("worker-materialize")

    assert client.read(f"{table}_other", min_token=other.token).rows[f"{table}_other"] == {"other": 1}
    with pytest.raises(Refused) as refused:
        client.read(table, min_token=behind.token)
    assert refused.value.code == "INGEST_FAILED"
    failed_id = refused.value.context["failed_event_id"]
    (event,) = client.get(f"/v1/failed-events?table={table}")["failed_events"]
    assert (event["id"], event["last_token"], event["state"]) == (failed_id, poisoned.token, "failed")
    assert client.get("/v1/lag")["failed_events"] == 2

    exchange(stack, poisoned.token, payload)
    assert client.call("POST", f"/v1/failed-events/{failed_id}/replay").status == 202
    deadline = time.monotonic() + 20
    while client.get(f"/v1/failed-events/{failed_id}")["state"] != "committed":
        assert time.monotonic() < deadline
        time.sleep(0.05)
    rows = settle(client, recorder, table, f"{table}_other")
    assert rows == dict.fromkeys(("before", "poisoned-1", "poisoned-2", "behind", "other"), 1)
