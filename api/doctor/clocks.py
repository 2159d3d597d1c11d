"""Whether this host's clock agrees with the servers'. Messages expire by the one, ages are told by the other."""

import time
from collections.abc import Callable

from django.db import connection

from api.doctor.findings import Verdict, well, wrong
from duckmesh.kernel import queues

MOST_SECONDS = 2.0
MOST_SECONDS_OF_STORE = 60.0
"""A store's clock is nothing that we judge by; but S3 refuses a signature that is 15 minutes off."""


def judge(server: str, *, before: float, after: float, told: float, most: float) -> Verdict:
    """By what a server said its time was, between two looks at our own clock."""
    ahead = told - (before + after) / 2
    sure = max(0.0, abs(ahead) - (after - before) / 2)
    measured = {"seconds_ahead": round(ahead, 3), "uncertain_by": round((after - before) / 2, 3)}
    if sure > most:
        return wrong(f"{server}'s clock and this host's are {abs(ahead):.1f} seconds apart.", **measured)
    return well(f"{server}'s clock agrees with this host's.", **measured)


def postgresql() -> Verdict:
    """PostgreSQL's clock."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")  # the connection is there
        before = time.time()
        cursor.execute("SELECT extract(epoch FROM clock_timestamp())::float8")
        told = cursor.fetchone()[0]
    return judge("PostgreSQL", before=before, after=time.time(), told=told, most=MOST_SECONDS)


def redis(url: str) -> Callable[[], Verdict]:
    """A check of Redis' clock."""

    def look() -> Verdict:
        with queues.client(url, within=3) as server:
            server.ping()
            before = time.time()
            told = queues.server_time(server)
        return judge("Redis", before=before, after=time.time(), told=told, most=MOST_SECONDS)

    return look
