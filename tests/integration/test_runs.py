"""A run's states: what can become of it, who can say so, and who cannot any more."""

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import timedelta

import pytest
from django.db import OperationalError, connection

from duckmesh.kernel.errors import JSON, Unavailable
from maintenance.errors import IntegrityCheckFailed, RunEnded, RunLost, RunPaused, TooManyRuns
from maintenance.executing import Executor
from maintenance.job import Progress, Scope
from maintenance.models import CompactionRun, Run
from maintenance.runs import (
    MOST_ATTEMPTS,
    MOST_STEPS,
    ClaimedRun,
    Kind,
    cancel_run,
    claim_run,
    extend_lease,
    finish_run,
    give_back,
    request_run,
    save_cursor,
    tell_phase,
    tell_step,
)
from tests.factories import make_table, make_tenant
from tests.runs import LEASE, Gate, TestOptions, ask, claimed, let_lease_run_out, row, run_here
from tests.together import Background, together

pytestmark = pytest.mark.django_db(transaction=True)


def test_a_run_tells_its_way_from_request_to_end() -> None:
    run_id = ask(make_tenant())
    assert (row(run_id).state, row(run_id).started_at, row(run_id).progress) == ("queued", None, 0)

    def work(progress: Progress) -> Mapping[str, JSON]:
        assert progress.cursor == {}
        progress.at("reading", 0.25)
        progress.step("read", files=3)
        progress.save({"file": 3})
        assert progress.cursor == {"file": 3}
        found = row(run_id)
        assert (found.state, found.phase, found.progress, found.cursor) == ("running", "reading", 0.25, {"file": 3})
        return {"files": 3}

    ended = run_here(run_id, work)
    assert ended is not None
    assert (ended.state, ended.summary) == (Run.State.SUCCEEDED, {"files": 3})
    found = row(run_id)
    assert (found.state, found.progress, found.summary, found.epoch) == ("succeeded", 1, {"files": 3}, 1)
    assert found.lease_until is None
    assert found.requested_at <= (found.started_at or found.requested_at) <= (found.ended_at or found.requested_at)
    (step,) = found.steps
    assert (step["name"], step["files"]) == ("read", 3)


def test_five_deliveries_at_once_compute_a_run_once() -> None:
    run_id, begun = ask(make_tenant()), []

    def work(_progress: Progress) -> Mapping[str, JSON]:
        begun.append(1)
        time.sleep(0.2)
        return {}

    ended = together([lambda: run_here(run_id, work) for _ in range(5)])
    assert (len(begun), sum(each is not None for each in ended)) == (1, 1)
    assert run_here(run_id, work) is None
    assert row(run_id).epoch == 1


def test_one_run_of_a_scope_runs_at_a_time_and_others_wait_their_turn() -> None:
    tenant_id = make_tenant()
    first, second = ask(tenant_id), ask(tenant_id)
    beside = ask(tenant_id, table_id=make_table(tenant_id=tenant_id).table_id)
    everything = ask(), ask()
    run = claimed(first)
    assert claim_run(kind=Kind.COMPACTION, run_id=second, lease=LEASE).run is None
    assert claimed(beside).epoch == 1
    assert claimed(everything[0]).epoch == 1
    assert claim_run(kind=Kind.COMPACTION, run_id=everything[1], lease=LEASE).run is None
    assert row(second).state == "queued"
    finish_run(run, state=Run.State.SUCCEEDED, summary={})
    assert claimed(second).epoch == 1


def test_two_claims_of_one_scope_at_once_give_it_to_one() -> None:
    tenant_id = make_tenant()
    runs = [ask(tenant_id) for _ in range(4)]
    found = together([lambda id_=id_: claim_run(kind=Kind.COMPACTION, run_id=id_, lease=LEASE).run for id_ in runs])
    assert sum(run is not None for run in found) == 1


def test_a_lost_workers_run_is_taken_over_once_and_goes_on_from_its_cursor() -> None:
    run_id = ask(make_tenant())
    lost = claimed(run_id)
    save_cursor(lost, cursor={"file": 7})
    assert run_here(run_id) is None, "its lease has not run out"
    let_lease_run_out(run_id)
    cursors: list[Mapping[str, JSON]] = []

    def work(progress: Progress) -> Mapping[str, JSON]:
        cursors.append(progress.cursor)
        time.sleep(0.2)
        return {}

    together([lambda: run_here(run_id, work) for _ in range(3)])
    assert cursors == [{"file": 7}]
    assert (row(run_id).state, row(run_id).epoch) == ("succeeded", 2)


SAYINGS: list[Callable[[ClaimedRun], object]] = [
    lambda run: extend_lease(run, lease=LEASE),
    lambda run: tell_phase(run, phase="late", done=1),
    lambda run: tell_step(run, name="late", facts={}),
    lambda run: save_cursor(run, cursor={"late": 1}),
    lambda run: finish_run(run, state=Run.State.SUCCEEDED, summary={"late": 1}),
    give_back,
]


def test_a_zombie_can_say_nothing_about_a_run_that_was_taken_over() -> None:
    run_id = ask(make_tenant())
    zombie = claimed(run_id)
    let_lease_run_out(run_id)
    heir = claimed(run_id)
    tell_phase(heir, phase="mine", done=0.5)
    before = vars(row(run_id)) | {"_state": None}
    for say in SAYINGS:
        with pytest.raises(RunLost):
            say(zombie)
        assert vars(row(run_id)) | {"_state": None} == before
    finish_run(heir, state=Run.State.SUCCEEDED, summary={})
    for say in SAYINGS:
        for run in (zombie, heir):
            with pytest.raises(RunLost):
                say(run)


def test_a_job_whose_lease_was_taken_hears_of_it_at_its_next_word() -> None:
    run_id, gate = ask(make_tenant()), Gate()
    words = []

    def work(progress: Progress) -> Mapping[str, JSON]:
        gate.wait()
        progress.at("late", 0.9)
        words.append("late")
        return {}

    zombie = Background(lambda: run_here(run_id, work))
    assert gate.reached.wait(10)
    let_lease_run_out(run_id)
    heir = claimed(run_id)
    gate.opened.set()
    assert zombie.result() is None
    assert words == []
    assert (row(run_id).state, row(run_id).epoch) == ("running", heir.epoch)


def test_the_heartbeat_keeps_a_lease_that_is_shorter_than_the_work() -> None:
    run_id, lease = ask(make_tenant()), timedelta(seconds=0.6)

    def work(_progress: Progress) -> Mapping[str, JSON]:
        for _ in range(8):
            time.sleep(0.2)
            assert claim_run(kind=Kind.COMPACTION, run_id=run_id, lease=LEASE).run is None
        return {}

    ended = run_here(run_id, work, executor=Executor(lease=lease))
    assert ended is not None
    assert (ended.state, row(run_id).epoch) == (Run.State.SUCCEEDED, 1)


def test_the_heartbeat_notices_that_the_lease_is_anothers() -> None:
    run_id, gate, lost = ask(make_tenant()), Gate(), []

    def work(progress: Progress) -> Mapping[str, JSON]:
        gate.wait()
        deadline = time.monotonic() + 10
        while not progress.stopped.is_set() and time.monotonic() < deadline:  # type: ignore[attr-defined]
            time.sleep(0.02)
        lost.append(progress.stopped.is_set())  # type: ignore[attr-defined]
        return {}

    zombie = Background(lambda: run_here(run_id, work, executor=Executor(lease=timedelta(seconds=0.6))))
    assert gate.reached.wait(10)
    CompactionRun.objects.filter(run_id=run_id).update(epoch=9)
    gate.opened.set()
    assert zombie.result() is None
    assert lost == [True]
    assert row(run_id).summary == {}


def test_a_queued_run_is_cancelled_at_once() -> None:
    run_id = ask(make_tenant())
    assert cancel_run(kind=Kind.COMPACTION, run_id=run_id, actor="key:a") == Run.State.CANCELLED
    found = row(run_id)
    assert (found.state, found.error_code) == ("cancelled", "RUN_CANCELLED")
    assert [step["by"] for step in found.steps] == ["key:a"]
    assert run_here(run_id) is None


def test_a_running_run_is_cancelled_at_its_next_word_and_keeps_what_it_did() -> None:
    run_id, gate = ask(make_tenant()), Gate()
    words = []

    def work(progress: Progress) -> Mapping[str, JSON]:
        progress.step("one")
        gate.wait()
        progress.save({"at": 1})
        progress.step("two")
        words.append("late")
        return {}

    running = Background(lambda: run_here(run_id, work))
    assert gate.reached.wait(10)
    assert cancel_run(kind=Kind.COMPACTION, run_id=run_id, actor="test") == Run.State.RUNNING
    assert row(run_id).ended_at is None
    gate.opened.set()
    running.result()
    assert words == []
    found = row(run_id)
    assert (found.state, found.error_code, found.cursor) == ("cancelled", "RUN_CANCELLED", {"at": 1})
    assert [step["name"] for step in found.steps] == ["one", "cancel_requested", "two"]


def test_a_run_whose_worker_is_lost_is_cancelled_at_once_and_fences_it() -> None:
    run_id = ask(make_tenant())
    zombie = claimed(run_id)
    let_lease_run_out(run_id)
    assert cancel_run(kind=Kind.COMPACTION, run_id=run_id, actor="test") == Run.State.CANCELLED
    with pytest.raises(RunLost):
        finish_run(zombie, state=Run.State.SUCCEEDED, summary={})
    assert row(run_id).state == "cancelled"


def test_a_run_that_was_cancelled_before_its_worker_died_is_not_begun_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    run_id = ask(make_tenant())
    claimed(run_id)
    cancel_run(kind=Kind.COMPACTION, run_id=run_id, actor="test")
    let_lease_run_out(run_id)
    ended = run_here(run_id)
    assert ended is not None
    assert (ended.state, row(run_id).state) == (Run.State.CANCELLED, "cancelled")
    assert "RUN_CANCELLED" in caplog.text
    assert "RUN_WORKER_LOST" not in caplog.text


def test_a_run_that_has_ended_cannot_be_cancelled() -> None:
    for work in (lambda _progress: {}, _fail):
        run_id = ask(make_tenant())
        run_here(run_id, work)
        before = row(run_id).state
        with pytest.raises(RunEnded):
            cancel_run(kind=Kind.COMPACTION, run_id=run_id, actor="test")
        assert row(run_id).state == before


def _fail(_progress: Progress) -> Mapping[str, JSON]:
    raise Unavailable("The store is away.")


def test_an_error_of_ours_fails_the_run_with_its_code() -> None:
    run_id = ask(make_tenant())
    run_here(run_id, _fail)
    found = row(run_id)
    assert (found.state, found.error_code, found.error) == ("failed", "DEPENDENCY_UNAVAILABLE", "The store is away.")


def test_problems_that_were_found_fail_the_run_and_keep_its_summary() -> None:
    run_id = ask(make_tenant())

    def work(_progress: Progress) -> Mapping[str, JSON]:
        raise IntegrityCheckFailed("1 file is missing.", summary={"missing_files": 1})

    run_here(run_id, work)
    found = row(run_id)
    assert (found.state, found.error_code, found.summary) == ("failed", "INTEGRITY_CHECK_FAILED", {"missing_files": 1})


def test_what_nobody_foresaw_fails_the_run_and_tells_nothing(caplog: pytest.LogCaptureFixture) -> None:
    run_id = ask(make_tenant())

    def work(_progress: Progress) -> Mapping[str, JSON]:
        raise RuntimeError("/srv/" + "secret")

    run_here(run_id, work)
    found = row(run_id)
    assert (found.state, found.error_code) == ("failed", "INTERNAL")
    assert "secret" not in found.error
    assert "RuntimeError" in caplog.text
    assert "/srv/secret" not in caplog.text


def test_a_run_is_given_back_when_its_process_must_stop_and_goes_on_from_its_cursor() -> None:
    run_id, seen = ask(make_tenant()), []

    def work(progress: Progress) -> Mapping[str, JSON]:
        seen.append(progress.cursor.get("slice", 0))
        for number in range(int(str(progress.cursor.get("slice", 0))), 3):
            progress.save({"slice": number + 1})
            progress.at("slicing", (number + 1) / 3)
        return {"slices": 3}

    short = Executor(lease=LEASE, seconds=-1)
    assert run_here(run_id, work, executor=short) is None
    assert (row(run_id).state, row(run_id).lease_until) == ("queued", None)
    assert run_here(run_id, work, executor=short) is None
    ended = run_here(run_id, work)
    assert ended is not None
    assert (ended.state, seen) == (Run.State.SUCCEEDED, [0, 1, 2])


@pytest.mark.parametrize("error", [OperationalError("server closed the connection"), RunPaused("No more time.")])
def test_a_run_that_comes_no_further_is_given_up_after_so_many_attempts(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    run_id = ask(make_tenant())

    def work(progress: Progress) -> Mapping[str, JSON]:
        progress.at("reading", 0.0)
        progress.step("read")
        raise error

    for attempt in range(MOST_ATTEMPTS):
        assert run_here(run_id, work) is None
        assert (row(run_id).state, row(run_id).attempts) == ("queued", attempt + 1)
    ended = run_here(run_id, work)
    assert ended is not None
    found = row(run_id)
    assert (found.state, found.error_code, found.epoch) == ("failed", "RUN_WORKER_LOST", MOST_ATTEMPTS + 1)
    assert "lost" in found.error
    assert "RUN_WORKER_LOST" in caplog.text


def test_a_run_that_comes_further_each_time_is_never_given_up() -> None:
    run_id = ask(make_tenant())
    for number in range(2 * MOST_ATTEMPTS):
        run = claimed(run_id)
        if number % 2:
            save_cursor(run, cursor={"n": number})
        else:
            tell_phase(run, phase="reading", done=number / 100)
        let_lease_run_out(run_id)
    assert row(run_id).epoch == 2 * MOST_ATTEMPTS


def test_progress_never_goes_back_and_steps_are_bounded() -> None:
    run = claimed(ask(make_tenant()))
    for done in (0.5, 0.2, 7.0):
        tell_phase(run, phase="x" * 100, done=done)
        assert row(run.run_id).progress == (1 if done > 1 else 0.5)
    CompactionRun.objects.filter(run_id=run.run_id).update(steps=[{"name": str(n)} for n in range(MOST_STEPS)])
    tell_step(run, name="newest", facts={"sql": "100% 'quoted'"})
    steps = row(run.run_id).steps
    assert (len(steps), steps[0]["name"], steps[-1]["sql"]) == (MOST_STEPS, "1", "100% 'quoted'")


def test_a_tenant_has_so_many_runs_in_line_and_no_more() -> None:
    tenant_id, other = make_tenant(), make_tenant()

    def asked(owner: str = tenant_id) -> object:
        try:
            scope = Scope(tenant_id=owner)
            options = TestOptions()
            return request_run(kind=Kind.INTEGRITY, scope=scope, options=options, requested_by="test", most_queued=3)
        except TooManyRuns:
            return None

    assert sum(each is not None for each in together([asked] * 8)) == 3
    assert asked(other) is not None


def test_an_interrupt_gives_the_run_back() -> None:
    run_id = ask(make_tenant())

    def work(_progress: Progress) -> Mapping[str, JSON]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_here(run_id, work)
    assert row(run_id).state == "queued"


def test_a_claim_holds_no_transaction_while_the_job_computes() -> None:
    run_id = ask(make_tenant())

    def work(progress: Progress) -> Mapping[str, JSON]:
        progress.at("computing", 0.5)
        assert not connection.in_atomic_block
        return {}

    assert run_here(run_id, work, executor=replace(Executor(lease=LEASE), seconds=60)) is not None
