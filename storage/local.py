"""Objects as files below one directory.

An object appears by linking a finished, synced file to its name: nobody sees half of one, the link fails if the name
is taken, and a crash leaves at most a file in the temporary directory, which is never listed. Directories are opened
one below the other without following symbolic links, so that no key leads outside the root.
"""

import errno
import os
import stat
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

from storage.errors import InvalidKey, ObjectExists, ObjectNotFound, StoreDenied, StoreOutcomeUnknown, StoreUnavailable
from storage.keys import normalise
from storage.store import Keys, ObjectInfo

TEMPORARY = ".duckmesh-tmp"

_ABANDONED_AFTER = 2 * 86_400  # seconds; no attempt to write lasts nearly as long
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_CHUNK = 2**20


class LocalStore:
    """An `ObjectStore` in the directory `root`, which is made at the first use if need be."""

    def __init__(self, *, root: Path) -> None:
        self._root = root
        self._made = False

    @property
    def local_root(self) -> Path | None:
        return self._root

    def put(self, key: str, data: bytes) -> ObjectInfo:
        key = _checked(key)
        with self._temporary() as temporary:
            _write_synced(temporary, iter([data]))
            return self._publish(temporary, key)

    def put_file(self, key: str, path: Path) -> ObjectInfo:
        key, path = _checked(key), path.resolve()
        with _answered(key):
            moved = path.stat().st_dev == self._opened_root().stat().st_dev
        if moved:
            with _answered(key):
                _sync(path)
            info = self._publish(path, key)
        else:
            with self._temporary() as temporary:
                with _answered(key), path.open("rb") as source:
                    _write_synced(temporary, iter(lambda: source.read(_CHUNK), b""))
                info = self._publish(temporary, key)
        with suppress(OSError):  # the object is published; a name too many for its bytes harms nobody
            path.unlink()
        return info

    def get(self, key: str) -> bytes:
        with self._opened(key) as file, _answered(key), os.fdopen(os.dup(file), "rb") as source:
            return source.read()

    def get_range(self, key: str, start: int, length: int) -> bytes:
        with self._opened(key) as file, _answered(key), os.fdopen(os.dup(file), "rb") as source:
            source.seek(start)
            return source.read(length)

    def fetch(self, key: str, path: Path) -> None:
        partial = path.with_name(f"{path.name}.{uuid4()}.part")
        with self._opened(key) as file, _answered(key), os.fdopen(os.dup(file), "rb") as source:
            try:
                _write_synced(partial, iter(lambda: source.read(_CHUNK), b""))
                partial.replace(path)
            finally:
                partial.unlink(missing_ok=True)

    def stat(self, key: str) -> ObjectInfo:
        with self._opened(key) as file:
            return _info(normalise(key), os.fstat(file))

    def list(self, prefix: str, *, after: str = "") -> Iterator[ObjectInfo]:
        parent, slash, rest = prefix.rpartition("/")
        if slash:
            parent = normalise(parent)
        with _answered("The object store's directory"):
            here = self._opened_root() / parent
        if any(
            place.is_symlink()
            for place in (here, *here.parents)
            if place.is_relative_to(self._root) and place != self._root
        ):
            return
        with _answered("The object store's directory"):
            self._root.stat()  # a root that is gone is no empty store
            yield from self._walk(here, f"{parent}/" if parent else "", rest, os.fsencode(after))

    def delete_many(self, keys: Iterable[str]) -> Keys:
        failed: Keys = []
        parents: set[Path] = set()
        for key in keys:
            checked = _checked(key)
            try:
                with self._directory(checked, make=False) as (directory, name):
                    os.unlink(name, dir_fd=directory)
            except (ObjectNotFound, FileNotFoundError):
                continue
            except OSError:
                failed.append(key)
            parents.update(Path(checked).parents)
        # An emptied directory goes; whoever puts a file into it at this moment makes it anew.
        for parent in sorted(parents, key=lambda path: len(path.parts), reverse=True):
            if parent.parts:
                with suppress(OSError):
                    (self._root / parent).rmdir()
        return failed

    def ping(self) -> None:
        with self._temporary() as temporary, _answered("The object store's directory"):
            temporary.write_bytes(b"")

    def _publish(self, source: Path, key: str) -> ObjectInfo:
        """Link the finished file `source` to the object's name."""
        for _ in range(10):
            try:
                with self._directory(key, make=True) as (directory, name):
                    os.link(source, name, dst_dir_fd=directory, follow_symlinks=False)
                    return _settled(key, directory, name)
            except FileExistsError:
                raise ObjectExists("An object of this key exists", key=key) from None
            except (ObjectNotFound, FileNotFoundError):
                continue  # a deletion took the emptied directory away from under us
            except OSError as exc:
                raise _error(exc, key) from exc
        raise StoreUnavailable("The object's directory was taken away again and again", key=key)

    @contextmanager
    def _directory(self, key: str, *, make: bool) -> Iterator[tuple[int, str]]:
        """A descriptor of the directory that holds the object, and the object's name in it."""
        *parents, name = key.split("/")
        with _answered("The object store's directory"):
            descriptor = os.open(self._opened_root(), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for parent in parents:
                below = _enter(descriptor, parent, key, make=make)
                os.close(descriptor)
                descriptor = below
            yield descriptor, name
        finally:
            os.close(descriptor)

    @contextmanager
    def _opened(self, key: str) -> Iterator[int]:
        """A descriptor of the object's file."""
        key = _checked(key)
        with _answered(key), self._directory(key, make=False) as (directory, name):
            try:
                file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
            except OSError as exc:
                if exc.errno in (errno.ENOENT, errno.ELOOP, errno.ENXIO):
                    raise ObjectNotFound("There is no object of this key", key=key) from None
                raise
        try:
            if not stat.S_ISREG(os.fstat(file).st_mode):
                raise ObjectNotFound("There is no object of this key", key=key)
            yield file
        finally:
            os.close(file)

    def _walk(self, directory: Path, base: str, begins: str, after: bytes) -> Iterator[ObjectInfo]:
        # A directory sorts as its name and a slash: as the keys below it do.
        found: list[tuple[bytes, os.DirEntry[str]]] = []
        with suppress(FileNotFoundError, NotADirectoryError), os.scandir(directory) as entries:
            for entry in entries:
                if entry.name.startswith(begins) and not (base == "" and entry.name == TEMPORARY):
                    below = "/" if entry.is_dir(follow_symlinks=False) else ""
                    key = os.fsencode(base + entry.name + below)
                    if key > after or (below and after.startswith(key)):
                        found.append((key, entry))
        for _, entry in sorted(found, key=lambda pair: pair[0]):
            if entry.is_dir(follow_symlinks=False):
                yield from self._walk(directory / entry.name, f"{base}{entry.name}/", "", after)
            elif entry.is_file(follow_symlinks=False):
                with suppress(FileNotFoundError):
                    yield _info(base + entry.name, entry.stat(follow_symlinks=False))

    @contextmanager
    def _temporary(self) -> Iterator[Path]:
        path = self._root / TEMPORARY / str(uuid4())
        try:
            self._opened_root()
            path.parent.mkdir(exist_ok=True)
            yield path
        except OSError as exc:
            raise _error(exc, "The object store's directory") from exc
        finally:
            with suppress(OSError):
                path.unlink(missing_ok=True)

    def _opened_root(self) -> Path:
        """The root; the first time, it is made. Not before: whoever needs no object needs no disk that answers."""
        if not self._made:
            (self._root / TEMPORARY).mkdir(parents=True, exist_ok=True)
            self._sweep()
            self._made = True
        return self._root

    def _sweep(self) -> None:
        """Remove what writers that died long ago have left."""
        with os.scandir(self._root / TEMPORARY) as entries:
            for entry in entries:
                with suppress(OSError):
                    if entry.stat(follow_symlinks=False).st_mtime < time.time() - _ABANDONED_AFTER:
                        Path(entry.path).unlink()


def _checked(key: str) -> str:
    key = normalise(key)
    if key.split("/")[0] == TEMPORARY:
        raise InvalidKey("This key is the store's own")
    return key


def _enter(above: int, name: str, key: str, *, make: bool) -> int:
    for _ in range(10):
        try:
            return os.open(name, _DIRECTORY, dir_fd=above)
        except FileNotFoundError:
            if not make:
                raise ObjectNotFound("There is no object of this key", key=key) from None
        except OSError as exc:
            if exc.errno not in (errno.ENOTDIR, errno.ELOOP):
                raise
            if make:
                raise InvalidKey("A part of this key names an object, not a directory", key=key) from None
            raise ObjectNotFound("There is no object of this key", key=key) from None
        with suppress(FileExistsError):
            os.mkdir(name, dir_fd=above)
        os.fsync(above)
    raise ObjectNotFound("The object's directory was taken away", key=key)


def _settled(key: str, directory: int, name: str) -> ObjectInfo:
    """The new name is durable."""
    try:
        os.fsync(directory)
        return _info(key, os.stat(name, dir_fd=directory, follow_symlinks=False))
    except OSError as exc:
        raise StoreOutcomeUnknown("The object's name may not be durable", key=key) from exc


def _info(key: str, status: os.stat_result) -> ObjectInfo:
    return ObjectInfo(key=key, size=status.st_size, modified=datetime.fromtimestamp(status.st_mtime, UTC))


def _write_synced(path: Path, chunks: Iterator[bytes]) -> None:
    with path.open("xb") as file:
        for chunk in chunks:
            file.write(chunk)
        file.flush()
        os.fsync(file.fileno())


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


@contextmanager
def _answered(what: str) -> Iterator[None]:
    """Errors of the operating system become the store's."""
    try:
        yield
    except OSError as exc:
        raise _error(exc, what) from exc


def _error(exc: OSError, what: str) -> StoreDenied | StoreUnavailable:
    reason = f"{what}: {exc.strerror or 'input or output failed'}"
    if exc.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return StoreDenied(reason)
    return StoreUnavailable(reason)
