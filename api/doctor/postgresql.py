"""What an acknowledgement rests on in PostgreSQL: that a commit survives a crash, and what survives a lost server."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from django.db import connection

from api.doctor.findings import Verdict, odd, well, wrong
from duckmesh.kernel.config import Config
from duckmesh.kernel.errors import DuckMeshError
from maintenance.postgres.programs import Programs

_TIGHT = 0.8

_SETTINGS = """
SELECT current_setting('fsync'), current_setting('full_page_writes'), current_setting('synchronous_commit'),
       current_setting('data_checksums'), current_setting('synchronous_standby_names') <> '', pg_is_in_recovery()
"""


def durability() -> Verdict:
    """A committed transaction is on the disk: what every 200 rests on."""
    with connection.cursor() as cursor:
        cursor.execute(_SETTINGS)
        fsync, pages, commit, checksums, standby, recovering = cursor.fetchone()
    measured = {"fsync": fsync, "full_page_writes": pages, "synchronous_commit": commit, "data_checksums": checksums}
    off = [name for name in ("fsync", "full_page_writes", "synchronous_commit") if measured[name] == "off"]
    if off:
        return wrong(f"PostgreSQL may lose what was acknowledged: {', '.join(off)} is off.", **measured)
    if recovering:
        return wrong("This PostgreSQL is a standby: it takes no writes.", **measured)
    if standby and commit not in ("on", "remote_apply"):
        return odd("A standby is configured as synchronous, and commits do not wait for its disk.", **measured)
    if checksums == "off":
        return odd("PostgreSQL keeps no checksums of its pages: damage of the disk is not noticed.", **measured)
    return well("A committed transaction survives a crash of PostgreSQL.", **measured)


# What each may be, so that no line of the log holds a value. DDL holds none.
_UNTOLD: Mapping[str, tuple[str, ...]] = {
    "log_min_error_statement": ("panic",),
    "log_error_verbosity": ("terse",),  # a DETAIL holds the row
    "log_min_duration_statement": ("-1",),
    "log_min_duration_sample": ("-1",),
    "log_transaction_sample_rate": ("0",),
    "log_statement": ("none", "ddl"),
}


def log() -> Verdict:
    """PostgreSQL writes no statement of ours to its log: the driver puts what tenants have written into them."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT name, current_setting(name) FROM unnest(%s) AS name", [list(_UNTOLD)])
        measured = dict(cursor.fetchall())
    telling = [f"{name} = {value}" for name, value in measured.items() if value not in _UNTOLD[name]]
    if telling:
        return odd(
            "PostgreSQL's log may hold what tenants have written, because statements are logged with their values:"
            f" {', '.join(telling)}. What to set is in docs/security.md.",
            **measured,
        )
    return well("PostgreSQL logs no statement, and so nothing of what tenants have written.", **measured)


@dataclass(frozen=True, kw_only=True)
class Copies:
    """Where else what was committed is. Seconds and bytes are what would be lost with the server now."""

    archiving: bool
    archive_failing: bool
    archive_seconds: float | None
    standbys: int
    synchronous: int
    standby_bytes: int | None
    standby_seconds: float | None
    all_seen: bool


_ARCHIVE = """
SELECT current_setting('archive_mode') <> 'off'
         AND (current_setting('archive_command') NOT IN ('', '(disabled)') OR current_setting('archive_library') <> ''),
       coalesce(last_failed_time > coalesce(last_archived_time, '-infinity'), false),
       extract(epoch FROM clock_timestamp() - last_archived_time)::float8
  FROM pg_stat_archiver
"""
# A role without pg_monitor sees that there are senders of WAL, and nothing about them.
_STANDBYS = """
SELECT count(*), count(*) FILTER (WHERE sync_state IN ('sync', 'quorum') AND state = 'streaming'),
       min(pg_wal_lsn_diff(pg_current_wal_lsn(), flush_lsn))::bigint,
       min(CASE WHEN flush_lsn >= pg_current_wal_lsn() THEN 0 ELSE extract(epoch FROM flush_lag) END)::float8,
       coalesce(bool_and(state IS NOT NULL), true)
  FROM pg_stat_replication WHERE coalesce(state, 'streaming') <> 'backup'
"""


def copies() -> Copies:
    """What PostgreSQL says of its archive and its standbys now."""
    with connection.cursor() as cursor:
        cursor.execute(_ARCHIVE)
        archiving, failing, archive_seconds = cursor.fetchone()
        cursor.execute(_STANDBYS)
        standbys, synchronous, lag_bytes, lag_seconds, all_seen = cursor.fetchone()
    return Copies(
        archiving=archiving,
        archive_failing=failing,
        archive_seconds=archive_seconds,
        standbys=standbys,
        synchronous=synchronous,
        standby_bytes=lag_bytes,
        standby_seconds=lag_seconds,
        all_seen=all_seen,
    )


def judge_copies(found: Copies, *, backup_seconds: float | None) -> Verdict:
    """What would be lost if the server were lost now: nothing, seconds, or all since the last backup."""
    measured = {
        "archiving": found.archiving,
        "archive_seconds": _round(found.archive_seconds),
        "standbys": found.standbys,
        "synchronous_standbys": found.synchronous,
        "standby_bytes": found.standby_bytes,
        "backup_seconds": _round(backup_seconds),
    }
    if found.archiving and found.archive_failing:
        return wrong("PostgreSQL cannot archive its WAL: the last attempt failed.", rpo_seconds=None, **measured)
    if found.synchronous:
        return well("Nothing would be lost: a standby has every acknowledged write.", rpo_seconds=0, **measured)
    if found.standbys and not found.all_seen:
        return odd(
            "There is a standby, but the database role may not see how far it is: GRANT pg_monitor.",
            rpo_seconds=None,
            **measured,
        )
    behind = [
        each for each in (found.standby_seconds, found.archive_seconds if found.archiving else None) if each is not None
    ]
    if behind:
        seconds = round(min(behind), 1)
        return well(
            f"With the server up to {seconds} seconds of writes would be lost: archive and standbys follow it.",
            rpo_seconds=seconds,
            **measured,
        )
    if found.standbys or found.archiving:
        return odd("An archive or a standby is configured, and has nothing yet.", rpo_seconds=None, **measured)
    neither = "PostgreSQL has neither an archive of its WAL nor a standby"
    if backup_seconds is None:
        return odd(f"{neither}, and there is no backup: all would be lost with it.", rpo_seconds=None, **measured)
    return odd(
        f"{neither}: all since the last backup, {backup_seconds / 3600:.1f} hours, would be lost with it.",
        rpo_seconds=_round(backup_seconds),
        **measured,
    )


_CONNECTIONS = """
SELECT (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'),
       (SELECT sum(CASE name WHEN 'max_connections' THEN setting::int ELSE -setting::int END) FROM pg_settings
         WHERE name IN ('max_connections', 'superuser_reserved_connections', 'reserved_connections'))
"""

# Beside its request threads a process of the API has these: the guard, five of readiness, the barrier's reader, the
# doctor's, the metrics'.
_API_EXTRA = 9
# A worker's process: the task, what extends its lease, and what reads at an exported instant.
_WORKER = 3
_BEAT = 1


def budget(config: Config) -> int:
    """The most connections that one instance of everything opens at once."""
    workers = config.materialize_workers + config.maintenance_workers + 1
    return config.api_processes * (config.api_threads + _API_EXTRA) + workers * _WORKER + _BEAT


def connections(config: Config) -> Callable[[], Verdict]:
    """A check that PostgreSQL has as many connections as this configuration may ask for."""
    wanted = budget(config)

    def look() -> Verdict:
        with connection.cursor() as cursor:
            cursor.execute(_CONNECTIONS)
            used, limit = map(int, cursor.fetchone())
        measured = {"wanted": wanted, "used": used, "limit": limit}
        if wanted > limit:
            return wrong(
                f"One API and its workers may ask for {wanted} connections, and PostgreSQL has {limit}:"
                " raise max_connections, or lower DUCKMESH_API_PROCESSES or DUCKMESH_API_THREADS.",
                **measured,
            )
        if used > _TIGHT * limit:
            return odd(f"{used} of PostgreSQL's {limit} connections are in use.", **measured)
        return well("PostgreSQL has connections enough.", **measured)

    return look


def programs(found: Programs) -> Callable[[], Verdict]:
    """A check that backups can be taken and restored here: with programs as new as the server."""

    def look() -> Verdict:
        with connection.cursor() as cursor:
            cursor.execute("SHOW server_version_num")
            server = int(cursor.fetchone()[0]) // 10_000
        try:
            for name in ("pg_dump", "pg_restore"):
                found.require(name, server=server)
        except DuckMeshError as exc:
            return wrong(exc.message, server_version=server)
        return well("pg_dump and pg_restore are as new as the server.", server_version=server)

    return look


def _round(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 1)
