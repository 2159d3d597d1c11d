"""Marked values go through a whole stack, well and badly, and are looked for where they must not be."""

import json
import secrets
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

import psycopg2
import pytest
from django.core.management import get_commands
from psycopg2.sql import SQL, Identifier

from duckmesh.devstack.http import Answer
from tests.acceptance.caller import Caller
from tests.acceptance.conftest import make_key
from tests.acceptance.operating import Ran, all_commands, all_pages, watched_arguments
from tests.stack import Stack

CANARY = "canary" + secrets.token_hex(8)
"""What callers write, in every place where they can write something."""

APPS = {"catalog", "ingest", "query", "maintenance", "api"}
HOLD_DATA = {"ingest_payload", "data_file"}  # what is written, and the least and greatest values of its files


@dataclass(frozen=True, kw_only=True)
class Mixed:
    """A stack after a mixed run, and everything that it answered."""

    stack: Stack
    keys: tuple[str, ...]
    password: str
    answers: tuple[Answer, ...]
    commands: tuple[Ran, ...]
    arguments: frozenset[str]

    def hidden(self) -> dict[str, str]:
        """What must be nowhere, by what it is."""
        found = {**own_secrets(self.stack), "password of the admin": self.password, "canary": CANARY}
        found |= {"bytes of the canary, as PostgreSQL writes them": CANARY.encode().hex()}
        return found | {f"secret of key {n}": key.rpartition("_")[2] for n, key in enumerate(self.keys)}


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mixed]:
    programs = ("runners", "api", "worker-materialize", "worker-maintenance", "beat")
    settings = {"DUCKMESH_RETRY_PAUSE": "10ms", "DUCKMESH_MAX_ATTEMPTS": "2"}
    password = secrets.token_urlsafe(20)
    with Stack(programs=programs, settings=settings) as stack, watched_arguments() as arguments:
        other = make_key(stack, stack.tenant, "ops_admin")
        caller = Caller(stack.base_url, stack.key)
        answers = [*writes(caller), *queries(caller), *failures(stack, caller), *operations(caller)]
        failed = json.loads(caller.call("GET", "/v1/failed-events").body)["failed_events"][0]["id"]
        caller.close()
        commands = all_commands(stack, tmp_path_factory.mktemp("backups"), failed_event_id=failed, secret=password)
        made = next(json.loads(ran.said)["api_key"] for ran in commands if "--json" in ran.arguments)
        keys = (stack.key, other, made, all_pages(stack, secret=password))
        yield Mixed(
            stack=stack,
            keys=keys,
            password=password,
            answers=tuple(answers),
            commands=tuple(commands),
            arguments=frozenset(arguments),
        )


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
    with closing(psycopg2.connect(stack.superusers)) as connection, connection, connection.cursor() as cursor:
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
        "owner of the database": unquote(urlsplit(config.owner_database_url or "").password or ""),
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
    assert {path.stem for path in logs} >= {
        "api",
        "postgres",
        "redis",
        "runners",
        "worker-materialize",
        "beat",
        "manage",
    }
    hidden = mixed.hidden()
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


def test_every_command_was_run_and_most_of_them_did_what_they_should(mixed: Mixed) -> None:
    ours = {name for name, app in get_commands().items() if app in APPS}
    assert ours <= {ran.arguments[0] for ran in mixed.commands}
    statuses = {ran.arguments: ran.status for ran in mixed.commands}
    refused = [arguments[0] for arguments, status in statuses.items() if status]
    assert refused == ["create_tenant", "create_api_key", "doctor", "backup", "restore"], (
        "a throw-away server is none to trust"
    )


def test_no_command_prints_what_callers_wrote_or_a_secret_except_a_new_key_once(mixed: Mixed) -> None:
    for ran in mixed.commands:
        found = [name for name, value in mixed.hidden().items() if value in ran.said]
        assert found == (["secret of key 2"] if "--json" in ran.arguments else []), ran


def test_no_argument_of_a_process_holds_what_callers_wrote_or_a_secret(mixed: Mixed) -> None:
    assert any("pg_dump" in line for line in mixed.arguments)
    assert any("pg_restore" in line for line in mixed.arguments)
    for line in mixed.arguments:
        assert [name for name, value in mixed.hidden().items() if value in line] == [], line


def test_no_table_holds_what_callers_wrote_but_those_of_data_and_none_holds_a_secret(mixed: Mixed) -> None:
    secret = {name: value for name, value in mixed.hidden().items() if "canary" not in name}
    written = {name: value for name, value in mixed.hidden().items() if "canary" in name}
    catalogs = _databases(mixed.stack)
    assert len(catalogs) == 2, "the restored one, and what was there before"
    for database in catalogs:
        assert set(_tables_with(mixed.stack, database, written)) <= HOLD_DATA
        assert set(_tables_with(mixed.stack, database, secret)) == set()


def _databases(stack: Stack) -> list[str]:
    with closing(psycopg2.connect(stack.postgres.url("postgres"))) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT datname FROM pg_database WHERE datname LIKE 'duckmesh%'")
        return [name for (name,) in cursor.fetchall()]


def _tables_with(stack: Stack, database: str, words: dict[str, str]) -> Iterator[str]:
    """Each table of the database that has one of the words in a row."""
    patterns = [f"%{word}%" for word in words.values()]
    with closing(psycopg2.connect(stack.postgres.url(database))) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public' ORDER BY 1")
        tables = [name for (name,) in cursor.fetchall()]
        assert {"ingest_event", "query_audit", "incident_audit", "django_admin_log", "django_session"} <= set(tables)
        for table in tables:
            which = SQL("SELECT count(*) FROM {} AS a_row WHERE a_row::text LIKE ANY (%s)").format(Identifier(table))
            cursor.execute(which, [patterns])
            if cursor.fetchone() != (0,):
                yield table
