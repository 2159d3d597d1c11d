"""When beat was last heard of: each sweep that it sends leaves its time, so that its silence can be seen."""

from datetime import datetime

from django.db import connection

from ingest.models import BeatTick

# Not at every sweep: while a dump is open, no version of the row can be vacuumed.
_TICK = """
INSERT INTO beat_tick (one, ticked_at) VALUES (true, clock_timestamp())
ON CONFLICT (one) DO UPDATE SET ticked_at = clock_timestamp()
  WHERE beat_tick.ticked_at < clock_timestamp() - interval '5 seconds'
"""


def tick() -> None:
    """Beat was heard of now, by the database's clock and to a few seconds."""
    with connection.cursor() as cursor:
        cursor.execute(_TICK)


def last_tick() -> datetime | None:
    """When beat was last heard of; None if never."""
    found = BeatTick.objects.first()
    return found.ticked_at if found else None
