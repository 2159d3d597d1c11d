"""`manage.py` commands: what they print, and the exit status they end with."""

import json
from typing import Any

import pytest
from django.core.management import get_commands, load_command_class

from api.keys import authenticate
from api.models import ApiKey
from catalog.models import Snapshot, Tenant
from catalog.tenants import create_tenant
from duckmesh.kernel import clock
from tests.factories import make_table
from tests.lake import fail_oldest, write_ids

pytestmark = pytest.mark.django_db(transaction=True)

OF_THE_CONTRACT = (
    *("create_tenant", "create_api_key", "revoke_api_key", "lag", "compact", "retention", "integrity"),
    *("restore_drill", "backup", "restore", "requeue_expired", "replay_failed"),
)


class Run:
    """A command's exit status and output."""

    def __init__(self, capsys: pytest.CaptureFixture[str], name: str, *arguments: str) -> None:
        capsys.readouterr()
        self.status: int | str | None = 0
        try:
            load_command_class(get_commands()[name], name).run_from_argv(["manage.py", name, *arguments])
        except SystemExit as end:
            self.status = end.code
        self.out, self.err = capsys.readouterr()

    def document(self) -> Any:
        """The one JSON document on stdout."""
        return json.loads(self.out)


def test_a_tenant_and_a_key_are_made_and_the_key_revoked(capsys: pytest.CaptureFixture[str]) -> None:
    made = Run(capsys, "create_tenant", "acme", "--name", "Acme", "--json")
    assert (made.status, made.document()) == (0, {"tenant_id": "acme", "name": "Acme", "state": "active"})
    assert Snapshot.objects.get(tenant_id="acme").snapshot_id == 0
    made = Run(
        capsys, "create_api_key", "acme", "--role", "query_reader", "--role", "ops_admin", "--name", "me", "--json"
    )
    document = made.document()
    assert made.status == 0
    assert set(document) == {"key_id", "tenant_id", "api_key", "roles"}
    assert document["roles"] == ["query_reader", "ops_admin"]
    assert authenticate(document["api_key"], clock.now()) is not None
    revoked = Run(capsys, "revoke_api_key", document["key_id"], "--json")
    assert (revoked.status, revoked.document()) == (0, {"key_id": document["key_id"], "revoked": True})
    assert authenticate(document["api_key"], clock.now()) is None


def test_people_get_sentences(capsys: pytest.CaptureFixture[str]) -> None:
    assert Run(capsys, "create_tenant", "acme").out == "Tenant acme is created.\n"
    assert Tenant.objects.get().name == "acme"
    lines = Run(capsys, "create_api_key", "acme", "--role", "ops_admin").out.splitlines()
    assert authenticate(lines[1], clock.now()) is not None


@pytest.mark.parametrize("name", OF_THE_CONTRACT)
def test_every_command_explains_itself(capsys: pytest.CaptureFixture[str], name: str) -> None:
    shown = Run(capsys, name, "--help")
    assert shown.status == 0
    assert shown.out.startswith(f"usage: manage.py {name}")
    assert "--json" in shown.out


def test_an_expiry_is_a_time_in_utc(capsys: pytest.CaptureFixture[str]) -> None:
    create_tenant(tenant_id="acme")
    Run(capsys, "create_api_key", "acme", "--role", "ops_admin", "--expires", "2999-01-31")
    assert clock.rfc3339(ApiKey.objects.get().expires_at or clock.now()) == "2999-01-31T00:00:00Z"


@pytest.mark.parametrize(
    ("arguments", "status", "code"),
    [
        (("create_tenant", "acme"), 1, "TENANT_EXISTS"),
        (("create_tenant", "../x"), 2, "INVALID_REQUEST"),
        (("create_tenant", "Not An Id"), 2, "INVALID_REQUEST"),
        (("create_api_key", "nobody", "--role", "ops_admin"), 1, "TENANT_NOT_FOUND"),
        (("create_api_key", "acme", "--role", "ops_admin", "--expires", "2001-01-01"), 2, "INVALID_REQUEST"),
        (("revoke_api_key", "nothing"), 1, "API_KEY_NOT_FOUND"),
        (("suspend_tenant", "nobody"), 1, "TENANT_NOT_FOUND"),
        (("suspend_tenant", "nobody", "--lift"), 1, "TENANT_NOT_FOUND"),
        (("suspend_tenant", "acme", "--reason", "x" * 201), 2, "INVALID_REQUEST"),
        (("lag", "nobody"), 1, "TENANT_NOT_FOUND"),
        (("replay_failed", "--tenant", "nobody"), 1, "TENANT_NOT_FOUND"),
        (("failed_events", "--tenant", "nobody"), 1, "TENANT_NOT_FOUND"),
        (("failed_events", "--tenant", "acme", "--discard", "1"), 1, "FAILED_EVENT_NOT_FOUND"),
        (("failed_events", "--discard", "1"), 2, "INVALID_REQUEST"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_what_cannot_be_done_is_told_by_name_and_status(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], status: int, code: str
) -> None:
    create_tenant(tenant_id="acme")
    told = Run(capsys, *arguments, "--json")
    assert (told.status, told.document()["error_code"]) == (status, code)
    said = Run(capsys, *arguments)
    assert (said.status, said.out) == (status, "")
    assert told.document()["message"] in said.err


@pytest.mark.parametrize(
    "arguments",
    [
        ("create_tenant",),
        ("create_api_key", "acme"),
        ("create_api_key", "acme", "--role", "root"),
        ("create_api_key", "acme", "--role", "ops_admin", "--expires", "soon"),
        ("requeue_expired", "everything"),
    ],
    ids=" ".join,
)
def test_wrong_usage_is_status_2_and_says_how(capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]) -> None:
    wrong = Run(capsys, *arguments)
    assert (wrong.status, wrong.out) == (2, "")
    assert "usage:" in wrong.err


def test_lag_shows_one_tenant_or_all(capsys: pytest.CaptureFixture[str]) -> None:
    for tenant_id in ("acme", "other"):
        create_tenant(tenant_id=tenant_id)
    one = Run(capsys, "lag", "acme", "--json").document()
    assert one["tenant_id"] == "acme"
    assert (one["pending_events"], one["token_lag"], one["tables"]) == (0, 0, [])
    every = Run(capsys, "lag", "--json").document()
    assert [lag["tenant_id"] for lag in every["tenants"]] == ["acme", "other"]
    assert "other" in Run(capsys, "lag").out


def test_requeue_expired_says_how_many(capsys: pytest.CaptureFixture[str]) -> None:
    assert Run(capsys, "requeue_expired", "--json").document() == {"requeued_claims": 0}


def test_failed_writes_are_listed_discarded_and_replayed(capsys: pytest.CaptureFixture[str]) -> None:
    assert Run(capsys, "failed_events").out == "No write is failed.\n"
    failed: dict[str, list[int]] = {}
    for tenant_id in ("acme", "other"):
        create_tenant(tenant_id=tenant_id)
        make_table(tenant_id=tenant_id)
        for identity in "ab":
            write_ids(tenant_id, identity)
            failed.setdefault(tenant_id, []).append(fail_oldest(tenant_id))
    listed = Run(capsys, "failed_events", "--json")
    assert [event["event_id"] for event in listed.document()["failed_events"]] == failed["acme"] + failed["other"]
    shown = Run(capsys, "failed_events", "--tenant", "acme")
    assert (shown.status, len(shown.out.splitlines())) == (0, 2)
    assert "Broken: a test" in shown.out
    discarded = Run(capsys, "failed_events", "--tenant", "acme", "--discard", str(failed["acme"][0]), "--json")
    assert (discarded.status, discarded.document()["state"]) == (0, "discarded")
    again = Run(capsys, "failed_events", "--tenant", "acme", "--discard", str(failed["acme"][0]), "--json")
    assert (again.status, again.document()["error_code"]) == (1, "EVENT_NOT_FAILED")
    replayed = Run(capsys, "replay_failed", "--tenant", "acme", "--json")
    assert replayed.document() == {"replayed": 1, "failed_event_ids": failed["acme"][1:]}
    assert Run(capsys, "replay_failed").out == "Failed writes replayed: 2.\n"
    assert Run(capsys, "replay_failed", "--json").document() == {"replayed": 0, "failed_event_ids": []}


def test_housekeeping_says_what_it_removed(capsys: pytest.CaptureFixture[str]) -> None:
    assert Run(capsys, "housekeeping", "--json").document() == {
        "keys": 0,
        "envelopes": 0,
        "staged_objects": 0,
        "scratch_files": 0,
        "index_rebuilt": False,
        "finished": True,
    }
