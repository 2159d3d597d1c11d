"""Data files as paths of this machine, in one directory a tenant: all that a runner of that tenant may see.

A local object store is read in place. Files of a remote one are fetched once into a cache that all processes of the
machine share: whoever comes first fetches it, the others wait for it. What one process sees of another's work is the
file system: files appear whole, by rename, after their size and SHA-256 were found right; a lock is held on each while
it is fetched, and one on all only while room is made.

Disks lose bytes, and people edit files. So every process hashes an entry when it first meets it and when it has changed
since; one that is no longer what was written is reported and fetched anew. The time of access is when an entry was last
asked for, the time of modification is left alone.
"""

import fcntl
import os
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from catalog.readset import ReadFile
from duckmesh.kernel import metrics
from duckmesh.kernel.errors import Unavailable
from query.errors import QueryResourcesExceeded, QueryTimeout
from storage.errors import DataFileCorrupt, ObjectNotFound
from storage.parquet import sha256_of
from storage.store import ObjectStore

FETCHERS = 8
ABANDONED_AFTER = 3_600.0
LOCK_POLL = 0.01
MAX_REMEMBERED = 100_000
NEVER = float("inf")

OnDamage = Callable[[str, ReadFile, str], None]
Identity = tuple[int, int, int]  # of an entry that was found right: inode, time of modification, size


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

    def bring(self, *, tenant_id: str, files: Sequence[ReadFile], deadline: float = NEVER) -> LocalFiles:
        """The files are here by the deadline (`time.monotonic()`), and stay for as long as a query may run."""
        ...


@dataclass(frozen=True, kw_only=True)
class CacheSettings:
    """Where the cache is, how much it may hold, and how long a file stays after a query has asked for it.

    `on_damage` hears of entries that were no longer what had been written: of the tenant, the file and what was wrong.
    """

    directory: Path
    max_bytes: int
    keep_seconds: float
    on_damage: OnDamage


def file_source(*, store: ObjectStore, cache: CacheSettings) -> FileSource:
    """What suits the store."""
    return InPlace(store.local_root) if store.local_root is not None else FileCache(store=store, settings=cache)


def _tenant_dir(root: str, tenant_id: str) -> str:
    directory = Path(root, tenant_id)
    if not directory.is_dir():  # every query asks, and making what is there costs an exception
        directory.mkdir(parents=True, exist_ok=True)
    return str(directory)


class InPlace:
    """Reads a local store's own files."""

    def __init__(self, root: Path) -> None:
        self._root = os.path.realpath(root)

    def tenant_dir(self, *, tenant_id: str) -> str:
        """The tenant's directory in the store."""
        return _tenant_dir(self._root, tenant_id)

    def bring(
        self,
        *,
        tenant_id: str,  # noqa: ARG002 (the keys begin with it)
        files: Sequence[ReadFile],
        deadline: float = NEVER,  # noqa: ARG002 (nothing takes time)
    ) -> LocalFiles:
        """They are here already."""
        paths = tuple(f"{self._root}/{file.path}" for file in files)
        return LocalFiles(paths=paths, hit_bytes=sum(file.size_bytes for file in files))


@dataclass(frozen=True, kw_only=True)
class _Brought:
    """Whether a file was fetched, and what was wrong with the entry that was there."""

    fetched: bool
    damage: str


class FileCache:
    """Keeps at most `max_bytes` of files on disk, dropping those that nobody has asked for the longest."""

    def __init__(self, *, store: ObjectStore, settings: CacheSettings) -> None:
        self._store, self._settings = store, settings
        self._root = os.path.realpath(settings.directory)
        Path(self._root, "locks").mkdir(parents=True, exist_ok=True)
        self._sound: dict[str, Identity] = {}

    def tenant_dir(self, *, tenant_id: str) -> str:
        """The tenant's directory in the cache."""
        return _tenant_dir(self._root, f"files/{tenant_id}")

    def bring(self, *, tenant_id: str, files: Sequence[ReadFile], deadline: float = NEVER) -> LocalFiles:
        """The files are in the cache.

        Raises `QueryResourcesExceeded` if they never fit, `Unavailable` if not now, and `QueryTimeout` at the deadline;
        what is being fetched then goes on, for whoever asks next.
        """
        directory = self.tenant_dir(tenant_id=tenant_id)
        wanted = {f"{directory}/{file.sha256}.parquet": file for file in files}
        missing = {path: file for path, file in wanted.items() if not self._held(path, file)}
        if missing:
            if sum(file.size_bytes for file in wanted.values()) > self._settings.max_bytes:
                raise QueryResourcesExceeded("The statement reads more data than this machine keeps at a time.")
            missing = self._bring_all(tenant_id, missing, deadline)
        total, fetched = (sum(file.size_bytes for file in some.values()) for some in (wanted, missing))
        for outcome, count, size in [
            ("miss", len(missing), fetched),
            ("hit", len(wanted) - len(missing), total - fetched),
        ]:
            metrics.query_cache_files.labels(outcome=outcome).inc(count)
            metrics.query_cache_bytes.labels(outcome=outcome).inc(size)
        paths = tuple(f"{directory}/{file.sha256}.parquet" for file in files)
        return LocalFiles(paths=paths, hit_bytes=total - fetched)

    def _held(self, path: str, file: ReadFile) -> bool:
        """Whether this process knows the entry to be right as it is now; if so it counts as used now."""
        identity = _touched(path)
        return identity is not None and identity == self._sound.get(path) and identity[2] == file.size_bytes

    def _bring_all(self, tenant_id: str, missing: dict[str, ReadFile], deadline: float) -> dict[str, ReadFile]:
        """All of the files are there and right; those that had to be fetched for it."""
        claims = self._reserve({path: file for path, file in missing.items() if not Path(path).exists()})
        fetchers = ThreadPoolExecutor(min(FETCHERS, len(missing)), thread_name_prefix="fetch")
        running = [
            fetchers.submit(self._bring, path, file, claims.get(path), deadline) for path, file in missing.items()
        ]
        _, late = wait(running, timeout=None if deadline == NEVER else max(deadline - time.monotonic(), 0))
        fetchers.shutdown(wait=False, cancel_futures=True)
        for path, future in zip(missing, running, strict=True):
            if future.cancelled() and path in claims:
                claims[path].unlink(missing_ok=True)
        if late:
            raise QueryTimeout("The query was stopped at its deadline, while its files were being fetched.")
        fetched = {}
        for (path, file), future in zip(missing.items(), running, strict=True):
            brought = future.result()
            if brought.fetched:
                fetched[path] = file
            if brought.damage:
                metrics.query_cache_damaged.labels(reason=brought.damage).inc()
                self._settings.on_damage(tenant_id, file, brought.damage)
        return fetched

    def _bring(self, path: str, file: ReadFile, claim: Path | None, deadline: float) -> "_Brought":
        """The entry is there and right."""
        try:
            with _locked(Path(self._root, "locks", file.sha256[:2]), deadline):
                damage = ""
                if (identity := _touched(path)) is not None:
                    damage = _damage(Path(path), file)
                    if damage:
                        Path(path).unlink(missing_ok=True)
                fetched = identity is None or damage != ""
                if fetched:
                    self._fetch(path, file)
                    identity = _touched(path)
                if len(self._sound) >= MAX_REMEMBERED:
                    self._sound.clear()
                if identity is not None:
                    self._sound[path] = identity
                return _Brought(fetched=fetched, damage=damage)
        finally:
            if claim is not None:
                claim.unlink(missing_ok=True)

    def _fetch(self, path: str, file: ReadFile) -> None:
        partial = Path(f"{path}.{uuid.uuid4().hex}.part")
        try:
            self._store.fetch(file.path, partial)
            if _damage(partial, file):
                raise DataFileCorrupt("A data file does not hold the bytes that were written.", path=file.path)
            partial.replace(path)
        except ObjectNotFound as exc:
            raise DataFileCorrupt("A data file is missing from the object store.", path=file.path) from exc
        finally:
            partial.unlink(missing_ok=True)

    def _reserve(self, missing: dict[str, ReadFile]) -> dict[str, Path]:
        """There is room for the files, which all processes count as used: by a claim of each one's size."""
        # Two processes that fetch the same file share its claim, which goes when the first of them is done with it.
        claims = {path: Path(f"{path}.claim") for path in missing}
        with Path(self._root, "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            fresh = [path for path, claim in claims.items() if not claim.exists()]
            self._make_room(sum(missing[path].size_bytes for path in fresh))
            for path in fresh:
                with claims[path].open("wb") as sparse:
                    sparse.truncate(missing[path].size_bytes)
        return claims

    def _make_room(self, size: int) -> None:
        now, used, idle = time.time(), size, []
        for path, stat in _entries(self._root):
            age = now - stat.st_atime
            if path.endswith((".claim", ".part")):
                if age > ABANDONED_AFTER:
                    Path(path).unlink(missing_ok=True)
                elif path.endswith(".claim"):  # its parts are within it
                    used += stat.st_size
            elif path.endswith(".parquet"):
                used += stat.st_size
                if age > self._settings.keep_seconds:
                    idle.append((stat.st_atime, stat.st_size, path))
        for seen, freed, path in sorted(idle):
            if used <= self._settings.max_bytes:
                break
            with suppress(FileNotFoundError):
                if Path(path).stat().st_atime == seen:  # nobody has asked for it since we looked
                    Path(path).unlink()
                    used -= freed
        if used > self._settings.max_bytes:
            raise Unavailable("The cache of data files is full of what other queries read; try again.", retry_after=2)


def _touched(path: str) -> Identity | None:
    """What tells this entry from what it may become, or None if there is none; it counts as used now."""
    with suppress(FileNotFoundError):
        stat = Path(path).stat()
        os.utime(path, ns=(time.time_ns(), stat.st_mtime_ns))
        return stat.st_ino, stat.st_mtime_ns, stat.st_size
    return None


def _damage(path: Path, file: ReadFile) -> str:
    """What is wrong with the bytes at `path`; empty if they are the file's."""
    if path.stat().st_size != file.size_bytes:
        return "size"
    return "" if sha256_of(path) == file.sha256 else "checksum"


@contextmanager
def _locked(path: Path, deadline: float) -> Iterator[None]:
    """No other thread of this machine holds the lock. Raises `QueryTimeout` if it is not to be had by the deadline."""
    with path.open("w") as lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise QueryTimeout("The query was stopped at its deadline, while it waited for a file.") from None
                time.sleep(LOCK_POLL)
        yield


def _entries(root: str) -> Iterator[tuple[str, os.stat_result]]:
    for directory, _, names in os.walk(root):
        for name in names:
            path = f"{directory}/{name}"
            with suppress(FileNotFoundError):
                yield path, Path(path).stat()
