"""Backups are encrypted with age (age-encryption.org), as streams: nothing of them is held in memory."""

import shutil
from dataclasses import dataclass, field
from typing import Protocol

from pyrage import DecryptError, IdentityError, RecipientError, decrypt_io, encrypt_io, x25519

from maintenance.backup.errors import BackupKeyInvalid, BackupKeyWrong

SUFFIX = ".age"


class Readable(Protocol):
    """What gives bytes."""

    def read(self, size: int = -1, /) -> bytes: ...


class Writable(Protocol):
    """What takes bytes."""

    def write(self, data: bytes, /) -> int: ...

    def flush(self) -> None: ...


@dataclass(frozen=True, kw_only=True)
class BackupKey:
    """Whoever has the `identity` can read what is encrypted for the `recipient`."""

    recipient: x25519.Recipient
    identity: x25519.Identity | None = field(repr=False)


def backup_key(text: str) -> BackupKey | None:
    """The key that the setting holds; None if it is empty. Raises `BackupKeyInvalid`."""
    text = text.strip()
    if not text:
        return None
    try:
        if text.startswith("age1"):
            return BackupKey(recipient=x25519.Recipient.from_str(text), identity=None)
        identity = x25519.Identity.from_str(text)
    except (IdentityError, RecipientError, ValueError):
        raise BackupKeyInvalid(
            "DUCKMESH_BACKUP_KEY needs a key of age: AGE-SECRET-KEY-1… or age1…; docs/backup.md says how to make one."
        ) from None
    return BackupKey(recipient=identity.to_public(), identity=identity)


def seal(source: Readable, target: Writable, *, key: BackupKey | None) -> None:
    """The rest of `source` is in `target`, encrypted if there is a key."""
    if key is None:
        shutil.copyfileobj(source, target, 2**20)
    else:
        encrypt_io(source, target, [key.recipient])


def unseal(source: Readable, target: Writable, *, key: BackupKey | None, encrypted: bool) -> None:
    """The rest of `source` is in `target` as it was before it was sealed. Raises `BackupKeyWrong`."""
    if not encrypted:
        shutil.copyfileobj(source, target, 2**20)
        return
    if key is None or key.identity is None:
        raise BackupKeyWrong("The backup is encrypted: set DUCKMESH_BACKUP_KEY to its AGE-SECRET-KEY-1….")
    try:
        decrypt_io(source, target, [key.identity])
    except DecryptError:
        raise BackupKeyWrong("DUCKMESH_BACKUP_KEY does not open the backup.") from None
