"""Celery's door to the runs: pokes that may come twice, late or never. What there is to do is in PostgreSQL.

One task for each kind, so that Flower shows what is done; the names of tenant and table are for people and the log.
"""

import functools
from collections.abc import Mapping
from typing import Any
from uuid import UUID

import structlog
from celery import current_app, shared_task
from celery.exceptions import SoftTimeLimitExceeded
from django.conf import settings
from kombu import Producer

from duckmesh.kernel.broker import impatient_producer
from duckmesh.postgresql.roles import as_owner
from maintenance.executing import Executor, execute
from maintenance.history_keeping import forget_gone_tables, keep_history
from maintenance.job import Job, Kind, Workplace
from maintenance.jobs import jobs, workplace
from maintenance.runs import Poke, next_in_line
from maintenance.schedule import request_due, waiting_runs

_SECONDS_TO_STOP = 120.0  # what a job may take between two words of its progress without being interrupted
_POKE_EXPIRES = 120.0
_HOUSEKEEPING_SECONDS = 30.0


@functools.cache
def _jobs() -> Mapping[Kind, Job]:
    return jobs(settings.DUCKMESH)


@functools.cache
def _workplace() -> Workplace:
    return workplace(settings.DUCKMESH)


# `Any`: Celery has no types.
def _run(task: Any, kind: Kind, run_id: str, tenant: str, table: str) -> None:
    """The run is computed here, if it is anybody's to take; then whoever waited for it to end is told."""
    soft_limit = task.soft_time_limit or current_app.conf.task_soft_time_limit
    executor = Executor(
        lease=settings.DUCKMESH.run_lease,
        seconds=soft_limit - _SECONDS_TO_STOP,
        out_of_time=(SoftTimeLimitExceeded,),
    )
    with structlog.contextvars.bound_contextvars(tenant_id=tenant, table=table):
        execute(job=_jobs()[kind], run_id=UUID(run_id), place=_workplace(), executor=executor)
    for waiting in next_in_line(kind=kind, behind=UUID(run_id)):
        _send(waiting)


@shared_task(name="maintenance.tasks.compaction", bind=True)
def compaction(self: Any, run_id: str, tenant: str = "", table: str = "") -> None:
    """Files of the table, or of all tables, are rewritten into fewer."""
    _run(self, Kind.COMPACTION, run_id, tenant, table)


@shared_task(name="maintenance.tasks.retention", bind=True)
def retention(self: Any, run_id: str, tenant: str = "", table: str = "") -> None:
    """Snapshots expire, and what no kept one names is deleted after the safety age."""
    _run(self, Kind.RETENTION, run_id, tenant, table)


@shared_task(name="maintenance.tasks.integrity", bind=True)
def integrity(self: Any, run_id: str, tenant: str = "", table: str = "") -> None:
    """Catalog and object store are compared."""
    _run(self, Kind.INTEGRITY, run_id, tenant, table)


@shared_task(name="maintenance.tasks.restore_drill", bind=True)
def restore_drill(self: Any, run_id: str, tenant: str = "", table: str = "") -> None:
    """A backup is restored into a scratch database and proven."""
    with as_owner(settings.DUCKMESH.owner_database_url):
        _run(self, Kind.RESTORE_DRILL, run_id, tenant, table)


_TASKS: Mapping[Kind, Any] = {
    Kind.COMPACTION: compaction,
    Kind.RETENTION: retention,
    Kind.INTEGRITY: integrity,
    Kind.RESTORE_DRILL: restore_drill,
}


@shared_task(name="maintenance.tasks.tick")
def tick() -> None:
    """What policies make due is queued, and workers hear of runs that nobody has taken."""
    request_due(_jobs())
    for waiting in waiting_runs(_jobs()):
        _send(waiting)


@shared_task(name="maintenance.tasks.keep_house")
def keep_house() -> None:
    """Runs past their time are gone, as far as one call comes, and so is what tables that are gone have left."""
    forget_gone_tables()
    keep_history(keep=settings.DUCKMESH.run_keep, seconds=_HOUSEKEEPING_SECONDS)


@functools.cache
def _producer() -> Producer:
    return impatient_producer(settings.DUCKMESH.redis_url)


def poke(waiting: Poke) -> None:
    """A worker is told of the run, or this fails within a fraction of a second. From one thread."""
    _send(waiting, producer=_producer())


def _send(waiting: Poke, **how: Any) -> None:
    arguments = {"tenant": waiting.tenant_id or "", "table": waiting.table_name or ""}
    task = _TASKS[waiting.kind]
    task.apply_async(args=(str(waiting.run_id),), kwargs=arguments, retry=False, expires=_POKE_EXPIRES, **how)
