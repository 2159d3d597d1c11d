"""What backups a directory holds, and which ones the catalog still keeps files for."""

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from maintenance.backup.errors import BackupDamaged
from maintenance.backup.manifest import read_manifest
from maintenance.backup.place import BackupPlace
from maintenance.models import Backup

FINISHED, UNFINISHED, DAMAGED, GONE = "finished", "unfinished", "damaged", "gone"


@dataclass(frozen=True, kw_only=True)
class BackupInfo:
    """A backup. One that is `gone` has no directory any more, and files are still kept for it: drop it."""

    name: str
    state: str
    dumped_at: datetime | None = None
    dump_bytes: int | None = None
    object_count: int | None = None
    object_bytes: int | None = None
    with_data: bool | None = None
    encrypted: bool | None = None


def list_backups(root: Path) -> list[BackupInfo]:
    """The backups of the directory, the oldest first."""
    place = BackupPlace(root=root)
    found = [_finished(place, name) for name in place.finished()]
    found += [BackupInfo(name=name, state=UNFINISHED) for name in place.unfinished()]
    known = Backup.objects.filter(directory=str(root.absolute()), state=Backup.State.COMPLETED)
    here = {info.name for info in found}
    found += [BackupInfo(name=row.name, state=GONE, dumped_at=row.dumped_at) for row in known if row.name not in here]
    return sorted(found, key=lambda info: info.name)


def _finished(place: BackupPlace, name: str) -> BackupInfo:
    try:
        manifest = read_manifest(place.path(name))
    except BackupDamaged:
        return BackupInfo(name=name, state=DAMAGED)
    return BackupInfo(
        name=name,
        state=FINISHED,
        dumped_at=manifest.dumped_at,
        dump_bytes=manifest.dump.size,
        object_count=manifest.object_count,
        object_bytes=manifest.object_bytes,
        with_data=manifest.contents is not None,
        encrypted=manifest.encrypted,
    )
