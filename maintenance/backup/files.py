"""Files of a backup: written once, whole and durable, and known by their size and SHA-256."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from pydantic import BaseModel, ConfigDict

from maintenance.backup.errors import BackupDamaged
from storage.parquet import sha256_of


class FileFacts(BaseModel):
    """A file of the backup as it lies in its directory."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    size: int
    sha256: str

    def check(self, directory: Path) -> Path:
        """The file's path, if it is what was written. Raises `BackupDamaged`."""
        path = directory / self.name
        if not path.is_file() or path.stat().st_size != self.size or sha256_of(path) != self.sha256:
            raise BackupDamaged(f"The backup's {self.name} is not what was written.", file=self.name)
        return path


@dataclass
class Measured:
    """A writer to `target` that knows what went through it."""

    target: IO[bytes]
    size: int = 0

    def __post_init__(self) -> None:
        self._digest = hashlib.sha256()

    def write(self, data: bytes) -> int:
        """As a file's."""
        self.target.write(data)
        self._digest.update(data)
        self.size += len(data)
        return len(data)

    def flush(self) -> None:
        """As a file's."""
        self.target.flush()

    @property
    def sha256(self) -> str:
        """Of all that was written."""
        return self._digest.hexdigest()


@contextmanager
def new_file(path: Path) -> Iterator[IO[bytes]]:
    """A file that is durable when the block ends. What it holds is read back by whoever checks it."""
    with path.open("xb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


def facts_of(path: Path, written: Measured) -> FileFacts:
    """The file that was written, and reads as what was written. Raises `BackupDamaged`."""
    facts = FileFacts(name=path.name, size=written.size, sha256=written.sha256)
    facts.check(path.parent)
    return facts


def sync_directory(path: Path) -> None:
    """The names in the directory are durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
