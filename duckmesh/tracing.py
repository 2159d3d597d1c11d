"""Messages carry the trace of what led to them, and tasks go on with it."""

from typing import Any

import structlog
from celery import signals

from duckmesh.kernel import traces


@signals.before_task_publish.connect
def _say_for_whom(headers: dict[str, Any], **_: object) -> None:
    headers.update(traces.headers())


# `Any`: a Celery task.
@signals.task_prerun.connect
def _go_on(task_id: str, task: Any, **_: object) -> None:
    """Whatever the task logs has its trace, its name and its id."""
    traces.go_on({name: task.request.get(name) for name in (traces.HEADER, traces.LINKS)})
    structlog.contextvars.bind_contextvars(task=task.name, task_id=task_id)


@signals.task_postrun.connect
def _end(**_: object) -> None:
    structlog.contextvars.clear_contextvars()
