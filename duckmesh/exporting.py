"""What workers and beat tell of themselves: their metrics on a port, their tasks, and that they take from a queue."""

import time
from typing import Any

from celery import signals
from django.conf import settings
from prometheus_client import start_http_server

from duckmesh.kernel import metrics, queues

_BROKER_SECONDS = 0.5  # the worker's own loop waits for this
_began: dict[str, float] = {}
_announcers: list[queues.Announcer] = []


@signals.before_task_publish.connect
def _say_when(headers: dict[str, Any], **_: object) -> None:
    """Each message says when it was sent, so that the age of a queue can be seen."""
    headers[queues.SENT_AT] = time.time()


@signals.after_task_publish.connect
def _count_message(sender: str, **_: object) -> None:
    metrics.task_messages.labels(sender).inc()


@signals.task_prerun.connect
def _begin(task_id: str, **_: object) -> None:
    _began[task_id] = time.monotonic()


# `Any`: a Celery task.
@signals.task_postrun.connect
def _end(task_id: str, task: Any, state: str | None = None, **_: object) -> None:
    began = _began.pop(task_id, None)
    metrics.tasks.labels(task.name, "succeeded" if state == "SUCCESS" else "failed").inc()
    if began is not None:
        metrics.task_duration.labels(task.name).observe(time.monotonic() - began)


@signals.worker_ready.connect
@signals.beat_init.connect
def _show_metrics(**_: object) -> None:
    """The service's metrics are on its own port; those of a worker's processes come together in their directory."""
    config = settings.DUCKMESH
    if config.worker_metrics_port:
        start_http_server(
            config.worker_metrics_port, addr=config.worker_metrics_host, registry=metrics.service_registry()
        )


# `Any`: Celery's consumer.
@signals.worker_ready.connect
def _take_part(sender: Any, **_: object) -> None:
    """The worker is seen to take from its queues for as long as its loop turns."""
    server = queues.client(settings.DUCKMESH.redis_url, within=_BROKER_SECONDS)
    names = [queue.name for queue in sender.task_consumer.queues]
    _announcers[:] = [queues.Announcer(server, queues=names, consumer=sender.hostname)]
    _live()


@signals.heartbeat_sent.connect
def _live(**_: object) -> None:
    for announcer in _announcers:
        announcer.beat()


@signals.worker_shutdown.connect
def _leave(**_: object) -> None:
    for announcer in _announcers:
        announcer.end()
