"""A backup of a running service, restored under its feet: what its clients see, through commands and HTTP alone."""

import json
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.stack import PROGRAMS, Stack

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]

READ = "SELECT id FROM events ORDER BY id"


class Client:
    """The demo tenant, with a table of ids."""

    def __init__(self, stack: Stack) -> None:
        self.api = stack.api()
        columns = [{"name": "id", "type": "string"}]
        self.api.call("POST", "/v1/tables", {"table_name": "events", "schema_json": {"columns": columns}})

    def write(self, *ids: str) -> dict[str, Any]:
        records = [{"idempotency_key": each, "payload": {"id": each}} for each in ids]
        waits = {"wait_for_visibility": True, "visibility_timeout_ms": 30_000}
        answer = self.api.call("POST", "/v1/ingest/events", {"records": records, **waits})
        assert answer.status == 200, answer.body
        return dict(answer.json())

    def close(self) -> None:
        self.api.close()

    def read(self, **members: object) -> Any:
        return self.api.call("POST", "/v1/query", {"sql": READ, **members})

    def ids(self, **members: object) -> list[str]:
        answer = self.read(**members)
        assert answer.status == 200, answer.body
        return [row[0] for row in answer.json()["rows"]]


def manage(stack: Stack, *arguments: str, status: int = 0) -> Any:
    done = stack.manage(*arguments, "--json")
    assert done.returncode == status, (done.stdout, done.stderr)
    return json.loads(done.stdout)


def test_a_service_goes_on_from_its_backup(tmp_path: Path) -> None:
    with Stack(programs=[*PROGRAMS, "worker-drill"]) as stack, closing(Client(stack)) as client:
        kept = client.write("a", "b")
        assert manage(stack, "restore_drill", "--checksums")["summary"]["finding_count"] == 0
        answer = client.api.call("POST", "/v1/restore-drill/run", {"checksums": True, "wait_seconds": 60})
        assert (answer.status, answer.json()["status"]) == (200, "completed"), answer.body
        assert answer.json()["summary"]["tables_read"] == [f"{stack.tenant}.events"]
        refused = client.api.call("POST", "/v1/restore-drill/run", {"keep": True})
        assert refused.status == 400, "only whoever has a shell may keep a copy"
        taken = manage(stack, "backup", str(tmp_path), "--with-data")
        lost = client.write("lost")
        not_empty = manage(stack, "restore", str(tmp_path), status=1)
        assert not_empty["error_code"] == "RESTORE_TARGET_NOT_EMPTY"
        restored = manage(stack, "restore", str(tmp_path), "--force", "--take-over")
        assert (restored["name"], restored["objects_missing"]) == (taken["name"], 0)

        assert client.ids(min_visibility_token=kept["max_visibility_token"]) == ["a", "b"]
        assert client.ids(snapshot_id=kept["visible_snapshot_id"]) == ["a", "b"]
        answer = client.read(min_visibility_token=lost["max_visibility_token"])
        assert (answer.status, answer.json()["error_code"]) == (409, "TOKEN_SCOPE_MISMATCH")
        answer = client.read(snapshot_id=lost["visible_snapshot_id"])
        assert (answer.status, answer.json()["error_code"]) == (410, "SNAPSHOT_EXPIRED")

        again = client.write("a", "lost")
        assert (again["accepted_count"], again["duplicate_count"]) == (1, 1)
        assert again["max_visibility_token"] > lost["max_visibility_token"]
        assert client.ids(min_visibility_token=again["max_visibility_token"]) == ["a", "b", "lost"]
        manage(stack, "integrity")
        manage(stack, "retention")
        assert [each["state"] for each in manage(stack, "backup", str(tmp_path), "--list")] == ["finished"]
        manage(stack, "backup", str(tmp_path), "--drop", taken["name"])
