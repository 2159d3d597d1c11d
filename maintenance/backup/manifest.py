"""What a backup holds. The manifest is written last: a backup without a whole one was never finished."""

import hashlib
import json
from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import IO

from pydantic import BaseModel, ConfigDict, ValidationError

from maintenance.backup.errors import BackupDamaged
from maintenance.backup.files import FileFacts, new_file, sync_directory

MANIFEST = "manifest.json"
FORMAT = 1


class BackupObject(BaseModel):
    """An object of the store that the dump's catalog names. `sha256` is null until a staged payload was read."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    key: str
    size: int
    sha256: str | None


class Manifest(BaseModel):
    """A backup. `dumped_at` is the instant that the dump is of, by the database's clock.

    `migrations` are those that it has. `contents` lists the files in the directory's `objects` that hold its objects;
    without data there are none.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: int = FORMAT
    name: str
    dumped_at: datetime
    catalog_id: str
    incarnation: int
    migrations: tuple[str, ...]
    encrypted: bool
    object_count: int
    object_bytes: int
    dump: FileFacts
    objects: FileFacts
    contents: FileFacts | None


def write_manifest(directory: Path, manifest: Manifest) -> None:
    """The backup in the directory is whole."""
    body = manifest.model_dump(mode="json")
    draft = directory / f"{MANIFEST}.draft"
    with new_file(draft) as file:
        file.write(json.dumps({**body, "sha256": _digest(body)}, indent=1).encode() + b"\n")
    draft.rename(directory / MANIFEST)
    sync_directory(directory)


def read_manifest(directory: Path) -> Manifest:
    """What the backup in the directory holds. Raises `BackupDamaged` for a manifest that is not as it was written."""
    try:
        body = json.loads((directory / MANIFEST).read_bytes())
        told = body.pop("sha256")
        manifest = Manifest.model_validate(body)
    except (OSError, ValueError, KeyError, AttributeError, TypeError, ValidationError):
        raise BackupDamaged("The backup's manifest cannot be read.", file=MANIFEST) from None
    if told != _digest(body):
        raise BackupDamaged("The backup's manifest is not what was written.", file=MANIFEST)
    if manifest.format != FORMAT:
        raise BackupDamaged("The backup is of another format.", file=MANIFEST, format=manifest.format)
    return manifest


def write_objects(target: IO[bytes], objects: Iterable[BackupObject]) -> None:
    """One line for each object, in the order of the keys."""
    for each in objects:
        target.write(each.model_dump_json().encode() + b"\n")


def read_objects(source: IO[bytes]) -> Iterator[BackupObject]:
    """What `write_objects` has written."""
    for line in source:
        yield BackupObject.model_validate_json(line)


def _digest(body: dict[str, object]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
