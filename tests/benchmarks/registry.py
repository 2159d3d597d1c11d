"""What the number of keys that are remembered costs: publishing keyed records with more and more of them."""

from contextlib import closing

import psycopg2

from duckmesh.kernel.config import Config
from tests.benchmarks.database import superusers
from tests.benchmarks.ingest import make_table
from tests.benchmarks.load import Connection, Target, drive, ingest_bodies
from tests.benchmarks.report import Figure

_KEYS = (0, 1_000_000, 5_000_000)
_PER_REQUEST, _CONNECTIONS = 1_000, 8

# The keys belong to an envelope that there is, as all keys do.
_FILL = """
INSERT INTO ingest_key (table_id, key_hash, payload_hash, event_id)
SELECT e.table_id, gen_random_uuid(), gen_random_uuid(), e.event_id
  FROM (SELECT table_id, max(event_id) AS event_id FROM ingest_event WHERE table_id = %s GROUP BY table_id) e,
       generate_series(1, %s)
"""


def by_keys_remembered(target: Target, config: Config) -> list[Figure]:
    """Records a second of requests of 1,000 keyed records over 8 connections, on top of 0, 1M and 5M older keys."""
    path = make_table(target, "bench_registry")
    table_id = Connection(target).request("GET", "/v1/tables/bench_registry")["table_id"]
    requests, first, remembered = target.some(150), 0, 0
    figures: list[Figure] = []
    for keys in _KEYS:
        _remember(config, table_id=table_id, more=target.some(keys) - remembered if keys else 0)
        remembered = target.some(keys) if keys else 0
        rates = []
        for count in (max(1, requests // 5), requests):  # the first of the two only warms up
            work = ingest_bodies(first=first, requests=count, per_request=_PER_REQUEST)
            first += count * _PER_REQUEST
            rates.append(drive(target, connections=_CONNECTIONS, work=work, path=path).per_second * _PER_REQUEST)
        figures.append(Figure(f"ingest with {remembered:,} older keys remembered", rates[-1], "records/s"))
    return [*figures, Figure("… the last against the first", figures[-1].value / figures[0].value, "times")]


def _remember(config: Config, *, table_id: int, more: int) -> None:
    address = superusers(config)
    with closing(psycopg2.connect(address)) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(_FILL, [table_id, more])
            cursor.execute("VACUUM ANALYZE ingest_key")
            cursor.execute("CHECKPOINT")
