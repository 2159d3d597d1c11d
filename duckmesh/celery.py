"""The Celery application: queues, limits and beat. A task is a poke, not a record; PostgreSQL holds the truth."""

import os
import sys

from celery import Celery, signals
from django.conf import settings
from django.db import close_old_connections
from kombu import Queue

from duckmesh import exporting, stopping, tracing  # noqa: F401 - what they connect to Celery's signals is what for
from duckmesh.kernel.acting import act_for_all_by_default
from duckmesh.kernel.logs import Service

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "duckmesh.settings")

app = Celery("duckmesh")
_config = settings.DUCKMESH

HARD_LIMIT = 15 * 60
DRILL_LIMIT = 2 * 60 * 60  # a drill restores the whole catalog, and cannot go on where another left off
app.conf.update(
    broker_url=_config.redis_url,
    broker_connection_retry_on_startup=True,
    broker_transport_options={
        "visibility_timeout": DRILL_LIMIT + 60,  # above every hard limit, or a long task would run twice at once
        "socket_timeout": 10,
        "socket_connect_timeout": 5,
        "retry_on_timeout": True,
        "health_check_interval": 10,
    },
    task_ignore_result=True,
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    worker_prefetch_multiplier=1,
    worker_cancel_long_running_tasks_on_connection_loss=False,
    worker_hijack_root_logger=False,
    worker_send_task_events=True,
    task_send_sent_event=True,
    task_time_limit=HARD_LIMIT,
    task_soft_time_limit=HARD_LIMIT - 60,
    task_annotations={
        "maintenance.tasks.restore_drill": {"time_limit": DRILL_LIMIT, "soft_time_limit": DRILL_LIMIT - 60}
    },
    task_queues=[Queue("materialize"), Queue("maintenance"), Queue("drill")],
    task_default_queue="maintenance",
    task_routes={
        "ingest.tasks.keep_house": {"queue": "maintenance"},
        "ingest.tasks.*": {"queue": "materialize"},
        "maintenance.tasks.tick": {"queue": "materialize"},  # it must not wait behind what it is about
        "maintenance.tasks.restore_drill": {"queue": "drill"},
    },
    beat_schedule={
        # A sweep message that nobody took in time is worthless: it expires, by the clock of the worker's host. With a
        # time as short as the schedule, hosts whose clocks differ by a second would never sweep.
        "sweep": {"task": "ingest.tasks.sweep", "schedule": 1.0, "options": {"expires": 5.0}},
        "keep_house": {"task": "ingest.tasks.keep_house", "schedule": 60.0, "options": {"expires": 60.0}},
        "tick": {"task": "maintenance.tasks.tick", "schedule": 5.0, "options": {"expires": 10.0}},
        "keep_runs": {"task": "maintenance.tasks.keep_house", "schedule": 600.0, "options": {"expires": 600.0}},
        "keep_queries": {"task": "query.tasks.keep_house", "schedule": 60.0, "options": {"expires": 60.0}},
    },
    # Celery would open a connection to PostgreSQL for every task, and its handshake costs more than most tasks.
    CELERY_DB_REUSE_MAX=100_000,
)
app.autodiscover_tasks(["ingest", "maintenance", "query"])


@signals.setup_logging.connect
def _keep_our_logs(**_: object) -> None:
    """Celery finds that logs are set up, and leaves them alone: the settings have done it."""
    if "beat" in sys.argv:
        Service.name = "beat"


@signals.celeryd_init.connect
def _begin_worker(sender: str, **_: object) -> None:
    """Its tasks are everybody's, and the log says which worker speaks, by the name that it was started with."""
    act_for_all_by_default()
    Service.name = sender.partition("@")[0]


@signals.task_prerun.connect
def _forget_broken_connections(**_: object) -> None:
    """A task does not begin on a connection that broke under the one before."""
    close_old_connections()
