"""What the catalog knows of its backups, their holds on files, and how backups go.

What a crash leaves is told by a directory that is named unfinished, or by a row that still runs. The next backup into
the same directory clears both, and so does dropping it.
"""

from pathlib import Path

import structlog
from django.db import transaction
from django.db.models.functions import Now

from catalog.holds import narrow_file_hold, release_file_hold, take_file_hold
from catalog.identity import identity
from catalog.models import FileHold
from duckmesh.kernel.failpoints import failpoint
from duckmesh.kernel.logs import kind_of
from maintenance.backup.errors import BackupNotFound
from maintenance.backup.manifest import Manifest, read_manifest
from maintenance.backup.place import BackupPlace, opened
from maintenance.models import Backup

log = structlog.get_logger(__name__)

_KIND = FileHold.Kind.BACKUP


@transaction.atomic
def begin(name: str, root: Path, *, with_data: bool, encrypted: bool) -> None:
    """Whatever is read from the catalog from now on stays in the store, for the backup of this name."""
    take_file_hold(kind=_KIND, name=name)
    Backup.objects.create(
        name=name,
        directory=str(root.absolute()),
        incarnation=identity().incarnation,
        with_data=with_data,
        encrypted=encrypted,
    )
    transaction.on_commit(lambda: log.info("backup_begun", backup=name, with_data=with_data, encrypted=encrypted))


@transaction.atomic
def complete(manifest: Manifest, *, copied_bytes: int | None = None, seconds: float | None = None) -> None:
    """The backup is known as finished, and its hold is about nothing that came after it."""
    for hold_id in _holds(manifest.name):
        narrow_file_hold(hold_id=hold_id)
    Backup.objects.filter(name=manifest.name).update(
        state=Backup.State.COMPLETED,
        dumped_at=manifest.dumped_at,
        size_bytes=manifest.dump.size,
        object_count=manifest.object_count,
        object_bytes=manifest.object_bytes,
        copied_bytes=copied_bytes,
        seconds=seconds,
        ended_at=Now(),
    )
    transaction.on_commit(
        lambda: log.info("backup_completed", backup=manifest.name, objects=manifest.object_count, seconds=seconds)
    )


@transaction.atomic
def fail(name: str, exc: BaseException) -> None:
    """The backup is known as failed, and holds nothing."""
    _release(name)
    Backup.objects.filter(name=name).update(
        state=Backup.State.FAILED, ended_at=Now(), error=str(exc)[:1_000] or type(exc).__name__
    )
    transaction.on_commit(
        lambda: log.error("backup_failed", backup=name, error_code=getattr(exc, "code", None), reason=kind_of(exc))
    )


def tidy(directory: BackupPlace) -> list[str]:
    """What crashes have left in the directory is cleared, and finished backups are known as such; the cleared ones."""
    cleared = directory.unfinished()
    for name in cleared:
        with transaction.atomic():
            _release(name)
            rows = Backup.objects.filter(name=name)
            rows.filter(state=Backup.State.RUNNING).update(
                state=Backup.State.FAILED, ended_at=Now(), error="Its process died."
            )
            rows.filter(state=Backup.State.COMPLETED).update(state=Backup.State.DROPPED, ended_at=Now())
        directory.remove_unneeded()
        directory.remove_draft(name)
    unknown = Backup.objects.filter(state=Backup.State.RUNNING, name__in=directory.finished())
    for name in unknown.values_list("name", flat=True):
        complete(read_manifest(directory.path(name)))
    return cleared


def drop_backup(*, root: Path, name: str) -> int:
    """The backup is gone, whatever state it was in, and so is its hold; how many bytes that freed in `objects`.

    Also one whose directory is gone already. Raises `BackupNotFound`.
    """
    with opened(root) as directory:
        here = name in directory.finished() or name in directory.unfinished()
        rows = Backup.objects.filter(name=name).exclude(state=Backup.State.DROPPED)
        if not here and not rows.exists():
            raise BackupNotFound(f"There is no backup {name}.", name=name)
        if here:
            directory.unfinish(name)  # from here on nothing is restored from it
        failpoint("drop.after_unfinish")
        with transaction.atomic():
            _release(name)
            rows.update(state=Backup.State.DROPPED, ended_at=Now())
        failpoint("drop.after_release")
        log.info("backup_dropped", backup=name)
        freed = directory.remove_unneeded()
        failpoint("drop.after_objects")
        directory.remove_draft(name)
        return freed


def _release(name: str) -> None:
    for hold_id in _holds(name):
        release_file_hold(hold_id=hold_id)


def _holds(name: str) -> list[int]:
    return list(FileHold.objects.filter(kind=_KIND, name=name).values_list("hold_id", flat=True))
