"""The cache of a remote store's files: right, bounded, shared; and a local store read in place."""

import hashlib
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from catalog.readset import ReadFile
from duckmesh.kernel.errors import Unavailable
from query.cache import CacheSettings, FileSource, InPlace, file_source
from query.errors import QueryResourcesExceeded, QueryTimeout
from storage.errors import DataFileCorrupt
from storage.local import LocalStore
from tests.together import together


class RemoteStore(LocalStore):
    """A store whose objects must be fetched; it counts how often they are."""

    fetches = 0

    @property
    def local_root(self) -> Path | None:
        return None

    def fetch(self, key: str, path: Path) -> None:
        self.fetches += 1
        super().fetch(key, path)


class SlowStore(RemoteStore):
    """A store that takes its time."""

    seconds = 1.0

    def fetch(self, key: str, path: Path) -> None:
        time.sleep(self.seconds)
        super().fetch(key, path)


@pytest.fixture
def store(tmp_path: Path) -> RemoteStore:
    return RemoteStore(root=tmp_path / "store")


@pytest.fixture
def cache(store: RemoteStore, tmp_path: Path) -> Callable[[int], FileSource]:
    """Makes another process's view of the one cache, with this bound."""
    return lambda max_bytes: file_source(store=store, cache=settings(tmp_path / "cache", max_bytes))


def settings(directory: Path, max_bytes: int, heard: list[tuple[str, str, str]] | None = None) -> CacheSettings:
    """A cache of this size; `heard` hears of damage."""
    told = [] if heard is None else heard
    return CacheSettings(
        directory=directory,
        max_bytes=max_bytes,
        keep_seconds=60,
        on_damage=lambda tenant, file, reason: told.append((tenant, file.path, reason)),
    )


def make_object(store: LocalStore, name: str, size: int = 100, *, tenant_id: str = "acme") -> ReadFile:
    data = (name * size).encode()[:size]
    key = f"{tenant_id}/{name}.parquet"
    store.put(key, data)
    return ReadFile(path=key, row_count=1, size_bytes=size, sha256=hashlib.sha256(data).hexdigest(), schema_version=1)


def age(path: str) -> None:
    """Nobody has asked for the file for longer than any query runs."""
    long_ago = time.time() - 61
    os.utime(path, (long_ago, long_ago))


def left_overs(root: Path) -> list[str]:
    return [path.name for path in root.rglob("*") if path.suffix in (".part", ".claim")]


def test_file_is_fetched_once_into_its_tenants_directory(
    store: RemoteStore, cache: Callable[[int], FileSource], tmp_path: Path
) -> None:
    files = [make_object(store, name) for name in ("a", "b")]
    first = cache(1_000).bring(tenant_id="acme", files=files)
    assert [Path(path).read_bytes()[:1] for path in first.paths] == [b"a", b"b"]
    assert first.hit_bytes == 0
    again = cache(1_000).bring(tenant_id="acme", files=[files[1], files[0]])
    assert again.paths == first.paths[::-1]
    assert again.hit_bytes == 200
    assert store.fetches == 2
    assert {str(Path(path).parent) for path in first.paths} == {cache(1_000).tenant_dir(tenant_id="acme")}
    cache(1_000).bring(tenant_id="other", files=files[:1])
    assert store.fetches == 3, "no tenant learns from the cache what another has"
    assert left_overs(tmp_path) == []


@pytest.mark.parametrize("kind", [RemoteStore, LocalStore])
def test_what_a_tenants_statements_may_open_holds_no_file_of_another(kind: type[LocalStore], tmp_path: Path) -> None:
    store = kind(root=tmp_path / "store")
    source = file_source(store=store, cache=settings(tmp_path / "cache", 1_000))
    places = {}
    for tenant_id in ("acme", "acme-2"):
        file = make_object(store, "a", tenant_id=tenant_id)
        (path,) = source.bring(tenant_id=tenant_id, files=[file]).paths
        places[tenant_id] = (Path(source.tenant_dir(tenant_id=tenant_id)), Path(path))
    (first, one), (second, another) = places.values()
    assert first in one.parents and second in another.parents
    assert first not in another.parents and second not in one.parents


def test_damaged_or_missing_object_never_enters_the_cache(
    store: RemoteStore, cache: Callable[[int], FileSource], tmp_path: Path
) -> None:
    good = make_object(store, "a")
    missing = ReadFile(path="acme/none.parquet", row_count=1, size_bytes=1, sha256="0" * 64, schema_version=1)
    longer = ReadFile(path=good.path, row_count=1, size_bytes=99, sha256=good.sha256, schema_version=1)
    other = ReadFile(path=good.path, row_count=1, size_bytes=100, sha256="1" * 64, schema_version=1)
    for bad in (missing, longer, other):
        with pytest.raises(DataFileCorrupt):
            cache(1_000).bring(tenant_id="acme", files=[bad])
    assert list((tmp_path / "cache").rglob("*.parquet")) == []
    assert left_overs(tmp_path) == []


@pytest.mark.parametrize(("found", "reason"), [(b"a", "size"), (b"b" * 100, "checksum")])
def test_damaged_entry_is_fetched_again_and_reported(
    store: RemoteStore, tmp_path: Path, found: bytes, reason: str
) -> None:
    heard: list[tuple[str, str, str]] = []
    file = make_object(store, "a")
    used = settings(tmp_path / "cache", 1_000, heard)
    first, restarted = (file_source(store=store, cache=used) for _ in range(2))
    (path,) = first.bring(tenant_id="acme", files=[file]).paths
    for source in (first, restarted):
        Path(path).write_bytes(found)
        local = source.bring(tenant_id="acme", files=[file])
        assert (local.paths, local.hit_bytes) == ((path,), 0)
        assert Path(path).read_bytes() == b"a" * 100
    assert heard == [("acme", file.path, reason)] * 2


def test_entry_survives_a_restart_and_is_checked_once(store: RemoteStore, cache: Callable[[int], FileSource]) -> None:
    file = make_object(store, "a")
    cache(1_000).bring(tenant_id="acme", files=[file])
    restarted = cache(1_000)
    for _ in range(2):
        restarted.bring(tenant_id="acme", files=[file])
    assert restarted.bring(tenant_id="acme", files=[file]).hit_bytes == 100
    assert store.fetches == 1


def test_those_who_want_a_file_at_once_fetch_it_once(
    store: RemoteStore, cache: Callable[[int], FileSource], tmp_path: Path
) -> None:
    files = [make_object(store, f"file{number}", 10_000) for number in range(5)]
    sources = [cache(100_000) for _ in range(4)]
    together([lambda source=source: source.bring(tenant_id="acme", files=files) for source in sources * 2])
    assert store.fetches == 5
    assert left_overs(tmp_path) == []


def test_query_does_not_wait_for_files_beyond_its_deadline(tmp_path: Path) -> None:
    store = SlowStore(root=tmp_path / "store")
    source = file_source(store=store, cache=settings(tmp_path / "cache", 1_000))
    file = make_object(store, "a")
    began = time.monotonic()
    with pytest.raises(QueryTimeout):
        source.bring(tenant_id="acme", files=[file], deadline=began + 0.05)
    assert time.monotonic() - began < SlowStore.seconds
    assert source.bring(tenant_id="acme", files=[file], deadline=began + 20).paths
    assert store.fetches == 1, "what was being fetched goes on"
    assert left_overs(tmp_path) == []


def test_file_nobody_asked_for_the_longest_makes_room(store: RemoteStore, cache: Callable[[int], FileSource]) -> None:
    files = [make_object(store, name) for name in ("a", "b", "c")]
    source = cache(250)
    paths = [source.bring(tenant_id="acme", files=[file]).paths[0] for file in files[:2]]
    for path in paths:
        age(path)
    source.bring(tenant_id="acme", files=[files[0]])
    source.bring(tenant_id="acme", files=[files[2]])
    assert [Path(path).exists() for path in paths] == [True, False]


def test_what_other_queries_may_be_reading_is_not_dropped(
    store: RemoteStore, cache: Callable[[int], FileSource], tmp_path: Path
) -> None:
    files = [make_object(store, name) for name in ("a", "b", "c")]
    source = cache(250)
    source.bring(tenant_id="acme", files=files[:2])
    with pytest.raises(Unavailable):
        source.bring(tenant_id="acme", files=files[2:])
    with pytest.raises(QueryResourcesExceeded):
        source.bring(tenant_id="acme", files=files)
    assert left_overs(tmp_path) == []
    assert source.bring(tenant_id="acme", files=files[:2]).hit_bytes == 200


def test_readers_at_once_see_whole_files(
    store: RemoteStore, cache: Callable[[int], FileSource], tmp_path: Path
) -> None:
    files = [make_object(store, f"file{number}", 10_000) for number in range(5)]

    def read() -> set[str]:
        paths = cache(10**6).bring(tenant_id="acme", files=files).paths
        return {hashlib.sha256(Path(path).read_bytes()).hexdigest() for path in paths}

    assert together([read] * 8) == [{file.sha256 for file in files}] * 8
    assert left_overs(tmp_path) == []


def test_local_store_is_read_in_place(tmp_path: Path) -> None:
    store = LocalStore(root=tmp_path / "store")
    file = make_object(store, "a")
    source = file_source(store=store, cache=settings(tmp_path / "cache", 1))
    assert isinstance(source, InPlace)
    local = source.bring(tenant_id="acme", files=[file])
    assert Path(local.paths[0]).read_bytes() == b"a" * 100
    assert local.hit_bytes == 100
    assert Path(local.paths[0]).is_relative_to(source.tenant_dir(tenant_id="acme"))
    assert Path(source.tenant_dir(tenant_id="quiet")).is_dir(), "a tenant without files has a directory too"
    assert not (tmp_path / "cache").exists()
