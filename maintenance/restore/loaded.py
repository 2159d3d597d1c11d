"""What a database that was loaded from a dump needs before it can serve as a catalog."""

from collections.abc import Sequence
from datetime import datetime

from django.core.management import call_command
from django.db import connection, transaction
from django.db.migrations.executor import MigrationExecutor
from django.db.migrations.loader import MigrationLoader
from django.db.models import F
from django.db.models.functions import Greatest, Now

from catalog.incarnation import begin_incarnation
from maintenance.backup.errors import RestoreTooNew
from maintenance.errors import RunWorkerLost
from maintenance.models import Backup, Run
from maintenance.runs import MODELS

_RESTORED = "The catalog was restored from a backup that was taken while this ran."


def unknown_migrations(applied: Sequence[str]) -> list[str]:
    """Those that this version of DuckMesh does not have."""
    known = {f"{app}.{name}" for app, name in MigrationLoader(None).disk_migrations}
    return [name for name in applied if name not in known]


def require_known(applied: Sequence[str]) -> None:
    """Raises `RestoreTooNew` if one of the migrations is not of this version."""
    unknown = unknown_migrations(applied)
    if unknown:
        raise RestoreTooNew(
            f"The backup is of a newer version of DuckMesh: it has {', '.join(unknown[:3])}, which this one has not.",
            migrations=list(unknown),
        )


def migrate() -> list[str]:
    """The connected database has every migration of this version; the ones that it lacked."""
    missing = missing_migrations()
    if missing:
        call_command("migrate", interactive=False, verbosity=0)
    return missing


def missing_migrations() -> list[str]:
    """Those of this version that the connected database lacks, in the order in which they would be applied."""
    executor = MigrationExecutor(connection)
    plan = executor.migration_plan(executor.loader.graph.leaf_nodes())
    return [f"{migration.app_label}.{migration.name}" for migration, _ in plan]


@transaction.atomic
def begin_life(*, dumped_at: datetime, backup: str | None, why: str = _RESTORED) -> None:
    """The connected catalog begins a life of its own: what ran at its dump has ended, and nothing is issued twice.

    But not the row of the `backup` that it comes from, which was not finished when it was dumped. `why` is told of the
    others.
    """
    begin_incarnation(dumped_at=dumped_at)
    for model in MODELS.values():
        model._default_manager.filter(ended_at=None).update(
            state=Run.State.FAILED,
            error=why,
            error_code=RunWorkerLost.code,
            ended_at=Greatest(Now(), F("requested_at")),
        )
    running = Backup.objects.filter(state=Backup.State.RUNNING).exclude(name=backup or "")
    running.update(state=Backup.State.FAILED, ended_at=Now(), error=why)
