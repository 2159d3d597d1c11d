"""Marked values go through a whole stack, well and badly, and are looked for where they must not be."""

import json
import secrets
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

import psycopg2
import pytest

from duckmesh.devstack.http import Answer
from tests.acceptance.caller import Caller
from tests.acceptance.conftest import make_key
from tests.stack import Stack

CANARY = "canary" + secrets.token_hex(8)
"""What callers write, in every place where they can write something."""


@dataclass(frozen=True, kw_only=True)
class Mixed:
    """A stack after a mixed run, and everything that it answered."""

    stack: Stack
    keys: tuple[str, ...]
    answers: tuple[Answer, ...]


@pytest.fixture(scope="module")
def mixed() -> Iterator[Mixed]:
    programs = ("runners", "api", "worker-materialize", "worker-maintenance", "beat")
    with Stack(programs=programs, settings={"DUCKMESH_RETRY_PAUSE": "10ms", "DUCKMESH_MAX_ATTEMPTS": "2"}) as stack:
        keys = (stack.key, make_key(stack, stack.tenant, "ops_admin"))
        caller = Caller(stack.base_url, stack.key)
        answers = [*writes(caller), *queries(caller), *failures(stack, caller), *operations(caller)]
        caller.close()
        yield Mixed(stack=stack, keys=keys, answers=tuple(answers))


def record(value: object, **members: object) -> dict[str, object]:
    return {"records": [{"payload": {"a": value}, **members}]}


def writes(caller: Caller) -> Iterator[Answer]:
    """Records that are taken, recognised, in conflict, wrong, and of every wrong kind."""
    caller.create({"a": "string"}, name="texts")
    caller.create({"a": "int64"}, name="numbers")
    waited = {"wait_for_visibility": True, "visibility_timeout_ms": 20_000}
    yield caller.send("texts", {**record(CANARY, idempotency_key=CANARY), **waited})
    yield caller.send("texts", record(CANARY, idempotency_key=CANARY))
    yield caller.send("texts", record(CANARY + "other", idempotency_key=CANARY))
    yield caller.send("texts", record(CANARY), headers={"Idempotency-Key": CANARY + "request"})
    yield caller.send("numbers", record(CANARY))
    yield caller.send("numbers", {"records": [{"payload": {CANARY: 1}}]})
    yield caller.send("texts", f'{{"records": [{{"payload": {{"a": "{CANARY}'.encode())
    yield caller.send("numbers", f"a\n{CANARY}\n".encode(), headers={"Content-Type": "text/csv"})
    yield caller.send("texts", CANARY.encode(), headers={"Content-Type": "application/vnd.apache.parquet"})


def queries(caller: Caller) -> Iterator[Answer]:
    """Statements with literals that are answered, refused, wrong at each stage, and killed."""
    for sql in (
        f"SELECT '{CANARY}', a FROM texts",
        f"SELECT '{CANARY}'::INT",
        "SELECT a::INT FROM texts",
        f"SELECT '{CANARY}' FROM nothing",
        f"SELECT '{CANARY}' FROM",
        f"SELECT {CANARY} FROM texts",
        f"SELECT * FROM read_csv('/{CANARY}')",
        f"COPY texts TO '/tmp/{CANARY}'",
        f"SELECT error('{CANARY}')",
    ):
        yield caller.call("POST", "/v1/query", {"sql": sql})
    yield caller.call("POST", "/v1/query", {"sql": "SELECT ?::INT", "params": [CANARY]})
    bomb = (
        f"SELECT count(*) FROM range(100000000) a, range(100000000) b WHERE a.range::TEXT || b.range::TEXT = '{CANARY}'"
    )
    yield caller.call("POST", "/v1/query", {"sql": bomb, "timeout_ms": 300})


def failures(stack: Stack, caller: Caller) -> Iterator[Answer]:
    """Wrong keys and hosts, a write that no worker can read, and a database that goes away under both."""
    for headers in ({"Authorization": f"Bearer dm_{CANARY}_{CANARY}"}, {"X-API-Key": CANARY, "Authorization": ""}):
        yield caller.call("GET", "/v1/tables", headers=headers)
    yield caller.call("GET", "/v1/tables", headers={"Host": "elsewhere.example"})
    stack.stop("worker-materialize")
    token = caller.ingest("texts", {"payload": {"a": CANARY}})["max_visibility_token"]
    with closing(psycopg2.connect(stack.config.database_url)) as connection, connection, connection.cursor() as cursor:
        broken = CANARY.encode() * 3
        which = "(SELECT event_id FROM ingest_event WHERE last_token = %s)"
        cursor.execute(f"UPDATE ingest_payload SET payload = %s WHERE event_id = {which}", [broken, token])
    stack.start("worker-materialize")
    patient = {"consistency_timeout_ms": 60_000}
    failed = caller.call("POST", "/v1/query", {"sql": "FROM texts", "min_visibility_token": token, **patient})
    assert failed.json()["error_code"] == "INGEST_FAILED", failed.body
    yield failed
    yield caller.call("GET", "/v1/failed-events")
    stack.stop("postgres")
    yield caller.send("texts", record(CANARY))
    yield caller.call("POST", "/v1/query", {"sql": f"SELECT '{CANARY}' FROM texts"})
    yield caller.call("GET", "/v1/ready")
    stack.start("postgres")
    stack.await_ready()


def operations(caller: Caller) -> Iterator[Answer]:
    """What reads all of it: integrity and compaction, and the lists."""
    for kind in ("integrity", "compaction"):
        yield caller.call("POST", f"/v1/{kind}/run", {"wait_seconds": 20})
    for path in ("/v1/runs", "/v1/lag", "/v1/tables", "/v1/snapshots", "/v1/metrics", "/v1/openapi.json"):
        yield caller.call("GET", path)


def own_secrets(stack: Stack) -> dict[str, str]:
    config = stack.config
    passwords = {
        "database": unquote(urlsplit(config.database_url).password or ""),
        "redis": unquote(urlsplit(config.redis_url).password or ""),
        "secret key": config.secret_key,
    }
    assert all(len(value) > 10 for value in passwords.values())
    return passwords


def test_the_run_was_mixed(mixed: Mixed) -> None:
    codes = {json.loads(answer.body)["error_code"] for answer in mixed.answers if answer.status >= 400}
    assert codes >= {
        *("IDEMPOTENCY_CONFLICT", "INVALID_RECORD", "INVALID_REQUEST", "QUERY_INVALID", "QUERY_FORBIDDEN"),
        *("TABLE_NOT_FOUND", "QUERY_TIMEOUT", "UNAUTHENTICATED", "INGEST_FAILED", "DEPENDENCY_UNAVAILABLE"),
    }
    assert sum(answer.status == 200 for answer in mixed.answers) >= 10


def test_no_log_holds_what_callers_wrote_or_a_secret(mixed: Mixed) -> None:
    logs = sorted(mixed.stack.home.log.iterdir())
    assert {path.stem for path in logs} >= {"api", "postgres", "redis", "runners", "worker-materialize", "beat"}
    hidden = {**own_secrets(mixed.stack), **{f"key {n}": key for n, key in enumerate(mixed.keys)}, "canary": CANARY}
    hidden |= {"bytes of the canary, as PostgreSQL writes them": CANARY.encode().hex()}
    hidden |= {f"secret of key {n}": key.rpartition("_")[2] for n, key in enumerate(mixed.keys)}
    for path in logs:
        text = path.read_text("utf-8", errors="replace")
        found = [name for name, value in hidden.items() if value in text]
        lines = [line[:400] for line in text.splitlines() if any(hidden[name] in line for name in found)]
        assert (path.name, found, lines[:3]) == (path.name, [], [])


def test_no_answer_holds_a_secret_or_a_path_of_the_server(mixed: Mixed) -> None:
    words = [*own_secrets(mixed.stack).values(), *mixed.keys, str(mixed.stack.home.root), "postgresql://", "redis://"]
    words += ["Traceback", "psycopg2", 'File "', "site-packages", "INSERT INTO", "UPDATE ingest"]
    for answer in mixed.answers:
        text = answer.body.decode() + str(answer.headers)
        assert [word for word in words if word in text] == []
