"""Whether messages reach those who do the work."""

from collections.abc import Callable
from typing import Any

from django.db import connection

from api.doctor.findings import Verdict, odd, well, wrong
from duckmesh.kernel import clock, queues
from ingest.tick import last_tick

MOST_SILENT_SECONDS = 30


def broker(url: str) -> Callable[[], Verdict]:
    """A check that Redis answers and throws no message away for want of memory."""

    def look() -> Verdict:
        with queues.client(url, within=3) as server:
            # `Any`: the library's type is that of its asynchronous client as well.
            info: Any = server.info("memory")
        policy = str(info.get("maxmemory_policy", "noeviction"))
        if policy != "noeviction" and int(info.get("maxmemory", 0)):
            return odd(
                "Redis answers, and drops keys when its memory is full; set maxmemory-policy noeviction.",
                maxmemory_policy=policy,
            )
        return well("Redis answers.", maxmemory_policy=policy)

    return look


def consumers(url: str) -> Callable[[], Verdict]:
    """A check that somebody takes messages from each queue."""

    def look() -> Verdict:
        with queues.client(url, within=3) as server:
            found = queues.look(server, now=clock.now().timestamp())
        lonely = [state.queue for state in found if not state.consumers]
        if lonely:
            return wrong(f"No worker takes messages from {', '.join(lonely)}.", queues=[*lonely])
        return well("Every queue has a worker.", **{state.queue: state.consumers for state in found})

    return look


def beat() -> Verdict:
    """Something happens every second: beat sends, and a worker does it."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT clock_timestamp()")
        now = cursor.fetchone()[0]
    tick = last_tick()
    if tick is None:
        return wrong("Beat has never been heard of.")
    silent = (now - tick).total_seconds()
    if silent > MOST_SILENT_SECONDS:
        return wrong(f"Beat was last heard of {silent:.0f} seconds ago.", silent_seconds=round(silent, 1))
    return well("Beat is heard of.", silent_seconds=round(max(0.0, silent), 1))
