"""Whether the catalog is as this version wants it, holds together, and could be had back."""

from django.db import connection

from api.doctor import postgresql
from api.doctor.findings import Verdict, odd, well, wrong
from catalog.server import Standing, standing
from maintenance.drill.relations import broken_heads, lagging_sequences, switched_off
from maintenance.restore.loaded import missing_migrations, unknown_migrations

_OLD_BACKUP_SECONDS = 2 * 86_400
_OLD_DRILL_SECONDS = 3 * 86_400

_BACKUP = """
SELECT extract(epoch FROM clock_timestamp() - max(dumped_at))::float8 FROM backup WHERE state = 'completed'
"""
_DRILL = """
SELECT state, extract(epoch FROM clock_timestamp() - ended_at)::float8 FROM restore_drill_run
 WHERE state IN ('succeeded', 'failed') AND NOT coalesce((options->>'dry_run')::boolean, false)
 ORDER BY ended_at DESC LIMIT 1
"""


def migrations() -> Verdict:
    """Every migration of this version has been applied, and none of a newer one."""
    missing = missing_migrations()
    if missing:
        return wrong(f"{len(missing)} migrations are pending: run manage.py migrate.", pending=[*missing])
    with connection.cursor() as cursor:
        cursor.execute("SELECT app || '.' || name FROM django_migrations")
        newer = unknown_migrations([row[0] for row in cursor.fetchall()])
    if newer:
        return odd("The catalog has migrations that this version does not know.", unknown=[*newer])
    return well("Every migration of this version has been applied.")


def server() -> Verdict:
    """The catalog lives on the PostgreSQL that answers."""
    found = standing()
    if found == Standing.KNOWN:
        return well("PostgreSQL is the server that the catalog lives on.")
    what = "a standby" if found == Standing.STANDBY else "another server than the catalog was last known on"
    return wrong(f"PostgreSQL is {what}: writes are refused. See manage.py catalog adopt.", standing=found.value)


def invariants() -> Verdict:
    """What can be told at a glance: heads and their snapshots, the sequences, and that no guard is switched off."""
    broken = sorted({str(each["relation"]) for each in (*broken_heads(), *lagging_sequences(), *switched_off())})
    if broken:
        return wrong(f"The catalog contradicts itself: {', '.join(broken)}. Run manage.py integrity.", broken=[*broken])
    return well("Heads, sequences, constraints and triggers of the catalog are sound.")


def row_security() -> Verdict:
    """The database keeps tenants apart, whatever this service's statements say."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT row_security_active('tenant')")
        active = cursor.fetchone()[0]
    if not active:
        return odd("This database role is not bound by row-level security: see docs/deployment.md, Database roles.")
    return well("Row-level security binds this database role.")


def backup_age() -> float | None:
    """Seconds since the instant of the newest backup; None without any."""
    with connection.cursor() as cursor:
        cursor.execute(_BACKUP)
        age: float | None = cursor.fetchone()[0]
    return age


def backup() -> Verdict:
    """There is a backup, and it is not old."""
    age = backup_age()
    if age is None:
        return odd("There is no backup: run manage.py backup.", backup_seconds=None)
    measured = round(age, 1)
    if age > _OLD_BACKUP_SECONDS:
        return odd(f"The newest backup is {age / 86_400:.1f} days old.", backup_seconds=measured)
    return well("There is a backup of the last days.", backup_seconds=measured)


def drill() -> Verdict:
    """The last restore drill has succeeded, and is not old."""
    with connection.cursor() as cursor:
        cursor.execute(_DRILL)
        found = cursor.fetchone()
    if found is None:
        return odd("No restore drill has been made: run manage.py restore_drill.", drill_seconds=None)
    state, age = found
    measured = round(age, 1)
    if state == "failed":
        return wrong("The last restore drill has failed.", drill_seconds=measured)
    if age > _OLD_DRILL_SECONDS:
        return odd(f"The last restore drill was {age / 86_400:.1f} days ago.", drill_seconds=measured)
    return well("A restore drill of the last days has succeeded.", drill_seconds=measured)


def copies() -> Verdict:
    """What would be lost with the server."""
    return postgresql.judge_copies(postgresql.copies(), backup_seconds=backup_age())
