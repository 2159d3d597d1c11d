"""Statements that nobody wrote: each answers as bare DuckDB does, or is refused with a code of docs/errors.md.

Two tenants have canaries in all that is theirs. No byte of any answer to the one, its headers included, holds a canary
of the other, nor anything of the service's own.
"""

import json
import random
import re
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import duckdb
import pytest
from pyarrow import ipc

from duckmesh.devstack.http import Answer
from tests.acceptance.caller import Caller
from tests.acceptance.test_sql_corpus import STATEMENTS
from tests.runners import attacks
from tests.sql_tables import ARROW, bare_duckdb, fill, shown
from tests.sqlsmith import Smith, mutated
from tests.stack import Stack

ROOT = Path(__file__).resolve().parents[2]
CODES = set(re.findall(r"^\| `([A-Z_]+)` \| \d", (ROOT / "docs" / "errors.md").read_text(encoding="utf-8"), re.M))
FORMS = (ARROW, "application/json", "text/csv", "application/x-ndjson", "application/vnd.apache.parquet")
LISTINGS = (
    "/v1/query/schema",
    "/v1/query/history",
    "/v1/queries",
    "/v1/snapshots",
    "/v1/tables",
    "/v1/lag",
    "/v1/metrics",
)
STATEMENT_SECONDS = 2.0

# What an answer may hold only if the statement did.
OURS = (
    "Traceback",
    'File "',
    ".py",
    "_duckmesh",
    "read_parquet",
    ".parquet",
    "postgresql://",
    "redis://",
    "/data/",
    "psycopg",
)


@dataclass
class Tenant:
    """A tenant with canaries, and the statements that have been answered to it."""

    table: str
    value: str
    caller: Caller
    canaries: tuple[str, ...]
    foreign: tuple[str, ...] = ()
    outcomes: Counter[str] = field(default_factory=Counter)

    def ask(self, sql: str, form: str = ARROW, **members: Any) -> Answer:
        """The answer to the statement, in which nothing is that should not be."""
        body = {"sql": sql, "timeout_ms": int(STATEMENT_SECONDS * 1_000), **members}
        began = time.monotonic()
        answer = self.caller.call("POST", "/v1/query", body, {"Accept": form})
        took = time.monotonic() - began
        self.look(answer, sent=json.dumps(body, ensure_ascii=False))
        code = "ok" if answer.status == 200 else answer.json()["error_code"]
        assert code == "ok" or code in CODES - {"INTERNAL"}, (sql, answer.body)
        assert took < STATEMENT_SECONDS + 3, (sql, code, took)
        self.outcomes[code] += 1
        return answer

    def look(self, answer: Answer, sent: str = "") -> None:
        """The answer holds nothing of anybody else's."""
        everything = answer.body + b"\n" + "\n".join(f"{k}: {v}" for k, v in answer.headers.items()).encode()
        for canary in self.foreign:
            assert canary.encode() not in everything or canary in sent, (canary, sent)
        assert answer.status < 500 or answer.status in (503, 504), (sent, answer.body)
        if answer.headers.get("content-type") == "application/problem+json" or '"explain": true' in sent:
            for word in OURS:
                assert word.encode() not in answer.body or word in sent, (word, sent, answer.body)


@dataclass(frozen=True, kw_only=True)
class Arena:
    """Two tenants and a DuckDB that knows nothing of us."""

    one: Tenant
    two: Tenant
    stack: Stack
    bare: "Bare"


class Bare:
    """Bare DuckDB with the tables; it is made anew when a statement has broken it."""

    def __init__(self) -> None:
        self._connection = bare_duckdb()

    def answer(self, sql: str) -> tuple[list[str], list[str], list[str]] | None:
        """What is right, or None if bare DuckDB answers with an error."""
        try:
            return shown(self._connection.execute(sql).to_arrow_table(), ordered=True)
        except (duckdb.InternalException, duckdb.FatalException):
            self.close()
            self._connection = bare_duckdb()
        except (duckdb.Error, RuntimeError):
            pass
        return None

    def close(self) -> None:
        self._connection.close()


@pytest.fixture(scope="module")
def arena(contract_stack: Stack) -> Iterator[Arena]:
    stack, bare = contract_stack, Bare()
    with closing(bare), bare_duckdb() as rows:
        tenants = [make_tenant(stack, rows) for _ in range(2)]
        for tenant, other in zip(tenants, reversed(tenants), strict=True):
            tenant.foreign = (*other.canaries, *secrets_of(stack))
        yield Arena(one=tenants[0], two=tenants[1], stack=stack, bare=bare)
        for tenant in tenants:
            tenant.caller.close()


def make_tenant(stack: Stack, rows: duckdb.DuckDBPyConnection) -> Tenant:
    """A tenant with the tables of the grammar and one that consists of canaries."""
    name, key = stack.new_tenant()
    caller = Caller(stack.base_url, key)
    fill(caller, rows)
    table, column, value, pinned = (f"canary_{what}_of_{name}" for what in ("table", "column", "value", "pin"))
    caller.create({column: "string"}, name=table)
    done = caller.ingest(table, {"payload": {column: value}}, wait=True)
    pin = {"snapshot_id": done["visible_snapshot_id"], "name": pinned}
    assert caller.call("POST", "/v1/snapshots/pin", pin).status == 201
    key_id = key.split("_")[1]
    return Tenant(table=table, value=value, caller=caller, canaries=(table, column, value, pinned, name, key, key_id))


def secrets_of(stack: Stack) -> tuple[str, ...]:
    """What nobody may be told: where the service lives and what opens its servers."""
    return (str(stack.directory), stack.postgres.password, stack.redis.password, str(stack.home.root), stack.key)


def fuzz(arena: Arena, *, seconds: float, seed: int) -> int:
    """Nothing was found in so many seconds, in which so many statements were tried."""
    until, number = time.monotonic() + seconds, 0
    while time.monotonic() < until:
        number += 1
        attempt(arena, random.Random(f"{seed} {number}"))
    return number


def attempt(arena: Arena, chance: random.Random) -> None:
    """One of these: a statement of the grammar; an attack or a good one with something wrong in it; a look around."""
    roll = chance.random()
    if roll < 0.6:
        hold_against_bare(arena, Smith(chance).statement())
    elif roll < 0.98:
        tenant = chance.choice([arena.one, arena.two])
        sql = mutated(chance, chance.choice(SEEDS), words_of(arena, tenant))
        tenant.ask(sql, chance.choice(FORMS), timeout_ms=300, **chance.choice(MEMBERS))
    else:
        for tenant in (arena.one, arena.two):
            tenant.look(tenant.caller.call("GET", chance.choice(LISTINGS)))


def hold_against_bare(arena: Arena, sql: str) -> None:
    """The statement answers both tenants as it answers who has no other tenant, or with an error where there is one."""
    right = arena.bare.answer(sql)
    answer = arena.one.ask(sql)
    if right is None:
        return
    assert answer.status == 200, (sql, answer.body)
    names, types, rows = shown(ipc.open_stream(answer.body).read_all(), ordered="ORDER BY ALL" in sql)
    expected = right if "ORDER BY ALL" in sql else (*right[:2], sorted(right[2]))
    assert (names, types, rows) == expected, sql


MEMBERS: tuple[dict[str, Any], ...] = ({}, {}, {"explain": True}, {"row_limit": 3}, {"params": [1]}, {"snapshot_id": 1})
# They name only what the tenant may see, or what means nothing here.
HARMLESS = {"x49_star_of_struct", "x41_comment_hiding", "q12_python_repl"}
SEEDS = [*STATEMENTS, *(sql for _, sql in attacks(Path("/srv/lake")))]


def words_of(arena: Arena, tenant: Tenant) -> list[str]:
    """What a mutation puts in: words of attacks, and all that the tenant could know of the other one."""
    other = arena.two if tenant is arena.one else arena.one
    found = {word for sql in SEEDS for word in sql.split(" ") if len(word) < 60}
    return [*sorted(found), other.table, '"/srv/lake/x.parquet"', "pg_class", "duckdb_tables()"]


def test_every_attack_is_refused_over_http(arena: Arena) -> None:
    for name, sql in attacks(arena.stack.home.root):
        if not name.startswith("b") and name not in HARMLESS:
            answer = arena.one.ask(sql)
            assert answer.status in (400, 403, 404), (name, answer.body)


@pytest.mark.long
def test_every_bomb_is_stopped_over_http(arena: Arena) -> None:
    for name, sql in attacks(arena.stack.home.root):
        if name.startswith("b"):
            arena.one.ask(sql, "application/json", timeout_ms=400)
            assert arena.two.caller.rows("SELECT count(*) FROM trips") == [[40]], name


def test_no_statement_tells_or_breaks_anything(arena: Arena) -> None:
    hold_for(arena, seconds=8, seed=1)


@pytest.mark.long
@pytest.mark.timeout(1_200)
def test_no_statement_tells_or_breaks_anything_for_long(arena: Arena) -> None:
    hold_for(arena, seconds=600, seed=random.randrange(2, 10**9))


def hold_for(arena: Arena, *, seconds: float, seed: int) -> None:
    """Nothing was found in so many seconds, and the service is as it was."""
    programs = arena.stack.pids("api")
    number = fuzz(arena, seconds=seconds, seed=seed)
    outcomes = arena.one.outcomes + arena.two.outcomes
    assert number > 10 * seconds, "too slow to find anything"
    assert outcomes["ok"] > number / 3, outcomes
    assert outcomes["QUERY_FORBIDDEN"] > 0 < outcomes["QUERY_INVALID"], outcomes
    assert outcomes["DEPENDENCY_UNAVAILABLE"] <= number / 200, outcomes
    assert arena.stack.pids("api") == programs, "a process of the API has died"
    arena.stack.check("runners")
    for tenant in (arena.one, arena.two):
        assert tenant.caller.rows("SELECT count(*) FROM trips") == [[40]]
        for path in LISTINGS:
            tenant.look(tenant.caller.call("GET", path))
        assert tenant.caller.rows(f"FROM {tenant.table}") == [[tenant.value]], "the canary lives"
