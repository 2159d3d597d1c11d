"""Contents of objects, from the store into the directory of the backups and back. By content: each only once."""

import hashlib
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from duckmesh.kernel.failpoints import failpoint
from maintenance.backup.encryption import SUFFIX, BackupKey, seal, unseal
from maintenance.backup.errors import BackupDamaged, BackupIncomplete, RestoreObjectsMissing
from maintenance.backup.files import Measured, new_file
from maintenance.backup.manifest import BackupObject
from storage.errors import ObjectExists, ObjectNotFound
from storage.parquet import sha256_of
from storage.store import ObjectStore


def content_name(sha256: str, *, encrypted: bool) -> str:
    """The file below `objects` that holds this content."""
    return f"{sha256[:2]}/{sha256}{SUFFIX if encrypted else ''}"


def identify(each: BackupObject, *, store: ObjectStore, scratch: Path) -> BackupObject:
    """The object with its SHA-256, for which one whose SHA-256 nobody knows is read. Raises `BackupIncomplete`."""
    if each.sha256 is not None:
        return each
    with _local(each, store=store, scratch=scratch) as path:
        return each.model_copy(update={"sha256": sha256_of(path)})


def copy_content(
    each: BackupObject, *, store: ObjectStore, contents: Path, key: BackupKey | None, scratch: Path
) -> int:
    """The object's content is in the directory `contents`; how many bytes were written for it: none if it was there.

    Raises `BackupIncomplete` if the object is missing or not what the catalog says.
    """
    assert each.sha256 is not None, "every object is identified before it is copied"
    target = contents / content_name(each.sha256, encrypted=key is not None)
    if target.exists():
        return 0
    target.parent.mkdir(mode=0o700, exist_ok=True)
    draft = target.with_name(f"{target.name}.draft")
    draft.unlink(missing_ok=True)
    with _local(each, store=store, scratch=scratch) as path, path.open("rb") as source:
        with new_file(draft) as file:
            read = _Read(source)
            seal(read, file, key=key)
        if (read.size, read.sha256) != (each.size, each.sha256):
            draft.unlink()
            raise BackupIncomplete(f"The object {each.key} is damaged: run integrity.", key=each.key)
    failpoint("backup.before_content")
    draft.rename(target)
    return target.stat().st_size


def put_back(
    each: BackupObject, *, store: ObjectStore, contents: Path, key: BackupKey | None, encrypted: bool, scratch: Path
) -> None:
    """The object is in the store, whole. One that is there already stays as it is. Raises `BackupDamaged`."""
    assert each.sha256 is not None
    source = contents / content_name(each.sha256, encrypted=encrypted)
    with tempfile.TemporaryDirectory(dir=scratch, prefix="restore-") as directory:
        path = Path(directory) / "object"
        try:
            with source.open("rb") as sealed, path.open("xb") as file:
                measured = Measured(file)
                unseal(sealed, measured, key=key, encrypted=encrypted)
        except FileNotFoundError:
            raise BackupDamaged(f"The backup lacks the object {each.key}.", file=source.name) from None
        if (measured.size, measured.sha256) != (each.size, each.sha256):
            raise BackupDamaged(f"The backup's copy of {each.key} is damaged.", file=source.name)
        try:
            store.put_file(each.key, path)
        except ObjectExists:
            return


def absent(wanted: Iterable[BackupObject], store: ObjectStore) -> Iterator[BackupObject]:
    """Those of the objects, which come in the order of their keys, that the store does not have.

    By one listing. Raises `RestoreObjectsMissing` if there is another object in the place of one.
    """
    listed = store.list("")
    there = next(listed, None)
    for each in wanted:
        while there is not None and there.key.encode() < each.key.encode():
            there = next(listed, None)
        if there is None or there.key != each.key:
            yield each
        elif there.size != each.size:
            raise RestoreObjectsMissing(
                f"The store's object {each.key} has another size than the backup's; objects are never overwritten.",
                keys=[each.key],
            )


class _Read:
    """A reader of `source` that knows what went through it."""

    def __init__(self, source: IO[bytes]) -> None:
        self._source, self._digest, self.size = source, hashlib.sha256(), 0

    def read(self, size: int = -1) -> bytes:
        """As a file's."""
        data = self._source.read(size)
        self._digest.update(data)
        self.size += len(data)
        return data

    @property
    def sha256(self) -> str:
        """Of all that was read."""
        return self._digest.hexdigest()


@contextmanager
def _local(each: BackupObject, *, store: ObjectStore, scratch: Path) -> Iterator[Path]:
    """The object's bytes as a file of this machine. Raises `BackupIncomplete`."""
    root = store.local_root
    if root is not None:
        if not (root / each.key).is_file():
            raise BackupIncomplete(f"The object {each.key} is missing: run integrity.", key=each.key)
        yield root / each.key
        return
    with tempfile.TemporaryDirectory(dir=scratch, prefix="backup-") as directory:
        path = Path(directory) / "object"
        try:
            store.fetch(each.key, path)
        except ObjectNotFound:
            raise BackupIncomplete(f"The object {each.key} is missing: run integrity.", key=each.key) from None
        yield path
