"""What the processes of a stack write: the same members on every line, one trace through all of them, and no data."""

import json
import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.stack import PROGRAMS, Stack

# Each is sent once in its place, and in no other: what finds one in a log knows how it came there.
VALUE, BAD_VALUE, LITERAL, BAD_LITERAL, PARAMETER = (
    f"canary{name}7f3a" for name in ("vala", "valb", "lit", "bad", "par")
)
RECORD_KEY, REQUEST_KEY, BODY = (f"canary{name}7f3a" for name in ("rkey", "ikey", "body"))
WRONG_KEY = "dm_canaryaaaaaa_" + "c" * 40
MEMBERS = {"timestamp", "level", "event", "service", "tenant_id", "trace_id", "request_id", "error_code"}
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
TABLE = {
    "table_name": "birds",
    "schema_json": {"columns": [{"name": "name", "type": "string"}, {"name": "n", "type": "int64"}]},
    "primary_key_cols": ["name"],
}


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    settings = {"DUCKMESH_LOG_LEVEL": "DEBUG", "DUCKMESH_MAX_ATTEMPTS": "1", "DUCKMESH_LEASE": "2s"}
    failing = {"worker-materialize": f"materialize.after_put=raise@{tmp_path_factory.mktemp('once')}/failed"}
    with Stack(programs=(*PROGRAMS, "worker-maintenance"), settings=settings, failpoints=failing) as stack:
        _everything(stack)
        yield stack


def _everything(stack: Stack) -> None:
    """All kinds of requests, good and bad, commands, maintenance and a failure have been."""
    trace = {"traceparent": f"00-{TRACE}-00f067aa0ba902b7-01"}
    with stack.api() as api, stack.api(WRONG_KEY) as stranger:
        assert api.call("POST", "/v1/tables", TABLE).status == 201

        def write(*records: object, headers: dict[str, str] | None = None, wait: bool = True) -> int:
            body = {"records": list(records), "wait_for_visibility": wait, "visibility_timeout_ms": 20_000}
            return api.call("POST", "/v1/ingest/birds", body, headers=headers).status

        first = {"payload": {"name": VALUE, "n": 1}, "idempotency_key": RECORD_KEY}
        assert write(first) == 409  # its worker fails, once: it is accepted, and set aside
        (failed,) = api.call("GET", "/v1/failed-events").json()["failed_events"]
        assert api.call("POST", f"/v1/failed-events/{failed['id']}/replay").status == 202
        assert (
            write({"payload": {"name": VALUE + "2", "n": 2}}, headers={**trace, "Idempotency-Key": REQUEST_KEY}) == 200
        )
        assert write({"payload": {"name": "x", "n": BAD_VALUE}}) == 400
        assert write({**first, "payload": {"name": BAD_VALUE, "n": 1}}) == 409
        assert api.call("POST", "/v1/ingest/birds", BODY.encode()).status == 400

        def query(sql: str, **members: object) -> int:
            return api.call("POST", "/v1/query", {"sql": sql, **members}, headers=trace).status

        assert query(f"SELECT * FROM birds WHERE name <> '{LITERAL}'") == 200
        assert query("SELECT * FROM birds WHERE name = ?", params=[PARAMETER]) == 200
        assert query(f"SELECT CAST('{BAD_LITERAL}' AS INTEGER) FROM birds") == 400
        assert query(f"SELECT {BAD_LITERAL}(") == 400
        assert query(f"SELECT * FROM read_csv('{BAD_LITERAL}')") == 403
        assert (
            query(f"SELECT sum(a.range + length('{LITERAL}')) FROM range(100000000) a, range(100000) b", timeout_ms=300)
            == 504
        )

        assert stranger.call("GET", "/v1/tables").status == 401
        for kind in ("compaction", "retention", "integrity"):
            assert api.call("POST", f"/v1/{kind}/run", {}, headers=trace).status in (200, 202), kind
    made = stack.manage("create_api_key", stack.tenant, "--role", "query_reader")
    stack.log("manage").write_text(made.stderr, encoding="utf-8")  # what it prints is for whoever asked
    stack.log("manage-again").write_text(stack.manage("lag").stderr, encoding="utf-8")


def _texts(stack: Stack) -> dict[str, str]:
    names = (*PROGRAMS, "worker-maintenance", "postgres", "redis", "manage", "manage-again")
    return {name: stack.log(name).read_text(encoding="utf-8", errors="replace") for name in names}


def _lines(stack: Stack, name: str) -> list[dict[str, Any]]:
    text = stack.log(name).read_text(encoding="utf-8", errors="replace")
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


def _found(stack: Stack, name: str, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        for line in _lines(stack, name):
            if wanted(line):
                return line
        time.sleep(0.1)
    raise AssertionError(f"no such line in the log of {name}")


def test_no_log_holds_a_value_a_literal_a_key_or_a_password(stack: Stack) -> None:
    config = stack.config
    urls = (config.database_url, config.owner_database_url or "", config.redis_url)
    passwords = [urlsplit(url).password for url in urls]
    secrets = [stack.key, stack.key.rpartition("_")[2], WRONG_KEY, config.secret_key, *passwords]
    for name, text in _texts(stack).items():
        for secret in ("canary", *secrets):
            assert secret, "every secret of the stack is known"
            assert secret not in text, f"{secret} is in the log of {name}"


def test_every_line_has_every_member_and_says_whose_it_is(stack: Stack) -> None:
    for name in (*PROGRAMS, "worker-maintenance"):
        lines = _lines(stack, name)
        assert lines, f"{name} says nothing"
        for line in lines:
            assert line.keys() >= MEMBERS, line
            assert line["service"] == name, line


def test_a_trace_goes_on_in_the_worker_in_the_runner_and_in_the_run(stack: Stack) -> None:
    def of_the_trace(line: dict[str, Any]) -> bool:
        return TRACE in (line["trace_id"], *line.get("trace_links", ()))

    _write_until_it_is_published_for(stack, of_the_trace)
    _found(stack, "worker-maintenance", lambda line: line["event"] == "run_claimed" and of_the_trace(line))
    ended = _found(stack, "api", lambda line: line["event"] == "query_ended" and of_the_trace(line))
    assert ended["tenant_id"] == stack.tenant


def _write_until_it_is_published_for(stack: Stack, of_the_trace: Callable[[dict[str, Any]], bool]) -> None:
    """A sweep may publish one write or another before the ring for it comes, but not all of them."""
    with stack.api() as api:
        for number in range(30):
            body = {"records": [{"payload": {"name": f"n{number}", "n": number}}], "wait_for_visibility": True}
            api.call("POST", "/v1/ingest/birds", body, headers={"traceparent": f"00-{TRACE}-00f067aa0ba902b7-01"})
            published = [line for line in _lines(stack, "worker-materialize") if line["event"] == "snapshot_published"]
            if any(of_the_trace(line) for line in published):
                return
    raise AssertionError("no snapshot was published for the trace of a request")


def test_a_change_of_a_state_is_an_event(stack: Stack) -> None:
    seen = {line["event"] for name in (*PROGRAMS, "worker-maintenance") for line in _lines(stack, name)}
    wanted = {"table_created", "write_accepted", "claim_taken", "snapshot_published", "run_requested", "run_claimed"}
    assert wanted <= seen, wanted - seen
