"""Every statement of sql_attacks.txt goes through the real pool; nothing comes out that should not."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from query.errors import QueryForbidden, QueryInvalid, QueryResourcesExceeded, QueryTimeout, RunnersUnavailable
from query.pool import Pool
from tests.runners import CANARY, Lake, ask, attacks, make_lake, make_pool, rows, running_zygote

BOMB_SECONDS, SLACK_SECONDS = 0.4, 0.25
# They name only what the tenant may see, or what means nothing here, and so they may answer.
HARMLESS = {"x49_star_of_struct", "x41_comment_hiding", "q12_python_repl"}

STOPPED = (QueryForbidden, QueryInvalid, QueryResourcesExceeded, QueryTimeout, RunnersUnavailable)


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    return make_lake(tmp_path_factory.mktemp("lake"))


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    with running_zygote("--memory-bytes", str(256 * 2**20)) as zygote:
        pool = make_pool(zygote)
        yield pool
        pool.close()


def _outcome(pool: Pool, lake: Lake, sql: str, seconds: float) -> tuple[str, str]:
    try:
        answer = ask(pool, lake, sql, seconds=seconds)
    except STOPPED as exc:
        return type(exc).__name__, exc.message
    return "answer", str(rows(answer)) if len(answer.arrow) < 100_000 else ""


def test_no_attack_gets_anything(pool: Pool, lake: Lake) -> None:
    problems, files = [], _files(lake.root)
    for name, sql in attacks(lake.root):
        if name.startswith("b"):
            continue
        outcome, text = _outcome(pool, lake, sql, 10)
        refused = outcome in ("QueryForbidden", "QueryInvalid") or (name in HARMLESS and outcome == "answer")
        names_a_path = str(lake.root) in text and str(lake.root) not in sql
        if not refused or names_a_path or CANARY in text:
            problems.append((name, outcome, text[:200]))
    assert problems == []
    assert _files(lake.root) == files


def test_every_bomb_is_stopped_in_time(pool: Pool, lake: Lake) -> None:
    problems = []
    for name, sql in attacks(lake.root):
        if not name.startswith("b"):
            continue
        started = time.monotonic()
        outcome, text = _outcome(pool, lake, sql, BOMB_SECONDS)
        took = time.monotonic() - started
        if took > BOMB_SECONDS + SLACK_SECONDS or outcome == "RunnersUnavailable" or CANARY in text:
            problems.append((name, outcome, text[:100], round(took, 2)))
    assert problems == []
    assert rows(ask(pool, lake, "SELECT count(*) AS n FROM events")) == [{"n": 10}]


def _files(root: Path) -> set[Path]:
    return set(root.rglob("*"))
