"""What the Celery application promises to the tasks."""

import pytest
from celery.exceptions import SoftTimeLimitExceeded

from duckmesh.celery import app
from maintenance.executing import Executor
from maintenance.job import Progress
from maintenance.models import Run
from tests.factories import make_tenant
from tests.runs import LEASE, ask, row, run_here

app.loader.import_default_modules()

OURS = {name: task for name, task in app.tasks.items() if not name.startswith("celery.")}


def test_no_task_may_take_longer_than_the_broker_waits_for_its_end() -> None:
    patience = app.conf.broker_transport_options["visibility_timeout"]
    for name, task in OURS.items():
        hard = task.time_limit or app.conf.task_time_limit
        soft = task.soft_time_limit or app.conf.task_soft_time_limit
        assert soft < hard < patience, name


def test_each_task_has_a_queue_that_a_worker_takes_from_and_the_tick_waits_behind_no_run() -> None:
    queues = {name: app.amqp.router.route({}, name)["queue"].name for name in OURS}
    assert set(queues.values()) == {"materialize", "maintenance", "drill"}
    assert queues["maintenance.tasks.tick"] == "materialize"
    assert queues["maintenance.tasks.restore_drill"] == "drill"
    assert {queues[f"maintenance.tasks.{kind}"] for kind in ("compaction", "retention", "integrity")} == {"maintenance"}


@pytest.mark.django_db(transaction=True)
def test_a_run_whose_tasks_time_is_up_is_given_back() -> None:
    run_id = ask(make_tenant())

    def work(progress: Progress) -> dict[str, str | int | float | bool | None]:
        progress.save({"at": 3})
        raise SoftTimeLimitExceeded

    executor = Executor(lease=LEASE, out_of_time=(SoftTimeLimitExceeded,))
    assert run_here(run_id, work, executor=executor) is None
    assert (row(run_id).state, row(run_id).cursor) == (Run.State.QUEUED, {"at": 3})
