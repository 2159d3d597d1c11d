"""All of maintenance at once, beside writes and reads, while programs die: what every kept snapshot holds stays."""

import json
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from catalog.identity import OWNER_KEY
from storage.factory import StoreSettings, open_store
from tests.client import Client
from tests.clusters import query
from tests.faults.conftest import make_stack
from tests.faults.load import Load, settle
from tests.faults.soak import ACCOUNTS, EVENTS, Pace, Soak
from tests.history import Recorder
from tests.stack import PROGRAMS, Stack

MAINTENANCE = ("worker-maintenance", "worker-drill")
DEATHS = (
    ("child", "worker-maintenance"),
    ("kill", "worker-materialize"),
    ("freeze", "worker-maintenance"),
    ("freeze", "api"),
    ("child", "worker-drill"),
    ("kill", "worker-maintenance"),
    ("kill", "api"),
    ("child", "worker-materialize"),
    ("kill", "beat"),
    ("freeze", "worker-materialize"),
)
COMMON = {
    "DUCKMESH_COMPACTION_MIN_INPUT_FILES": "4",
    "DUCKMESH_COMPACTION_MAX_FRESH_FILES": "4",
    "DUCKMESH_COMPACTION_MIN_FOLD_FILES": "2",
    "DUCKMESH_ORPHAN_SWEEP_EVERY": "5s",
    "DUCKMESH_ATTEMPT_LIMIT": "20s",
    "DUCKMESH_ORPHAN_GRACE": "21s",
    "DUCKMESH_RUNNER_CONCURRENCY": "6",
    "DUCKMESH_RUNNER_TENANT_CONCURRENCY": "6",
}
SHORT = {
    **COMMON,
    "DUCKMESH_MAX_QUERY_TIMEOUT": "5s",
    "DUCKMESH_GC_SAFETY_AGE": "65001ms",
    "DUCKMESH_RETENTION_KEEP_ALL_FOR": "3s",
    "DUCKMESH_RETENTION_LADDER": "2s:1h",
}
LONG = {
    **COMMON,
    "DUCKMESH_MAX_QUERY_TIMEOUT": "60s",
    "DUCKMESH_GC_SAFETY_AGE": "120001ms",
    "DUCKMESH_RETENTION_KEEP_ALL_FOR": "15s",
    "DUCKMESH_RETENTION_LADDER": "10s:1h",
}
SHORT_PACE = Pace(seconds=15, acks=10, pause=0.1, rest=0.5, query_seconds=4)
LONG_PACE = Pace(seconds=600, acks=80, pause=0.5, rest=4, query_seconds=60)

_NAMED = "SELECT path FROM data_file WHERE %s OR unreferenced_since IS NULL UNION ALL SELECT path FROM ingest_staged"
_AGE = """
SELECT pg_advisory_xact_lock(hashtextextended('duckmesh.holds', 0));
UPDATE data_file SET unreferenced_since = unreferenced_since - make_interval(secs => %(by)s);
UPDATE file_hold SET created_at = created_at - make_interval(secs => %(by)s)
"""


@contextmanager
def hurried(stack: Stack, *, factor: int) -> Iterator[None]:
    """What is marked for deletion ages so many times as fast while the block lasts.

    The shortest age that is legal is more than a minute, and a statement here lasts five seconds at most.
    """
    over = threading.Event()

    def age() -> None:
        while not over.wait(1):
            query(stack.superusers, _AGE, {"by": factor - 1})

    thread = threading.Thread(target=age)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def stored(stack: Stack) -> set[str]:
    """The keys of everything in the object store but the store's own."""
    store = open_store(StoreSettings.of(stack.config))
    return {info.key for info in store.list("")} - {OWNER_KEY}


def named(stack: Stack, *, in_grace: bool) -> set[str]:
    """The keys that the catalog names, with or without those that no snapshot names any more."""
    return {str(path) for (path,) in query(stack.superusers, _NAMED, [in_grace])}


def deaths(seed: int, *, seconds: float) -> Iterator[tuple[str, str]]:
    """Six deaths at least, then more until the time is up."""
    chance, until = random.Random(seed), time.monotonic() + seconds
    yield from chance.sample(DEATHS, 6)
    while time.monotonic() < until:
        yield chance.choice(DEATHS)


def soak(stack: Stack, recorder: Recorder, client: Client, pace: Pace, *, seed: int, directory: Path) -> Soak:
    """The load has been, everything is visible, and no run is left."""
    client.create_table(EVENTS)
    client.call(
        "POST",
        "/v1/tables",
        {
            "table_name": ACCOUNTS,
            "primary_key_cols": ["id"],
            "schema_json": {"columns": [{"name": "id", "type": "string"}, {"name": "n", "type": "int64"}]},
        },
    )
    course = Soak(stack=stack, client=client, pace=pace, seed=seed, backups=directory)
    with course, Load(client, EVENTS, writers=2, pause=pace.pause, seconds=2 * pace.seconds + 60) as load:
        course.disturb(deaths(seed, seconds=pace.seconds), between=lambda: load.wait_for_acks(pace.acks, seconds=90))
    stack.await_ready()
    rows = settle(client, recorder, EVENTS, seconds=60)
    assert load.outcomes["acknowledged"] > 20, load.outcomes
    assert set(rows.values()) <= {1}
    await_no_runs(client)
    stack.stop("beat")  # policies ask for nothing more
    await_no_runs(client)
    return course


def await_no_runs(client: Client) -> None:
    """No run waits or is computed."""
    deadline = time.monotonic() + 90
    while [run for run in client.get("/v1/runs?limit=100")["runs"] if run["ended_at"] is None]:
        assert time.monotonic() < deadline, "runs do not end"
        time.sleep(0.5)


def check_everything(stack: Stack, client: Client, course: Soak) -> None:
    """The kept snapshots hold what they held, and the store what the catalog names; then also without grace."""
    reply = client.call("POST", "/v1/query", {"sql": f"SELECT id, n FROM {ACCOUNTS} ORDER BY id", "row_limit": 1000})
    assert dict(reply.json()["rows"]) == course.accounts
    check_kept(stack, course)
    for options in ({"mode": "quick"}, {"mode": "deep"}):
        course.run("integrity", options)
    drop_backups(stack, course)
    # Nothing expires after this, so that all that is marked can go at once.
    course.run("retention", {"keep_last": 1, "keep_all_for": "0s", "ladder": ""})
    query(stack.superusers, _AGE, {"by": 1000})
    query(
        stack.superusers, "UPDATE file_hold SET expires_at = clock_timestamp() WHERE kind = 'drill'"
    )  # of drills that died
    check_kept(stack, course)
    assert stored(stack) == named(stack, in_grace=False)
    course.run("integrity", {"mode": "deep"})
    course.run("restore-drill", {"checksums": True})


def check_kept(stack: Stack, course: Soak) -> None:
    """Every snapshot that is kept holds what it held, and the store exactly what has a row, orphans being due."""
    readable = {snapshot_id for snapshot_id in course.seen if course.look_again(snapshot_id)}
    assert course.problems == []
    kept = {row[0] for row in query(stack.superusers, "SELECT snapshot_id FROM snapshot")}
    assert readable == kept & set(course.seen), "a snapshot is there whole, or gone"
    course.run("retention", {"orphans": True})
    query(stack.superusers, "UPDATE orphan_sighting SET first_seen = first_seen - interval '22s'")
    course.run("retention", {"orphans": True})
    assert stored(stack) == named(stack, in_grace=True)


def drop_backups(stack: Stack, course: Soak) -> None:
    """Every backup had all its objects in the store, and holds nothing any more."""
    objects = stored(stack)
    listed = json.loads(stack.manage("backup", str(course.backups), "--list", "--json").stdout)
    for backup in listed:
        path = course.backups / backup["name"] / "objects.jsonl"
        if path.exists():
            keys = {json.loads(line)["key"] for line in path.read_text(encoding="utf-8").splitlines()}
            assert keys <= objects, "a backup's objects stay"
            course.done["backed up objects"] += len(keys)
        assert stack.manage("backup", str(course.backups), "--drop", backup["name"]).returncode == 0


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Where the backups go."""
    return tmp_path / "backups"


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", [1])
def test_kept_snapshots_stay_whole_through_maintenance_and_deaths(seed: int, directory: Path) -> None:
    recorder = Recorder()
    with make_stack(programs=(*PROGRAMS, *MAINTENANCE), **SHORT) as stack, client_of(stack, recorder) as client:
        with hurried(stack, factor=6):
            course = soak(stack, recorder, client, SHORT_PACE, seed=seed, directory=directory)
        check_everything(stack, client, course)


@pytest.mark.long
@pytest.mark.timeout(1_800)
def test_ten_minutes_of_everything_at_once_lose_nothing(directory: Path) -> None:
    recorder = Recorder()
    with make_stack(programs=(*PROGRAMS, *MAINTENANCE), **LONG) as stack, client_of(stack, recorder) as client:
        course = soak(stack, recorder, client, LONG_PACE, seed=7, directory=directory)
        check_everything(stack, client, course)


def client_of(stack: Stack, recorder: Recorder) -> Client:
    """A client of the stack's first tenant."""
    return Client(base_url=stack.base_url, key=stack.key, tenant=stack.tenant, recorder=recorder, timeout=90)
