"""The audit rows as their tenant reads them, and their end."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db import connection
from django.db.models import Q

from query.models import QueryAudit

ROWS_PER_SLICE = 5_000


@dataclass(frozen=True, kw_only=True)
class Position:
    """Behind which query a page begins."""

    at: datetime
    number: int


def history(*, tenant_id: str, outcome: str | None, behind: Position | None, limit: int) -> list[QueryAudit]:
    """The tenant's queries that have ended, the newest first."""
    rows = QueryAudit.objects.filter(tenant_id=tenant_id)
    if outcome is not None:
        rows = rows.filter(outcome=outcome)
    if behind is not None:
        rows = rows.filter(Q(at__lt=behind.at) | Q(at=behind.at, pk__lt=behind.number), at__lte=behind.at)
    return list(rows.order_by("-at", "-pk")[:limit])


def purge_slice(*, keep: timedelta, most: int = ROWS_PER_SLICE) -> int:
    """Of the `most` oldest rows, those written longer ago than `keep` by the database's clock are gone; how many."""
    with connection.cursor() as cursor:
        # The oldest by id, so that nothing but the head of the primary key is read when there is nothing to do.
        cursor.execute(
            "DELETE FROM query_audit USING (SELECT id, written_at FROM query_audit ORDER BY id LIMIT %s) AS oldest"
            " WHERE query_audit.id = oldest.id AND oldest.written_at < now() - %s::interval",
            [most, f"{keep.total_seconds()} seconds"],
        )
        return int(cursor.rowcount)
