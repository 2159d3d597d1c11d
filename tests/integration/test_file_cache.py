"""The cache of a remote store's files: right, bounded, shared; and a local store read in place."""

import hashlib
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from catalog.readset import ReadFile
from duckmesh.kernel.errors import Unavailable
from query.cache import FileSource, InPlace, file_source
from query.errors import QueryResourcesExceeded
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


@pytest.fixture
def store(tmp_path: Path) -> RemoteStore:
    return RemoteStore(root=tmp_path / "store")


@pytest.fixture
def cache(store: RemoteStore, tmp_path: Path) -> Callable[[int], FileSource]:
    """Makes another process's view of the one cache, with this bound."""
    return lambda max_bytes: file_source(
        store=store, cache_dir=tmp_path / "cache", max_bytes=max_bytes, keep_seconds=60
    )


def make_object(store: LocalStore, name: str, size: int = 100) -> ReadFile:
    data = (name * size).encode()[:size]
    key = f"acme/{name}.parquet"
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


def test_truncated_file_in_the_cache_is_fetched_again(store: RemoteStore, cache: Callable[[int], FileSource]) -> None:
    file = make_object(store, "a")
    (path,) = cache(1_000).bring(tenant_id="acme", files=[file]).paths
    Path(path).write_bytes(b"a")
    assert cache(1_000).bring(tenant_id="acme", files=[file]).paths == (path,)
    assert Path(path).stat().st_size == 100


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
    source = file_source(store=store, cache_dir=tmp_path / "cache", max_bytes=1, keep_seconds=60)
    assert isinstance(source, InPlace)
    local = source.bring(tenant_id="acme", files=[file])
    assert Path(local.paths[0]).read_bytes() == b"a" * 100
    assert local.hit_bytes == 100
    assert Path(local.paths[0]).is_relative_to(source.tenant_dir(tenant_id="acme"))
    assert Path(source.tenant_dir(tenant_id="quiet")).is_dir(), "a tenant without files has a directory too"
    assert not (tmp_path / "cache").exists()
