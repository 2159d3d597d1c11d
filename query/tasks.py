"""Celery's door to the query plane's housekeeping."""

import time

import structlog
from celery import shared_task
from django.conf import settings

from duckmesh.kernel import metrics
from query.history import ROWS_PER_SLICE, purge_slice
from query.shown import remove_stale

_SECONDS = 30.0

log = structlog.get_logger(__name__)


@shared_task(name="query.tasks.keep_house")
def keep_house() -> None:
    """Audit rows past their time are gone, as far as one run comes, and so are rows that killed processes left."""
    until = time.monotonic() + _SECONDS
    stale, removed = remove_stale(), 0
    while time.monotonic() < until:
        started = time.monotonic()
        slice_ = purge_slice(keep=settings.DUCKMESH.query_audit_keep)
        removed += slice_
        if slice_ < ROWS_PER_SLICE:
            break
        time.sleep(time.monotonic() - started)  # half of the time is for the traffic
    metrics.housekeeping_removed.labels("query_audit").inc(removed)
    metrics.housekeeping_removed.labels("running_queries").inc(stale)
    log.info("query_house_kept", query_audit=removed, running_queries=stale)
