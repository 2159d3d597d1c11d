"""A worker that is told to stop ends what it works on, or gives it back, within the grace.

Celery waits for the tasks of a worker that stops for as long as they take. Those that take too long are interrupted as
by the soft limit on their time, after which a run is queued again with its cursor and a claim is given back.
"""

import os
import signal
import threading
from contextlib import suppress
from typing import Any

import structlog
from celery import signals
from celery.worker import state
from django.conf import settings

log = structlog.get_logger(__name__)


# `Any`: Celery's arguments, none of which matters here.
@signals.worker_shutting_down.connect
def _be_patient(**_: Any) -> None:
    timer = threading.Timer(settings.DUCKMESH.stop_patience.total_seconds(), interrupt_tasks)
    timer.daemon = True
    timer.start()


def interrupt_tasks() -> None:
    """Every task of this worker has got the signal of the soft limit."""
    for request in list(state.active_requests):
        if request.worker_pid:
            log.info("task_interrupted", task=request.name)
            with suppress(ProcessLookupError):
                os.kill(request.worker_pid, signal.SIGUSR1)
