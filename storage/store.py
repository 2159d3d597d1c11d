"""What every object store can do. Objects are immutable: written once under a key of their own, never overwritten."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol

# A name of its own: inside the stores `list` is a method.
Keys = list[str]


@dataclass(frozen=True, kw_only=True)
class ObjectInfo:
    """An object as the store lists it. `modified` is the store's clock: no age that permits a deletion."""

    key: str
    size: int
    modified: datetime


class ObjectStore(Protocol):
    """Bytes under keys. Every method raises the errors of `storage.errors` and no others.

    A store may be used by several threads at once, and by a process forked from the one that opened it.
    """

    @property
    def local_root(self) -> Path | None:
        """The directory below which objects can be read in place, each at its key; None if they must be fetched."""

    def put(self, key: str, data: bytes) -> ObjectInfo:
        """The object exists, durably and whole; `ObjectExists` if the key was taken.

        `StoreUnavailable` means that it does not exist, `StoreOutcomeUnknown` that it may. Keys are unique per
        attempt: some S3 services let several of those who put one key at the same instant succeed.
        """

    def put_file(self, key: str, path: Path) -> ObjectInfo:
        """As `put`, with the bytes of the file, which is the store's from then on: it is gone from `path`.

        After an error the file is still there, unless the error was `StoreOutcomeUnknown`.
        """

    def get(self, key: str) -> bytes:
        """The object's bytes, or `ObjectNotFound`."""

    def get_range(self, key: str, start: int, length: int) -> bytes:
        """At most `length` of the object's bytes from `start`; fewer only where the object ends."""

    def fetch(self, key: str, path: Path) -> None:
        """The object's bytes are in the file `path`, whole, or there is no new file."""

    def stat(self, key: str) -> ObjectInfo:
        """Size and time of the object, or `ObjectNotFound`."""

    def list(self, prefix: str, *, after: str = "") -> Iterator[ObjectInfo]:
        """The objects whose keys begin with `prefix`, in the order of the keys' bytes, a page at a time.

        With `after`, those whose keys come behind it in that order; whether it is an object's key does not matter.
        """

    def delete_many(self, keys: Iterable[str]) -> Keys:
        """The objects are gone; returns the keys that could not be deleted. A key without object is no failure."""

    def ping(self) -> None:
        """The store answers and takes our credentials, or an error says which of them is wrong."""
