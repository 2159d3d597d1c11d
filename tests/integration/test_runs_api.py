"""Runs over HTTP: asked for, waited for, listed, shown, cancelled, and nobody else's business."""

import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
from django.conf import settings
from django.db import OperationalError, connection
from django.test import Client

from api.process import held, release
from api.run_line import RunLine
from api.running import failure_of
from catalog.tables import drop_table
from duckmesh.devstack.programs import free_port
from duckmesh.kernel.errors import JSON, Corrupt
from maintenance import tasks
from maintenance.errors import IntegrityCheckFailed
from maintenance.history import ended_runs, find_run
from maintenance.job import Kind, Progress
from maintenance.models import CompactionRun, IntegrityFinding
from maintenance.runs import Poke
from maintenance.schedule import waiting_runs
from query.barrier import Barrier
from query.errors import TooManyWaiters
from storage.errors import ObjectNotFound, StoreDenied
from tests.factories import make_table, make_tenant
from tests.http import bearer, make_key, problem_of
from tests.runs import Work, ask, claimed, nothing, row, run_here
from tests.together import Background, together

pytestmark = pytest.mark.django_db(transaction=True)

PATH = "/v1/compaction/run"


@pytest.fixture(autouse=True)
def _serving() -> Iterator[None]:
    try:
        yield
    finally:
        release()


@pytest.fixture
def tenant_id() -> str:
    return make_tenant()


@pytest.fixture
def key(tenant_id: str) -> dict[str, str]:
    return bearer(make_key(tenant_id, "ops_admin"))


@contextmanager
def worker(work: Work = nothing) -> Iterator[None]:
    """Whatever is asked for is computed, by a job that does this."""
    stop = threading.Event()

    def loop() -> None:
        while not stop.wait(0.02):
            for poke in waiting_runs():
                run_here(poke.run_id, work, kind=poke.kind)

    running = Background(loop)
    try:
        yield
    finally:
        stop.set()
        running.result()


def post(key: Mapping[str, str], body: Mapping[str, Any], path: str = PATH) -> Any:
    return Client().post(path, body, content_type="application/json", headers=dict(key))


def test_a_run_that_ends_in_time_answers_its_summary(key: dict[str, str], tenant_id: str) -> None:
    make_table(tenant_id=tenant_id, name="events")
    with worker():
        response = post(key, {"table": "Events", "wait_seconds": 20, "reason": "because", "dry_run": True})
    assert response.status_code == 200, response.content
    answer = response.json()
    assert (answer["status"], answer["summary"]) == ("completed", {"done": True})
    shown = Client().get(f"/v1/runs/{answer['run_id']}", headers=key).json()
    asked = {name: shown[name] for name in ("kind", "state", "table_name", "reason", "progress", "tenant_id")}
    assert asked == {
        "kind": "compaction",
        "state": "succeeded",
        "table_name": "events",
        "reason": "because",
        "progress": 1,
        "tenant_id": tenant_id,
    }
    assert shown["requested_by"].startswith("key:")
    assert shown["options"]["dry_run"] is True
    assert (shown["findings"], shown["next_cursor"], shown["error_code"]) == ([], None, None)


def test_nobody_waits_with_wait_seconds_0_and_not_longer_than_asked(key: dict[str, str]) -> None:
    for seconds, least, most in ((0, 0.0, 5.0), (0.4, 0.4, 10.0)):
        began = time.monotonic()
        response = post(key, {"wait_seconds": seconds})
        assert least <= time.monotonic() - began < most
        assert response.status_code == 202, response.content
        run_id = response.json()["run_id"]
        assert response.json() == {"status": "running", "run_id": run_id}
        assert response["Location"] == f"/v1/runs/{run_id}"
        assert Client().get(response["Location"], headers=key).json()["state"] == "queued"


def test_a_request_that_says_nothing_asks_for_the_defaults(key: dict[str, str]) -> None:
    with worker():
        response = Client().generic("POST", PATH, b"", content_type="", headers=key)
    assert response.status_code == 200, response.content
    assert response.json()["summary"] == {"done": True}


def test_a_failed_run_answers_with_its_own_error(key: dict[str, str]) -> None:
    def work(_progress: Progress) -> Mapping[str, JSON]:
        raise Corrupt("Two rows say different things.")

    with worker(work):
        problem = problem_of(post(key, {"wait_seconds": 20}), 500, "CORRUPT")
    assert problem["detail"] == "Two rows say different things."
    assert find_run(run_id=uuid.UUID(problem["context"]["run_id"])).error_code == "CORRUPT"


def test_a_run_that_is_cancelled_while_somebody_waits_says_so(key: dict[str, str]) -> None:
    waiting = Background(lambda: post(key, {"wait_seconds": 20}))
    _until(CompactionRun.objects.exists)
    run_id = CompactionRun.objects.get().run_id
    response = Client().delete(f"/v1/runs/{run_id}", headers=key)
    assert (response.status_code, response.json()["state"]) == (202, "cancelled")
    problem: Any = waiting.result()
    assert problem_of(problem, 409, "RUN_CANCELLED")["context"]["run_id"] == str(run_id)


def test_problems_that_integrity_found_are_409_with_the_first_of_them(key: dict[str, str]) -> None:
    def work(progress: Progress) -> Mapping[str, JSON]:
        for number in range(30):
            IntegrityFinding.objects.create(
                run_id=progress.run_id,
                kind="missing_file",
                severity="error",
                object_key=f"t/part-{number}",
                subject=str(number),
            )
        raise IntegrityCheckFailed("30 files are missing.", summary={"missing_files": 30})

    with worker(work):
        problem = problem_of(post(key, {"wait_seconds": 20}, "/v1/integrity/run"), 409, "INTEGRITY_CHECK_FAILED")
    assert (problem["detail"], problem["context"]["summary"]) == ("30 files are missing.", {"missing_files": 30})
    first = problem["context"]["findings"]
    assert [finding["object_key"] for finding in first] == [f"t/part-{number}" for number in range(20)]
    run_id = problem["context"]["run_id"]
    seen, cursor = [], ""
    while cursor is not None:
        page = Client().get(f"/v1/runs/{run_id}", {"limit": 12, "cursor": cursor}, headers=key).json()
        assert page["summary"] == {"missing_files": 30}
        seen += [finding["object_key"] for finding in page["findings"]]
        cursor = page["next_cursor"]
    assert seen == [f"t/part-{number}" for number in range(30)]


def test_what_a_run_met_among_our_own_objects_is_not_the_callers_business() -> None:
    for error in (ObjectNotFound("t/part-1 is not there."), StoreDenied("No."), RuntimeError("/srv")):
        run_id = ask(make_tenant())

        def work(_progress: Progress, error: Exception = error) -> Mapping[str, JSON]:
            raise error

        run_here(run_id, work)
        told = failure_of(find_run(run_id=run_id))
        assert told.code == "INTERNAL"
        assert str(error) not in told.message


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"nonsense": 1, "wait_seconds": 0}, "nonsense"),
    ({"dry_run": "yes"}, "dry_run"),
    ({"full": 1}, "full"),
    ({"wait_seconds": -1}, "wait_seconds"),
    ({"wait_seconds": 301}, "wait_seconds"),
    ({"wait_seconds": True}, "wait_seconds"),
    ({"wait_seconds": "1"}, "wait_seconds"),
    ({"table": 1}, "table"),
    ({"reason": "x" * 201}, "reason"),
]


def test_what_cannot_be_asked_is_refused_by_name(key: dict[str, str]) -> None:
    for body, words in REFUSED:
        assert words in problem_of(post(key, body), 400, "INVALID_REQUEST")["detail"], body
    assert not CompactionRun.objects.exists()


def test_a_table_that_is_not_the_tenants_does_not_exist(tenant_id: str, key: dict[str, str]) -> None:
    make_table(tenant_id=make_tenant(), name="theirs")
    make_table(tenant_id=tenant_id, name="gone")
    drop_table(tenant_id=tenant_id, name="gone", actor="test")
    answers = []
    for name in ("theirs", "gone", "never"):
        problem = problem_of(post(key, {"table": name}), 404, "TABLE_NOT_FOUND")
        answers.append(str(problem["detail"]).replace(name, "N"))
    assert len(set(answers)) == 1


def test_a_tenant_sees_its_own_runs_alone(tenant_id: str, key: dict[str, str]) -> None:
    other, everything = ask(make_tenant()), ask()
    mine = ask(tenant_id)
    listed = Client().get("/v1/runs", headers=key).json()
    assert (listed["tenant_id"], [run["run_id"] for run in listed["runs"]]) == (tenant_id, [str(mine)])
    for run_id in (other, everything, uuid.uuid4(), "nonsense", "%00"):
        problem_of(Client().get(f"/v1/runs/{run_id}", headers=key), 404, "RUN_NOT_FOUND")
        problem_of(Client().delete(f"/v1/runs/{run_id}", headers=key), 404, "RUN_NOT_FOUND")
    assert (row(other).state, row(everything).state) == ("queued", "queued")


def test_runs_are_listed_newest_first_in_pages_and_by_kind_and_state(tenant_id: str, key: dict[str, str]) -> None:
    made = [ask(tenant_id, kind=kind) for _ in range(3) for kind in (Kind.COMPACTION, Kind.INTEGRITY)]
    run_here(made[0], lambda _progress: {"files": 3, "objects": ["x"] * 1_000})
    seen: list[str] = []
    cursor: str | None = ""
    while cursor is not None:
        page = Client().get("/v1/runs", {"limit": 4, "cursor": cursor}, headers=key).json()
        seen += [run["run_id"] for run in page["runs"]]
        cursor = page["next_cursor"]
    assert seen == [str(run_id) for run_id in reversed(made)]
    (done,) = Client().get("/v1/runs", {"state": "succeeded"}, headers=key).json()["runs"]
    assert (done["run_id"], done["summary"]) == (str(made[0]), {"files": 3})
    checks = Client().get("/v1/runs", {"kind": "integrity"}, headers=key).json()["runs"]
    assert {run["kind"] for run in checks} == {"integrity"}
    assert len(checks) == 3
    for query in ({"kind": "x"}, {"state": "x"}, {"cursor": "eHl6"}, {"cursor": "*"}, {"limit": "0"}):
        problem_of(Client().get("/v1/runs", query, headers=key), 400, "INVALID_REQUEST")
    problem_of(Client().get(f"/v1/runs/{made[0]}", {"cursor": "eHl6"}, headers=key), 400, "INVALID_REQUEST")


def test_cancelling_is_heard_and_asked_twice_is_asked_once(tenant_id: str, key: dict[str, str]) -> None:
    run_id = ask(tenant_id)
    claimed(run_id)
    response = Client().delete(f"/v1/runs/{run_id}", headers=key)
    assert (response.status_code, response.json()["state"]) == (202, "running")
    assert response.json()["cancel_requested"] is True
    queued = ask(make_tenant())
    assert row(queued).state == "queued"
    ended = ask(tenant_id, kind=Kind.INTEGRITY)
    run_here(ended, kind=Kind.INTEGRITY)
    problem_of(Client().delete(f"/v1/runs/{ended}", headers=key), 409, "RUN_ENDED")
    waiting = ask(tenant_id, kind=Kind.INTEGRITY)
    for _ in range(2):
        response = Client().delete(f"/v1/runs/{waiting}", headers=key)
        assert (response.status_code, response.json()["state"]) == (202, "cancelled")


def test_so_many_runs_of_a_tenant_wait_and_no_more(tenant_id: str, key: dict[str, str]) -> None:
    for _ in range(settings.DUCKMESH.max_queued_runs):
        ask(tenant_id)
    response = post(key, {"wait_seconds": 0})
    problem_of(response, 429, "BACKPRESSURE")
    assert post(key, {"wait_seconds": 0}, path="/v1/retention/run").status_code == 202


def test_a_waiting_request_holds_a_place_and_no_transaction(key: dict[str, str]) -> None:
    barrier = held().query.barrier
    with ExitStack() as others:
        for _ in range(settings.DUCKMESH.max_waiters - 1):
            others.enter_context(barrier.place())
        waiting = Background(lambda: post(key, {"wait_seconds": 20}))
        _until(lambda: not _has_place(barrier))
        with connection.cursor() as cursor:
            found: set[tuple[Any, ...]] = set()
            for _ in range(20):
                cursor.execute(
                    "SELECT xact_start IS NOT NULL AND state <> 'active' FROM pg_stat_activity"
                    " WHERE datname = current_database() AND pid <> pg_backend_pid()"
                    " AND backend_type = 'client backend'"
                )
                found |= set(cursor.fetchall())
                time.sleep(0.02)
        assert (True,) not in found
        with worker():
            response: Any = waiting.result()
        assert response.status_code == 200
        assert _has_place(barrier)


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _has_place(barrier: Barrier) -> bool:
    try:
        with barrier.place():
            return True
    except TooManyWaiters:
        return False


def test_when_as_many_wait_as_may_nobody_waits_and_the_run_is_asked_for(key: dict[str, str]) -> None:
    barrier, began = held().query.barrier, time.monotonic()
    with ExitStack() as others:
        for _ in range(settings.DUCKMESH.max_waiters):
            others.enter_context(barrier.place())
        response = post(key, {"wait_seconds": 60})
    assert (response.status_code, time.monotonic() - began < 30) == (202, True)


def test_many_wait_with_one_poller() -> None:
    reads, lock = [], threading.Lock()

    def read(run_ids: Any) -> set[uuid.UUID]:
        with lock:
            reads.append(threading.current_thread().name)
        return ended_runs(run_ids)

    line = RunLine(send=lambda _poke: None, place=held().query.barrier.place, read=read)
    runs = [ask(make_tenant()) for _ in range(12)]
    waiting = Background(lambda: together([lambda id_=id_: line.wait(id_, seconds=20) for id_ in runs]))
    time.sleep(0.3)
    for run_id in runs:
        run_here(run_id)
    assert waiting.result() == [True] * 12
    assert set(reads) == {"run-poller"}
    began = time.monotonic()
    assert not line.wait(ask(make_tenant()), seconds=0.2)
    assert time.monotonic() - began < 5
    line.close()


def test_a_database_that_is_away_for_a_moment_ends_no_wait() -> None:
    broken = [True, True]

    def read(run_ids: Any) -> set[uuid.UUID]:
        if broken:
            broken.pop()
            raise OperationalError("server closed the connection")
        return ended_runs(run_ids)

    line = RunLine(send=lambda _poke: None, place=held().query.barrier.place, read=read)
    run_id = ask(make_tenant())
    run_here(run_id)
    assert line.wait(run_id, seconds=20)
    line.close()
    assert not line.wait(run_id, seconds=20), "it is closed"


def test_with_redis_dead_a_run_is_asked_for_and_nobody_waits_for_redis(key: dict[str, str], settings: Any) -> None:
    address = f"redis://127.0.0.1:{free_port()}/0"
    settings.DUCKMESH = settings.DUCKMESH.model_copy(update={"redis_url": address})
    tasks._producer.cache_clear()
    try:
        began = time.monotonic()
        response = post(key, {"wait_seconds": 0})
        assert response.status_code == 202
        assert time.monotonic() - began < 5
        release()  # the attempt to send has failed when this returns
    finally:
        tasks._producer.cache_clear()
    run_id = uuid.UUID(response.json()["run_id"])
    assert [poke.run_id for poke in waiting_runs()] == [run_id], "the tick finds it"


def test_a_poke_goes_to_the_queue_of_its_kind_with_names_that_a_person_knows() -> None:
    sent = []
    line = RunLine(send=sent.append, place=held().query.barrier.place)
    poke = Poke(kind=Kind.COMPACTION, run_id=uuid.uuid4(), tenant_id="acme", table_name="flights")
    line.poke(poke)
    line.close()
    assert sent == [poke]
