"""Data files as paths of this machine, in one directory a tenant: all that a runner of that tenant may see.

A local object store is read in place. Files of a remote one are fetched once into a cache that all processes of the
machine share; they are immutable, so a file in the cache is right for ever. What one process sees of another's work is
the file system: files appear whole, by rename, and the cache's lock is held only while room is made.
"""

import fcntl
import hashlib
import os
import time
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from catalog.readset import ReadFile
from duckmesh.kernel.errors import Unavailable
from query.errors import QueryResourcesExceeded
from storage.errors import DataFileCorrupt, ObjectNotFound
from storage.store import ObjectStore

FETCHERS = 8
ABANDONED_AFTER = 3_600.0


@dataclass(frozen=True, kw_only=True)
class LocalFiles:
    """Where the files are, in the order they were asked for, and how many of their bytes did not have to be fetched."""

    paths: tuple[str, ...]
    hit_bytes: int


class FileSource(Protocol):
    """Gives data files a place on this machine."""

    def tenant_dir(self, *, tenant_id: str) -> str:
        """The directory that holds the tenant's files and nothing else; it exists."""
        ...

    def bring(self, *, tenant_id: str, files: Sequence[ReadFile]) -> LocalFiles:
        """The files are here, and stay for as long as a query may run."""
        ...


def file_source(*, store: ObjectStore, cache_dir: Path, max_bytes: int, keep_seconds: float) -> FileSource:
    """What suits the store. A cached file is kept for `keep_seconds` after a query has asked for it."""
    if store.local_root is not None:
        return InPlace(store.local_root)
    return FileCache(store=store, directory=cache_dir, max_bytes=max_bytes, keep_seconds=keep_seconds)


def _tenant_dir(root: str, tenant_id: str) -> str:
    directory = Path(root, tenant_id)
    directory.mkdir(parents=True, exist_ok=True)
    return str(directory)


class InPlace:
    """Reads a local store's own files."""

    def __init__(self, root: Path) -> None:
        self._root = os.path.realpath(root)

    def tenant_dir(self, *, tenant_id: str) -> str:
        """The tenant's directory in the store."""
        return _tenant_dir(self._root, tenant_id)

    def bring(self, *, tenant_id: str, files: Sequence[ReadFile]) -> LocalFiles:  # noqa: ARG002 (the keys begin with it)
        """They are here already."""
        paths = tuple(f"{self._root}/{file.path}" for file in files)
        return LocalFiles(paths=paths, hit_bytes=sum(file.size_bytes for file in files))


class FileCache:
    """Keeps at most `max_bytes` of files on disk, dropping those that nobody has asked for the longest."""

    def __init__(self, *, store: ObjectStore, directory: Path, max_bytes: int, keep_seconds: float) -> None:
        self._store, self._max_bytes, self._keep_seconds = store, max_bytes, keep_seconds
        directory.mkdir(parents=True, exist_ok=True)
        self._root = os.path.realpath(directory)

    def tenant_dir(self, *, tenant_id: str) -> str:
        """The tenant's directory in the cache."""
        return _tenant_dir(self._root, tenant_id)

    def bring(self, *, tenant_id: str, files: Sequence[ReadFile]) -> LocalFiles:
        """The files are in the cache. Raises `QueryResourcesExceeded` if they never fit, `Unavailable` if not now."""
        directory = self.tenant_dir(tenant_id=tenant_id)
        wanted = {f"{directory}/{file.sha256}.parquet": file for file in files}
        missing = {path: file for path, file in wanted.items() if not _touched(path, file.size_bytes)}
        if missing:
            self._fetch_all(missing, total=sum(file.size_bytes for file in wanted.values()))
        paths = tuple(f"{directory}/{file.sha256}.parquet" for file in files)
        fetched = sum(file.size_bytes for file in missing.values())
        return LocalFiles(paths=paths, hit_bytes=sum(file.size_bytes for file in files) - fetched)

    def _fetch_all(self, missing: dict[str, ReadFile], *, total: int) -> None:
        size = sum(file.size_bytes for file in missing.values())
        if total > self._max_bytes:
            raise QueryResourcesExceeded("The statement reads more data than this machine keeps at a time.")
        with self._reserved(size), ThreadPoolExecutor(FETCHERS, thread_name_prefix="fetch") as pool:
            list(pool.map(self._fetch, missing, missing.values()))

    def _fetch(self, path: str, file: ReadFile) -> None:
        partial = Path(f"{path}.{uuid.uuid4().hex}.part")
        try:
            self._store.fetch(file.path, partial)
        except ObjectNotFound as exc:
            raise DataFileCorrupt("A data file is missing from the object store.", path=file.path) from exc
        try:
            if partial.stat().st_size != file.size_bytes or _sha256(partial) != file.sha256:
                raise DataFileCorrupt("A data file does not hold the bytes that were written.", path=file.path)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)

    @contextmanager
    def _reserved(self, size: int) -> Iterator[None]:
        """There is room for `size` more bytes, which other processes count as used."""
        claim = Path(self._root, f"{uuid.uuid4().hex}.claim")
        with Path(self._root, "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            self._make_room(size)
            with claim.open("wb") as sparse:
                sparse.truncate(size)
        try:
            yield
        finally:
            claim.unlink(missing_ok=True)

    def _make_room(self, size: int) -> None:
        now, used, idle = time.time(), size, []
        for path, stat in _entries(self._root):
            age = now - stat.st_mtime
            if path.endswith((".claim", ".part")):
                if age > ABANDONED_AFTER:
                    Path(path).unlink(missing_ok=True)
                elif path.endswith(".claim"):  # its parts are within it
                    used += stat.st_size
            elif path.endswith(".parquet"):
                used += stat.st_size
                if age > self._keep_seconds:
                    idle.append((stat.st_mtime, stat.st_size, path))
        for seen, freed, path in sorted(idle):
            if used <= self._max_bytes:
                break
            with suppress(FileNotFoundError):
                if Path(path).stat().st_mtime == seen:  # nobody has asked for it since we looked
                    Path(path).unlink()
                    used -= freed
        if used > self._max_bytes:
            raise Unavailable("The cache of data files is full of what other queries read; try again.", retry_after=2)


def _touched(path: str, size: int) -> bool:
    """Whether the file is in the cache; if so it counts as used now."""
    with suppress(FileNotFoundError):
        os.utime(path)
        return Path(path).stat().st_size == size
    return False


def _entries(root: str) -> Iterator[tuple[str, os.stat_result]]:
    for directory, _, names in os.walk(root):
        for name in names:
            path = f"{directory}/{name}"
            with suppress(FileNotFoundError):
                yield path, Path(path).stat()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
