"""The doctor of this configuration."""

from datetime import timedelta

from api.doctor import broker, catalog, clocks, machine, postgresql, store
from api.doctor.examining import Doctor
from api.doctor.findings import Asks, Check
from duckmesh.kernel.config import Config
from ingest.guard import GuardPolicy
from maintenance.postgres.programs import find_programs
from storage.store import ObjectStore

WITHIN = timedelta(seconds=20)


def checks(config: Config, *, objects: ObjectStore, guard: GuardPolicy) -> list[Check]:
    """All there are, each with its page in `runbooks/`."""
    redis_url, programs = config.redis_url, find_programs(config.postgres_programs)
    sql, redis, kept, here = Asks.POSTGRESQL, Asks.REDIS, Asks.STORE, Asks.MACHINE
    down, lost, away = "postgresql-down-or-full", "redis-lost", "object-store-down"
    listed = (
        ("postgresql_clock", sql, down, clocks.postgresql),
        ("postgresql_durability", sql, down, postgresql.durability),
        ("postgresql_log", sql, down, postgresql.log),
        ("postgresql_copies", sql, "restore-from-backup", catalog.copies),
        ("postgresql_connections", sql, down, postgresql.connections(config)),
        ("postgresql_programs", sql, "restore-from-backup", postgresql.programs(programs)),
        ("catalog_server", sql, down, catalog.server),
        ("migrations", sql, "upgrade-and-rollback", catalog.migrations),
        ("row_security", sql, "upgrade-and-rollback", catalog.row_security),
        ("catalog_invariants", sql, "integrity-findings", catalog.invariants),
        ("backup", sql, "restore-from-backup", catalog.backup),
        ("restore_drill", sql, "restore-from-backup", catalog.drill),
        ("beat", sql, "beat-silent", broker.beat),
        ("redis", redis, lost, broker.broker(redis_url)),
        ("redis_clock", redis, lost, clocks.redis(redis_url)),
        ("workers", redis, "high-ingest-lag", broker.consumers(redis_url)),
        ("store_semantics", kept, away, store.semantics(objects)),
        ("store_clock", kept, away, store.clock(objects)),
        ("store_owner", kept, "gc-stopped", store.ownership(objects)),
        ("query_sealing", here, "slow-queries", machine.sealing(allow_unsealed=config.allow_unsealed_sql)),
        ("query_engine", here, "integrity-findings", machine.engine),
        ("disk", here, down, machine.disk(guard)),
    )
    return [Check(name=name, asks=asks, runbook=page, look=look) for name, asks, page, look in listed]


def doctor(config: Config, *, objects: ObjectStore, guard: GuardPolicy) -> Doctor:
    """Who makes all of them."""
    return Doctor(checks(config, objects=objects, guard=guard), within=WITHIN)
