"""The history of the runs stays small."""

import time
from datetime import timedelta

import structlog
from django.db import transaction
from django.db.models import Q
from django.db.models.functions import Now

from catalog.models import TableDef
from duckmesh.kernel import metrics
from maintenance.history import SUCCESSES
from maintenance.job import Kind
from maintenance.models import MaintenancePolicy, MaintenanceSchedule, Run
from maintenance.runs import MODELS

ROWS_PER_SLICE = 1_000
ROUTINE_KEPT = timedelta(days=1)

log = structlog.get_logger(__name__)


def keep_history(*, keep: timedelta, seconds: float) -> int:
    """Runs that ended longer ago are gone, and so are policies' runs that succeeded longer than a day ago.

    As far as it comes in this time; how many went. The newest success of each kind stays, whatever its age: it tells
    for how long there has been none.
    """
    until, removed = time.monotonic() + seconds, 0
    for kind in Kind:
        slice_ = ROWS_PER_SLICE
        while slice_ == ROWS_PER_SLICE and time.monotonic() < until:
            started = time.monotonic()
            slice_ = _purge_slice(kind, keep=keep)
            removed += slice_
            time.sleep(time.monotonic() - started)  # half of the time is for the traffic
    metrics.housekeeping_removed.labels("runs").inc(removed)
    log.info("run_history_kept", runs=removed)
    return removed


def forget_gone_tables() -> int:
    """Policies, and what they have asked for, are gone with the tables that retention has forgotten; how many."""
    gone = Q(table_id__isnull=False) & ~Q(table_id__in=TableDef.objects.values("table_id"))
    return sum(rows.objects.filter(gone).delete()[0] for rows in (MaintenancePolicy, MaintenanceSchedule))


@transaction.atomic
def _purge_slice(kind: Kind, *, keep: timedelta) -> int:
    runs = MODELS[kind]._default_manager
    newest = list(runs.filter(SUCCESSES).order_by("-ended_at").values_list("run_id", flat=True)[:1])
    routine = Q(
        ended_at__lt=Now() - min(keep, ROUTINE_KEPT), state=Run.State.SUCCEEDED, requested_by__startswith="policy:"
    )
    past = runs.filter(Q(ended_at__lt=Now() - keep) | routine).exclude(run_id__in=newest)
    doomed = list(past.order_by("ended_at").values_list("run_id", flat=True)[:ROWS_PER_SLICE])
    runs.filter(run_id__in=doomed).delete()
    return len(doomed)
