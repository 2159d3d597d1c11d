"""Keys of objects: what may be one, and how data files are named."""

import unicodedata
from datetime import UTC, datetime
from uuid import uuid4

from storage.errors import InvalidKey
from storage.reading import GLOB_CHARACTERS

LONGEST_KEY = 900  # bytes; S3 takes 1,024, and a prefix of ours comes before it
LONGEST_SEGMENT = 255  # bytes; what file systems take

# A backslash is a separator elsewhere, and SQL that reads files by name would expand the others.
_FORBIDDEN = GLOB_CHARACTERS | {"\\"}


def normalise(key: str) -> str:
    """The one spelling of `key`: relative, in Unicode's NFC, and below the root of any store.

    Raises `InvalidKey` for what could leave the root, be read as a pattern, or have a second spelling.
    """
    key = unicodedata.normalize("NFC", key)
    try:
        encoded = key.encode()
    except UnicodeEncodeError:
        raise InvalidKey("An object key is valid Unicode text") from None
    if not 1 <= len(encoded) <= LONGEST_KEY:
        raise InvalidKey(f"An object key has 1 to {LONGEST_KEY} bytes")
    if any(c in _FORBIDDEN or unicodedata.category(c) == "Cc" for c in key):
        raise InvalidKey(r"An object key has no control characters and none of * ? [ \ ")
    for segment in key.split("/"):
        if segment in ("", ".", ".."):
            raise InvalidKey("An object key has no empty, . or .. part")
        if len(segment.encode()) > LONGEST_SEGMENT:
            raise InvalidKey(f"A part of an object key has at most {LONGEST_SEGMENT} bytes")
    return key


def data_file_key(*, tenant_id: str, table_name: str, at: datetime, snapshot_or_epoch: int, seq: int) -> str:
    """A key for a new data file, never given out before: it ends in a random UUID."""
    moment = at.astimezone(UTC)
    return normalise(
        f"{tenant_id}/{table_name}/date={moment:%Y-%m-%d}/hour={moment:%H}/"
        f"part-{snapshot_or_epoch}-{seq}-{uuid4()}.parquet"
    )
