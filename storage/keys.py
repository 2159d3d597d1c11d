"""Keys of objects: what may be one, and how data files are named."""

import json
import unicodedata
from collections.abc import Mapping
from datetime import UTC, datetime
from types import MappingProxyType
from urllib.parse import quote
from uuid import uuid4

from duckmesh.kernel.errors import JSON
from storage.errors import InvalidKey
from storage.reading import GLOB_CHARACTERS

LONGEST_KEY = 900  # bytes; S3 takes 1,024, and a prefix of ours comes before it
LONGEST_SEGMENT = 255  # bytes; what file systems take

_LONGEST_PART = 120
_LONGEST_PARTITION = 270  # the catalog keeps 500 characters: two names of 63, and 85 for the file
_NULL = "__HIVE_DEFAULT_PARTITION__"  # what other engines read as null
_UNDIVIDED: Mapping[str, JSON] = MappingProxyType({})

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


def data_file_key(
    *,
    tenant_id: str,
    table_name: str,
    at: datetime,
    snapshot_or_epoch: int,
    seq: int,
    partition: Mapping[str, JSON] = _UNDIVIDED,
) -> str:
    """A key for a new data file, never given out before: it ends in a random UUID.

    The directories before it tell the partition or, without one, the hour of publishing. They are for people: long
    values are cut, and of a partition of many fields the last may be left out.
    """
    moment = at.astimezone(UTC)
    parts = _partition_parts(partition) if partition else [f"date={moment:%Y-%m-%d}", f"hour={moment:%H}"]
    name = f"part-{snapshot_or_epoch}-{seq}-{uuid4()}.parquet"
    return normalise("/".join([tenant_id, table_name, *parts, name]))


def _partition_parts(partition: Mapping[str, JSON]) -> list[str]:
    parts: list[str] = []
    for name, value in partition.items():
        part = f"{_escaped(name)}={_spelled(value)}"[:_LONGEST_PART]
        # Half an escape at the end would not be one.
        part = part.removesuffix(part[-2:] if part[-2:-1] == "%" else "%")
        if sum(map(len, parts)) + len(part) > _LONGEST_PARTITION:
            break
        parts.append(part)
    return parts


def _spelled(value: JSON) -> str:
    if value is None:
        return _NULL
    if isinstance(value, dict):  # what stands for a value that is too long
        return "-".join(_spelled(item) for item in value.values())
    text = value if isinstance(value, str) else json.dumps(value)
    return _escaped(text).replace("_", "%5F", 1) if text.startswith(_NULL) else _escaped(text)


def _escaped(text: str) -> str:
    """Letters, digits, `-`, `_` and `.` of ASCII stay; of all else the bytes of UTF-8, as in a URL."""
    return quote(text, safe="").replace("~", "%7E")
