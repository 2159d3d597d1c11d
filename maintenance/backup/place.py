"""The directory that holds backups: each in a directory of its name, and the contents of their objects once for all.

NAME/           a finished backup
NAME.partial/   one that is being taken or removed; after a crash the next backup removes it
objects/        contents of objects, by their SHA-256
"""

import fcntl
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from duckmesh.kernel.failpoints import failpoint
from maintenance.backup.errors import BackupBusy, BackupDamaged, BackupNotFound, BackupUnfinished
from maintenance.backup.files import sync_directory
from maintenance.backup.manifest import MANIFEST, read_manifest
from storage.errors import StoreDenied, StoreUnavailable

_PARTIAL = ".partial"
_OBJECTS = "objects"
_LOCK = ".lock"


@dataclass(frozen=True, kw_only=True)
class BackupPlace:
    """The backups in the directory `root`."""

    root: Path

    @property
    def objects(self) -> Path:
        """Where contents of objects are."""
        return self.root / _OBJECTS

    def path(self, name: str) -> Path:
        """A finished backup's directory."""
        return self.root / name

    def draft(self, name: str) -> Path:
        """The directory of a backup that is not finished."""
        return self.root / (name + _PARTIAL)

    def finished(self) -> list[str]:
        """The names of the finished backups, the newest last."""
        return sorted(path.parent.name for path in self.root.glob(f"*/{MANIFEST}") if path.parent.suffix != _PARTIAL)

    def unfinished(self) -> list[str]:
        """The names of those that were never finished, or are half removed."""
        return sorted(path.name.removesuffix(_PARTIAL) for path in self.root.glob(f"*{_PARTIAL}"))

    def choose(self, name: str | None) -> str:
        """The name of this backup, or of the newest. Raises `BackupNotFound` and `BackupUnfinished`."""
        finished, unfinished = self.finished(), self.unfinished()
        if name is None and finished:
            return finished[-1]
        if name in finished:
            return str(name)
        if unfinished and (name is None or name in unfinished):
            raise BackupUnfinished(
                f"The backup {name or unfinished[-1]} was not finished.", name=name or unfinished[-1]
            )
        raise BackupNotFound("The directory has no backup." if name is None else f"There is no backup {name}.")

    def begin(self, name: str) -> Path:
        """An empty directory for the backup that is now being taken."""
        draft = self.draft(name)
        draft.mkdir(mode=0o700)
        return draft

    def finish(self, name: str) -> None:
        """The backup is finished, and durable."""
        self.draft(name).rename(self.path(name))
        failpoint("backup.before_sync")
        sync_directory(self.root)

    def unfinish(self, name: str) -> None:
        """Nothing is restored from the backup any more."""
        if self.path(name).exists():
            self.path(name).rename(self.draft(name))
            sync_directory(self.root)

    def remove_draft(self, name: str) -> None:
        """Nothing is left of the backup but its objects."""
        shutil.rmtree(self.draft(name), ignore_errors=True)

    def contents(self, name: str) -> list[str]:
        """The files in `objects` that a finished backup needs. Raises `BackupDamaged`."""
        facts = read_manifest(self.path(name)).contents
        return [] if facts is None else facts.check(self.path(name)).read_text().split()

    def remove_unneeded(self) -> int:
        """Contents that no finished backup needs are gone; their bytes. While one is damaged, all are needed."""
        try:
            needed = {name for backup in self.finished() for name in self.contents(backup)}
        except BackupDamaged:
            return 0
        freed = 0
        for path in [path for path in self.objects.glob("*/*") if path.is_file()]:
            if str(path.relative_to(self.objects)) not in needed:
                freed += path.stat().st_size
                path.unlink()
        return freed


def new_name(at: datetime) -> str:
    """A name for a backup that is taken now; names sort by time."""
    return f"{at.astimezone(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"


@contextmanager
def opened(root: Path) -> Iterator[BackupPlace]:
    """The directory, which is made if need be, and nobody else's until the block ends. Raises `BackupBusy`."""
    try:
        (root / _OBJECTS).mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(root / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except PermissionError as exc:
        raise StoreDenied(f"The directory of the backups: {exc.strerror}") from exc
    except OSError as exc:
        raise StoreUnavailable(f"The directory of the backups: {exc.strerror}") from exc
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BackupBusy("Another backup uses the directory.") from None
        yield BackupPlace(root=root)
    finally:
        os.close(lock)
