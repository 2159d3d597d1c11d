"""Workers that die, stop or fail at each step: nothing is lost, doubled or passed over in silence."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest
from django.conf import settings
from django.db import connection, transaction
from django.db.models.functions import Now

from catalog.models import IncidentAudit
from catalog.publish import lock_head
from catalog.snapshots import first_failure, resolve, visible_tokens
from ingest import bus
from ingest.models import IngestClaimBatch, IngestEvent, IngestPayload
from storage.errors import StoreDenied
from storage.local import LocalStore
from storage.store import ObjectInfo
from tests.factories import make_table, make_tenant
from tests.lake import CLAIM, Lake, write_ids
from tests.together import Background, wait_until_blocked

pytestmark = pytest.mark.django_db(transaction=True)

ROOT = Path(__file__).resolve().parents[2]
STEPS = ("after_claim", "after_put", "before_commit", "after_commit")
ROWS = {"a": 1, "b": 1, "c": 1, "d": 1}


@pytest.fixture
def tenant_id() -> str:
    """A tenant with three pending envelopes, of four records."""
    tenant_id = make_tenant()
    make_table(tenant_id=tenant_id)
    for identities in ("a", "bc", "d"):
        write_ids(tenant_id, *identities)
    return tenant_id


def worker(lake: Lake, tenant_id: str, failpoints: str) -> subprocess.Popen[str]:
    """A worker in a process of its own, on the database of this test."""
    address, _ = settings.DUCKMESH.database_url.rsplit("/", 1)
    environment = {
        **os.environ,
        "DUCKMESH_DATABASE_URL": f"{address}/{connection.settings_dict['NAME']}",
        "DUCKMESH_FAILPOINTS": failpoints,
    }
    command = [sys.executable, "-m", "tests.worker", tenant_id, str(lake.root)]
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)


def run_out(tenant_id: str) -> int:
    """The lease of the tenant's live claim, if it has one, has run out."""
    live = IngestClaimBatch.objects.filter(tenant_id=tenant_id, state="claimed")
    return live.update(lease_until=Now() - timedelta(milliseconds=1))


def objects(lake: Lake) -> int:
    return sum(1 for _ in lake.store.list(""))


def attempts(tenant_id: str) -> list[int]:
    events = IngestEvent.objects.filter(tenant_id=tenant_id).order_by("first_token")
    return list(events.values_list("attempts", flat=True))


def drain(lake: Lake, tenant_id: str, *, tasks: int = 60) -> None:
    """What a sweep does: task after task, until nothing is pending."""
    pending = IngestEvent.objects.filter(tenant_id=tenant_id, state="pending")
    for _ in range(tasks):
        if not pending.exists():
            return
        lake.materialize(tenant_id)
    raise AssertionError(f"{pending.count()} envelopes are still pending")


@pytest.mark.parametrize("step", STEPS)
def test_worker_killed_at_a_step_loses_and_doubles_nothing(lake: Lake, tenant_id: str, step: str) -> None:
    killed = worker(lake, tenant_id, f"materialize.{step}=kill")
    assert killed.communicate(timeout=60)[0] == ""
    assert killed.returncode == -signal.SIGKILL
    done = step == "after_commit"
    assert visible_tokens(tenant_ids=[tenant_id]) == {tenant_id: 4 if done else 0}
    assert objects(lake) == (0 if step == "after_claim" else 1)
    assert run_out(tenant_id) == (0 if done else 1)
    drain(lake, tenant_id)
    assert lake.rows(tenant_id) == ROWS
    assert attempts(tenant_id) == [0, 0, 0], "nobody was alone"
    assert not IngestPayload.objects.exists()


@contextmanager
def stopped(lake: Lake, tenant_id: str, step: str) -> Iterator[subprocess.Popen[str]]:
    """A worker that has been stopped at the step."""
    process = worker(lake, tenant_id, f"materialize.{step}=stop")
    try:
        deadline = time.monotonic() + 60
        while "State:\tT" not in Path(f"/proc/{process.pid}/status").read_text(encoding="utf-8"):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        yield process
    finally:
        process.kill()
        process.communicate()


def go_on(process: subprocess.Popen[str]) -> None:
    """The stopped worker runs to its end."""
    process.send_signal(signal.SIGCONT)
    process.communicate(timeout=60)
    assert process.returncode == 0


@pytest.mark.parametrize("step", ["after_claim", "after_put"])
def test_worker_stopped_past_its_lease_cannot_publish_what_its_successor_did(
    lake: Lake, tenant_id: str, step: str
) -> None:
    with stopped(lake, tenant_id, step) as process:
        assert run_out(tenant_id) == 1
        drain(lake, tenant_id)
        assert lake.rows(tenant_id) == ROWS
        go_on(process)
    assert lake.rows(tenant_id) == ROWS
    assert resolve(tenant_id=tenant_id).visible_token == 4


def test_worker_stopped_before_its_commit_holds_up_nobody_for_long(lake: Lake, tenant_id: str) -> None:
    with stopped(lake, tenant_id, "before_commit") as process:
        assert lake.materialize(tenant_id) == 0, "the claim is still another's, and that is known at once"
        assert write_ids(tenant_id, "e").max_visibility_token == 5, "an acknowledgement never waits for a publication"
        started = time.monotonic()
        make_table(tenant_id=tenant_id, name="other")
        assert time.monotonic() - started < 15, "the database ended the stopped worker's transaction"
        assert run_out(tenant_id) == 1
        drain(lake, tenant_id)
        assert lake.rows(tenant_id) == ROWS | {"e": 1}
        go_on(process)
    assert lake.rows(tenant_id) == ROWS | {"e": 1}
    assert resolve(tenant_id=tenant_id).visible_token == 5


def corrupt(tenant_id: str, *first_tokens: int, payload: bytes = b"not an envelope") -> list[int]:
    """These envelopes cannot be read; their ids."""
    events = IngestEvent.objects.filter(tenant_id=tenant_id, first_token__in=first_tokens).order_by("first_token")
    ids = list(events.values_list("event_id", flat=True))
    assert IngestPayload.objects.filter(event_id__in=ids).update(payload=payload) == len(first_tokens)
    return ids


@pytest.mark.parametrize("poisoned", [[1], [16], [7], [7, 8], [1, 9, 16]])
def test_only_the_envelopes_that_cannot_be_written_are_set_aside(lake: Lake, poisoned: list[int]) -> None:
    tenant_id = make_tenant()
    table_id = make_table(tenant_id=tenant_id).table_id
    for n in range(1, 17):
        write_ids(tenant_id, f"r{n}")
    ids = corrupt(tenant_id, *poisoned)
    drain(lake, tenant_id)
    assert lake.tokens(tenant_id) == [(f"r{n}", n) for n in range(1, 17) if n not in poisoned]
    failed = IngestEvent.objects.filter(tenant_id=tenant_id, state="failed").order_by("first_token")
    assert list(failed.values_list("event_id", "attempts")) == [(event_id, CLAIM.max_attempts) for event_id in ids]
    assert [attempt for attempt in attempts(tenant_id) if attempt] == [CLAIM.max_attempts] * len(ids)
    assert all(event.error and event.error["reason"] for event in failed)
    assert visible_tokens(tenant_ids=[tenant_id]) == {tenant_id: 16}, "the watermark goes on past a failure"
    assert first_failure(tenant_id=tenant_id, token=16, table_ids=[table_id]) == ids[0]
    named = IncidentAudit.objects.filter(tenant_id=tenant_id, kind="ingest_event_failed").order_by("id")
    assert [incident.context["event_id"] for incident in named] == ids
    assert not objects_too_many(lake, tenant_id)


def objects_too_many(lake: Lake, tenant_id: str) -> set[str]:
    """Objects that no row names: failed attempts may leave none, because what fails here fails before the put."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT path FROM data_file WHERE tenant_id = %s", [tenant_id])
        named = {row[0] for row in cursor.fetchall()}
    return {info.key for info in lake.store.list("")} - named


def test_failed_write_is_passed_at_the_end_of_the_tenants_log(lake: Lake) -> None:
    tenant_id = make_tenant()
    make_table(tenant_id=tenant_id)
    write_ids(tenant_id, "only")
    corrupt(tenant_id, 1)
    drain(lake, tenant_id)
    assert visible_tokens(tenant_ids=[tenant_id]) == {tenant_id: 1}
    write_ids(tenant_id, "next")
    drain(lake, tenant_id)
    assert lake.tokens(tenant_id) == [("next", 2)]


def test_envelope_whose_workers_die_one_after_the_other_is_set_aside(lake: Lake) -> None:
    tenant_id = make_tenant()
    make_table(tenant_id=tenant_id)
    write_ids(tenant_id, "deadly")
    write_ids(tenant_id, "good")
    for _ in range(CLAIM.max_attempts):
        assert bus.claim(tenant_id=tenant_id, consumer_id="dies", policy=CLAIM)
        run_out(tenant_id)
        bus.requeue_expired()
    for _ in range(CLAIM.max_attempts + 1):
        if bus.claim(tenant_id=tenant_id, consumer_id="dies", policy=CLAIM):
            run_out(tenant_id)
            bus.requeue_expired()
    drain(lake, tenant_id)
    assert list(IngestEvent.objects.order_by("first_token").values_list("state", flat=True)) == ["failed", "committed"]
    assert lake.rows(tenant_id) == {"good": 1}


def test_store_that_is_away_is_nobodys_attempt(lake: Lake, tenant_id: str) -> None:
    root = lake.root / "objects"
    root.write_bytes(b"")  # a file where the directory will be: the store cannot be used
    for _ in range(CLAIM.max_attempts * 3):
        assert lake.materialize(tenant_id) == 0
    assert attempts(tenant_id) == [0, 0, 0]
    assert not IngestClaimBatch.objects.filter(tenant_id=tenant_id, state="claimed").exists(), "the claim is free"
    root.unlink()
    assert lake.materialize(tenant_id) == 1
    assert lake.rows(tenant_id) == ROWS


class Locked(LocalStore):
    """A store that refuses our credentials, as S3 does when a key was rotated."""

    def put_file(self, key: str, path: Path) -> ObjectInfo:
        raise StoreDenied("The store refused our credentials", key=key, file=path.name)


def test_store_that_refuses_our_credentials_is_nobodys_attempt(lake: Lake, tenant_id: str) -> None:
    for _ in range(CLAIM.max_attempts * 3):
        assert lake.materialize(tenant_id, store=Locked(root=lake.root / "objects")) == 0
    assert attempts(tenant_id) == [0, 0, 0]
    assert lake.materialize(tenant_id) == 1
    assert lake.rows(tenant_id) == ROWS


def test_scratch_directory_that_cannot_be_used_is_nobodys_attempt(lake: Lake, tenant_id: str) -> None:
    scratch = lake.root / "scratch"
    scratch.write_bytes(b"")
    for _ in range(CLAIM.max_attempts * 3):
        assert lake.materialize(tenant_id) == 0
    assert attempts(tenant_id) == [0, 0, 0]
    scratch.unlink()
    assert lake.materialize(tenant_id) == 1


def test_database_session_lost_in_the_last_transaction_is_nobodys_attempt(lake: Lake, tenant_id: str) -> None:
    with transaction.atomic():
        lock_head(tenant_id=tenant_id)
        task = Background(partial(lake.materialize, tenant_id))
        wait_until_blocked(1)
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
                " WHERE datname = current_database() AND wait_event_type = 'Lock'"
            )
        assert task.result() == 0
    assert attempts(tenant_id) == [0, 0, 0]
    drain(lake, tenant_id)
    assert lake.rows(tenant_id) == ROWS


class Slow(LocalStore):
    """A store whose every put takes longer than a lease."""

    def put_file(self, key: str, path: Path) -> ObjectInfo:
        time.sleep(1.5)
        return super().put_file(key, path)


def test_slow_store_costs_neither_the_lease_nor_an_attempt(lake: Lake, tenant_id: str) -> None:
    store, lease = Slow(root=lake.root / "objects"), timedelta(milliseconds=700)
    task = Background(partial(lake.materialize, tenant_id, store=store, lease=lease))
    deadline = time.monotonic() + 10
    live = IngestClaimBatch.objects.filter(tenant_id=tenant_id, state="claimed")
    while not live.exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    while not task.done:
        assert lake.materialize(tenant_id) == 0, "nobody takes over from a worker that is alive"
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert task.result() == 1
    assert IngestClaimBatch.objects.filter(tenant_id=tenant_id).count() == 1
    assert attempts(tenant_id) == [0, 0, 0]
    assert lake.rows(tenant_id) == ROWS


def test_attempt_lasts_no_longer_than_its_limit(lake: Lake, tenant_id: str) -> None:
    store = Slow(root=lake.root / "objects")
    lease, limit = timedelta(milliseconds=300), timedelta(milliseconds=500)
    lake.materialize(tenant_id, store=store, lease=lease, attempt_limit=limit, seconds=0.1)
    assert resolve(tenant_id=tenant_id).visible_token == 0
    drain(lake, tenant_id)
    assert lake.rows(tenant_id) == ROWS


class Overtaken(LocalStore):
    """A store so slow that the lease runs out during the put and something happens meanwhile."""

    def __init__(self, root: Path, tenant_id: str, meanwhile: Callable[[], object]) -> None:
        super().__init__(root=root)
        self._tenant_id = tenant_id
        self._meanwhile = [meanwhile]

    def put_file(self, key: str, path: Path) -> ObjectInfo:
        info = super().put_file(key, path)
        while self._meanwhile:
            run_out(self._tenant_id)
            Background(self._meanwhile.pop()).result()
        return info


def test_slow_worker_that_was_overtaken_doubles_nothing(lake: Lake, tenant_id: str) -> None:
    store = Overtaken(lake.root / "objects", tenant_id, partial(drain, lake, tenant_id))
    lake.materialize(tenant_id, store=store)
    assert lake.rows(tenant_id) == ROWS
    assert resolve(tenant_id=tenant_id).visible_token == 4


def test_slow_worker_notices_between_two_files(lake: Lake, tenant_id: str) -> None:
    make_table(tenant_id=tenant_id, name="other")
    write_ids(tenant_id, "x", table="other")
    store = Overtaken(lake.root / "objects", tenant_id, partial(drain, lake, tenant_id))
    lake.materialize(tenant_id, store=store)
    assert lake.rows(tenant_id) == ROWS
    assert lake.rows(tenant_id, "other") == {"x": 1}


def test_failure_that_is_found_after_the_lease_ran_out_stops_nobody(lake: Lake) -> None:
    tenant_id = make_tenant()
    make_table(tenant_id=tenant_id)
    write_ids(tenant_id, "poison")
    corrupt(tenant_id, 1)
    assert lake.materialize(tenant_id, lease=timedelta(0)) == 0
    write_ids(tenant_id, "good")
    drain(lake, tenant_id)
    assert lake.rows(tenant_id) == {"good": 1}
    assert visible_tokens(tenant_ids=[tenant_id]) == {tenant_id: 2}
