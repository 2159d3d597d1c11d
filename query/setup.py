"""The query plane of one process, built from the configuration by the edge that first needs it, after any fork."""

from collections.abc import Callable

from duckmesh.kernel.config import Config
from query.audit import AuditLog
from query.barrier import Barrier
from query.body import BodyLimits
from query.cache import CacheSettings, file_source
from query.incidents import record_damage
from query.pool import Pool, PoolSettings, default_concurrency
from query.service import QueryPlane, QueryPolicy
from storage.factory import StoreSettings, open_store

# A file stays cached for longer than any query that planned to read it can run.
SLACK_SECONDS = 60


def build(config: Config, *, on_wait: Callable[[str, int], None]) -> QueryPlane:
    """The plane; `on_wait` wakes whoever publishes (see `Barrier`). Its threads start when they are needed."""
    scratch = config.home / "scratch"
    scratch.mkdir(parents=True, exist_ok=True)
    concurrency = config.runner_concurrency or default_concurrency()
    return QueryPlane(
        pool=Pool(
            PoolSettings(
                socket=config.runner_socket or config.home / "run" / "runners.sock",
                spares=config.runner_spares,
                runner_limit=config.runner_limit,
                concurrency=concurrency,
                tenant_concurrency=config.runner_tenant_concurrency or max(1, concurrency // 2),
                max_waiting=config.runner_queue,
                tenant_max_waiting=config.runner_tenant_queue,
                max_queries=config.runner_max_queries,
                max_age=config.runner_max_age.total_seconds(),
            )
        ),
        barrier=Barrier(max_waiters=config.max_waiters, on_wait=on_wait),
        source=file_source(
            store=open_store(StoreSettings.of(config)),
            cache=CacheSettings(
                directory=config.home / "cache",
                max_bytes=config.query_cache_bytes,
                keep_seconds=config.max_query_timeout.total_seconds() + SLACK_SECONDS,
                on_damage=record_damage,
            ),
        ),
        audit=AuditLog(),
        policy=QueryPolicy(
            result_bytes=config.query_result_bytes,
            stream_bytes=config.query_stream_bytes,
            scratch=str(scratch),
            allow_unsealed=config.allow_unsealed_sql,
            keep_text=config.query_audit_text,
        ),
    )


def close(plane: QueryPlane) -> None:
    """Nothing of the plane runs any more, and what was recorded is written."""
    plane.pool.close()
    plane.barrier.close()
    plane.inflight.close()
    plane.audit.close()


def body_limits(config: Config) -> BodyLimits:
    """The bounds of a request's members."""
    return BodyLimits(
        max_sql_bytes=config.max_sql_bytes,
        max_timeout_ms=int(config.max_query_timeout.total_seconds() * 1_000),
        max_consistency_timeout_ms=int(config.max_visibility_timeout.total_seconds() * 1_000),
    )
