"""Acknowledgements while somebody holds an old snapshot of the catalog, as a `pg_dump` of it does."""

from collections.abc import Iterator
from contextlib import closing, contextmanager

import psycopg2

from duckmesh.kernel.config import Config
from tests.benchmarks.database import superusers
from tests.benchmarks.ingest import make_table
from tests.benchmarks.load import Target, drive, ingest_bodies
from tests.benchmarks.report import Figure

_SECONDS_HELD = 60
_REQUESTS = 1_500


def under_a_dump(target: Target, config: Config) -> list[Figure]:
    """Single-record requests a second: before, and at the end of a minute in which the dump was held open."""
    path = make_table(target, "bench_dump")
    first = 0

    def measure(requests: int) -> float:
        nonlocal first
        work = ingest_bodies(first=first, requests=requests, per_request=1)
        first += requests
        return drive(target, connections=16, work=work, path=path).per_second

    measure(target.some(500))
    free = measure(target.some(_REQUESTS))
    with _dump_held_open(config):
        chunk = max(target.some(200), int(free * 5 * target.share))
        rates = [measure(chunk) for _ in range(_SECONDS_HELD // 5)]
    held = rates[-1]
    return [
        Figure("acknowledgements of one record, no dump", free, "requests/s"),
        Figure("… after a minute under a held pg_dump", held, "requests/s"),
        Figure("… ratio", held / free, "", bar=0.8),
    ]


@contextmanager
def _dump_held_open(config: Config) -> Iterator[None]:
    """What pg_dump does for as long as it runs: one REPEATABLE READ transaction that has read every catalog table."""
    address = superusers(config)
    with closing(psycopg2.connect(address)) as connection, connection.cursor() as cursor:
        cursor.execute("BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        cursor.execute("SELECT count(*) FROM ingest_event")
        cursor.execute("SELECT count(*) FROM tenant_catalog")
        yield
