"""The rows of queries that run: what the processes of a service tell each other about them."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta

from django.db.models import F
from django.db.models.functions import Now

from query.models import RunningQuery

# A process writes its rows anew every 5 s. A row that is older belongs to a process that was killed.
STALE_AFTER = timedelta(seconds=15)
ROW_COMES_WITHIN = 0.8
HEARD_WITHIN = 2.0
LOOK_INTERVAL = 0.1


@dataclass(frozen=True, kw_only=True)
class Shown:
    """A query that runs, in this process or another."""

    query_id: str
    tenant_id: str
    key_id: str
    sql_hash: str
    sql: str
    seconds: float
    cancelling: bool


def show_and_hear(*, write: Sequence[Shown], read: Sequence[str]) -> list[str]:
    """Each query of `write` has a fresh row. Returns those of `read` that somebody wants cancelled."""
    if write:
        rows = [
            RunningQuery(
                query_id=query.query_id,
                tenant_id=query.tenant_id,
                key_id=query.key_id,
                sql_hash=query.sql_hash,
                sql_text=query.sql,
                started_at=Now() - timedelta(seconds=query.seconds),
                seen_at=Now(),
            )
            for query in write
        ]
        RunningQuery.objects.bulk_create(
            rows, update_conflicts=True, unique_fields=["query_id"], update_fields=["seen_at"]
        )
    wanted = RunningQuery.objects.filter(query_id__in=read, cancel_requested_at__isnull=False)
    return list(wanted.values_list("query_id", flat=True))


def forget(query_ids: Sequence[str]) -> None:
    """These queries have no rows any more."""
    RunningQuery.objects.filter(query_id__in=query_ids).delete()


def shown_of(tenant_id: str) -> list[Shown]:
    """The tenant's queries that have a row."""
    fresh = RunningQuery.objects.filter(tenant_id=tenant_id, seen_at__gt=Now() - STALE_AFTER)
    return [
        Shown(
            query_id=row.query_id,
            tenant_id=row.tenant_id,
            key_id=row.key_id,
            sql_hash=row.sql_hash,
            sql=row.sql_text,
            seconds=row.running_for.total_seconds(),
            cancelling=row.cancel_requested_at is not None,
        )
        for row in fresh.annotate(running_for=Now() - F("started_at"))
    ]


def tell_heard(query_ids: Sequence[str]) -> None:
    """Whoever wants these queries cancelled knows that their process is stopping them: the rows are written anew."""
    rows = RunningQuery.objects.filter(query_id__in=query_ids, cancel_requested_at__gte=F("seen_at"))
    rows.update(seen_at=Now())


def request_cancel(*, tenant_id: str, query_id: str) -> bool:
    """The process that runs the query is stopping it; False if no process runs such a query of the tenant.

    The row of a query outlives it for a moment, so its process has the last word; one that says none for long is asked
    all the same.
    """
    row = RunningQuery.objects.filter(tenant_id=tenant_id, query_id=query_id, seen_at__gt=Now() - STALE_AFTER)
    asked = _soon(lambda: row.update(cancel_requested_at=Now()) > 0, within=ROW_COMES_WITHIN)
    if not asked:
        return False
    unheard = row.filter(seen_at__lte=F("cancel_requested_at"))
    _soon(lambda: not unheard.exists(), within=HEARD_WITHIN)
    return row.exists()


def _soon(condition: Callable[[], bool], *, within: float) -> bool:
    until = time.monotonic() + within
    while not condition():
        if time.monotonic() >= until:
            return False
        time.sleep(LOOK_INTERVAL)
    return True


def remove_stale() -> int:
    """Rows of processes that were killed are gone; how many there were."""
    return RunningQuery.objects.filter(seen_at__lt=Now() - 4 * STALE_AFTER).delete()[0]
