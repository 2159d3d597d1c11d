"""What every object store promises, held against each: the local one, and S3 spoken to a real server."""

import hashlib
import os
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import pytest

from duckmesh.kernel.errors import DuckMeshError
from storage.errors import InvalidKey, ObjectExists, ObjectNotFound
from storage.factory import StoreSettings, open_store
from storage.store import ObjectStore
from tests.swift import ACCESS_KEY, SECRET_KEY, Swift, shared_swift, unavailable_because

KINDS = ["local", pytest.param("s3", marks=pytest.mark.s3)]


@pytest.fixture
def swift() -> Swift:
    if reason := unavailable_because():
        pytest.skip(reason)
    return shared_swift()


@dataclass(frozen=True)
class Place:
    """An empty place for objects, and settings of a place beside it that shares all but the prefix."""

    settings: StoreSettings
    beside: StoreSettings


@pytest.fixture(params=KINDS)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if request.param == "local":
        here = StoreSettings(url=(tmp_path / "objects").as_uri())
        return Place(here, replace(here, url=(tmp_path / "objects-2").as_uri()))
    server: Swift = request.getfixturevalue("swift")
    bucket = f"b{uuid4()}"
    here = StoreSettings(
        url=f"s3://{bucket}/lake",
        endpoint=server.host,
        access_key=ACCESS_KEY,
        secret_key=SECRET_KEY,
        secure=False,
        autocreate_bucket=True,
    )
    return Place(here, replace(here, url=f"s3://{bucket}/lake-2"))


@pytest.fixture
def store(place: Place) -> ObjectStore:
    return open_store(place.settings)


def keys(store: ObjectStore, prefix: str = "") -> list[str]:
    return [info.key for info in store.list(prefix)]


def test_an_object_comes_back_as_it_was_put(store: ObjectStore) -> None:
    data = os.urandom(100_000)
    put = store.put("t/a.parquet", data)
    assert (put.key, put.size) == ("t/a.parquet", 100_000)
    assert abs(put.modified - datetime.now(UTC)) < timedelta(minutes=1)
    assert store.get("t/a.parquet") == data
    stat = store.stat("t/a.parquet")
    assert (stat.key, stat.size) == ("t/a.parquet", 100_000)
    assert abs(stat.modified - put.modified) < timedelta(seconds=5)


def test_an_empty_object_is_an_object(store: ObjectStore) -> None:
    store.put("empty", b"")
    assert store.get("empty") == b""
    assert store.stat("empty").size == 0
    assert store.get_range("empty", 0, 10) == b""


def test_a_range_ends_where_the_object_ends(store: ObjectStore) -> None:
    store.put("r", b"0123456789")
    assert store.get_range("r", 0, 4) == b"0123"
    assert store.get_range("r", 3, 4) == b"3456"
    assert store.get_range("r", 8, 100) == b"89"
    assert store.get_range("r", 10, 5) == b""
    assert store.get_range("r", 100, 5) == b""
    assert store.get_range("r", 2, 0) == b""


def test_what_is_not_there_is_not_found(store: ObjectStore, tmp_path: Path) -> None:
    store.put("d/present", b"x")
    for key in ("absent", "d/absent", "absent/absent", "d"):
        with pytest.raises(ObjectNotFound):
            store.get(key)
        with pytest.raises(ObjectNotFound):
            store.get_range(key, 0, 1)
        with pytest.raises(ObjectNotFound):
            store.get_range(key, 0, 0)
        with pytest.raises(ObjectNotFound):
            store.stat(key)
        with pytest.raises(ObjectNotFound):
            store.fetch(key, tmp_path / "fetched")
    assert not list(tmp_path.glob("fetched*"))


def test_an_object_is_never_overwritten(store: ObjectStore, tmp_path: Path) -> None:
    store.put("k", b"first")
    with pytest.raises(ObjectExists):
        store.put("k", b"second")
    (tmp_path / "file").write_bytes(b"third")
    with pytest.raises(ObjectExists):
        store.put_file("k", tmp_path / "file")
    assert store.get("k") == b"first"
    assert (tmp_path / "file").read_bytes() == b"third"


def test_an_object_that_many_put_at_once_is_one_of_theirs_and_whole(store: ObjectStore) -> None:
    def attempt(index: int) -> bool:
        try:
            store.put("contended/k", str(index).encode() * 1000)
        except ObjectExists:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        won = [index for index, success in enumerate(pool.map(attempt, range(16))) if success]
    assert len(won) == 1 or (won and store.local_root is None)
    assert store.get("contended/k") in {str(index).encode() * 1000 for index in won}


def test_many_put_at_once(store: ObjectStore) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: store.put(f"many/{i % 7}/{i:03}", str(i).encode()), range(100)))
    assert len(keys(store, "many/")) == 100
    assert store.get("many/1/050") == b"50"


def test_a_file_that_was_put_belongs_to_the_store(store: ObjectStore, tmp_path: Path) -> None:
    source = tmp_path / "source.parquet"
    source.write_bytes(b"x" * 1000)
    assert store.put_file("f", source).size == 1000
    assert not source.exists()
    assert store.get("f") == b"x" * 1000


def test_twenty_megabytes_go_and_come_in_parts(store: ObjectStore, tmp_path: Path) -> None:
    data = os.urandom(20 * 2**20)
    source, target = tmp_path / "big", tmp_path / "fetched"
    source.write_bytes(data)
    assert store.put_file("big", source).size == len(data)
    assert store.stat("big").size == len(data)
    store.fetch("big", target)
    assert hashlib.sha256(target.read_bytes()).digest() == hashlib.sha256(data).digest()
    assert store.get_range("big", 16 * 2**20 - 5, 10) == data[16 * 2**20 - 5 : 16 * 2**20 + 5]
    source.write_bytes(data)
    with pytest.raises(ObjectExists):
        store.put_file("big", source)
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == ["big", "fetched"]


def test_fetch_replaces_a_file_whole(store: ObjectStore, tmp_path: Path) -> None:
    store.put("f", b"new")
    (tmp_path / "f").write_bytes(b"old and longer")
    store.fetch("f", tmp_path / "f")
    assert (tmp_path / "f").read_bytes() == b"new"


def test_objects_are_listed_in_the_order_of_their_keys_bytes(store: ObjectStore) -> None:
    names = ["a", "a-b", "a.b", "a/b", "a/b/c", "a0", "ab", "b/é", "b/z", "b/\U0001f986", "B"]
    usable = [name for name in names if name not in ("a", "a/b")]  # a local store has no file beside a directory
    for name in usable:
        store.put(name, b"x")
    assert keys(store) == sorted(usable, key=str.encode)
    assert keys(store, "a") == sorted((n for n in usable if n.startswith("a")), key=str.encode)
    assert keys(store, "a/") == ["a/b/c"]
    assert keys(store, "a/b") == ["a/b/c"]
    assert keys(store, "b/é") == ["b/é"]
    assert keys(store, "nothing/like/it") == []


def test_a_listing_goes_on_behind_any_key(store: ObjectStore) -> None:
    names = sorted(["a-b", "a/1", "a/2/x", "a/2/y", "b", "é/1"], key=str.encode)
    for name in names:
        store.put(name, b"x")
    for after in ("", "a", "a/", "a/1", "a/1/", "a/1/x", "a-b", "a/z", "b", "c", "é"):
        for prefix in ("", "a/"):
            listed = [info.key for info in store.list(prefix, after=after)]
            expected = [name for name in names if name.startswith(prefix) and name.encode() > after.encode()]
            assert listed == expected, (prefix, after)


@pytest.mark.long
def test_a_long_listing_and_a_long_deletion_are_whole(store: ObjectStore) -> None:
    names = [f"l/{i % 50:02}/{i:05}" for i in range(1_250)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: store.put(name, b"12"), names))
    store.put("stays", b"x")
    listed = list(store.list("l/"))
    assert [info.key for info in listed] == sorted(names)
    assert {info.size for info in listed} == {2}
    assert store.delete_many(iter(names[:1_100])) == []
    assert keys(store) == [*sorted(names[1_100:]), "stays"]


def test_deleting_what_is_not_there_is_no_failure(store: ObjectStore) -> None:
    store.put("x/y", b"1")
    assert store.delete_many(["x/y", "x/z", "absent/one"]) == []
    assert store.delete_many(["x/y"]) == []
    assert store.delete_many([]) == []
    store.put("x/y", b"2")
    assert store.get("x/y") == b"2"


@pytest.mark.parametrize(
    "key",
    [
        "with space",
        "plus+and%20percent",
        "é/ü/\U0001f986",
        "a=1/b=2/c&d;e",
        "quote'\"<>",
        "~tilde",
        "x.y..z",
        "...",
        "#",
    ],
)
def test_odd_keys_are_kept_exactly(store: ObjectStore, key: str) -> None:
    store.put(key, key.encode())
    assert store.get(key) == key.encode()
    assert store.stat(key).key == key
    assert keys(store) == [key]
    assert keys(store, key) == [key]
    assert store.delete_many([key]) == []
    assert keys(store) == []


@pytest.mark.parametrize(
    "key",
    [
        "",
        "/etc/passwd",
        "../x",
        "a/../../x",
        "a/./b",
        "a//b",
        "a/",
        ".",
        "..",
        "a\\..\\b",
        "a\0b",
        "a\nb",
        "a*",
        "a[b]",
        "a?",
    ],
)
def test_a_key_that_could_lead_elsewhere_is_refused(store: ObjectStore, tmp_path: Path, key: str) -> None:
    (tmp_path / "file").write_bytes(b"x")
    for attempt in (
        lambda: store.put(key, b"x"),
        lambda: store.put_file(key, tmp_path / "file"),
        lambda: store.get(key),
        lambda: store.get_range(key, 0, 1),
        lambda: store.fetch(key, tmp_path / "fetched"),
        lambda: store.stat(key),
        lambda: store.delete_many([key]),
    ):
        with pytest.raises(InvalidKey):
            attempt()
    assert (tmp_path / "file").exists()


@pytest.mark.parametrize("prefix", ["../", "/", "a/../", "a//b"])
def test_a_listing_cannot_lead_elsewhere(store: ObjectStore, prefix: str) -> None:
    with pytest.raises(InvalidKey):
        list(store.list(prefix))


def test_stores_with_other_prefixes_do_not_see_each_other(place: Place) -> None:
    here, there = open_store(place.settings), open_store(place.beside)
    here.put("k", b"here")
    there.put("k", b"there")
    assert (here.get("k"), there.get("k")) == (b"here", b"there")
    assert keys(here) == keys(there) == ["k"]
    assert here.delete_many(["k"]) == []
    assert keys(there) == ["k"]


def test_another_process_finds_the_objects(place: Place) -> None:
    open_store(place.settings).put("k", b"durable")
    assert open_store(place.settings).get("k") == b"durable"


def test_a_store_answers_a_ping(store: ObjectStore) -> None:
    store.ping()
    assert keys(store) == []


def test_errors_tell_neither_paths_nor_addresses(place: Place, tmp_path: Path) -> None:
    store = open_store(place.settings)
    store.put("k", b"x")
    for attempt in (lambda: store.get("absent"), lambda: store.put("k", b"x"), lambda: store.stat("../x")):
        with pytest.raises(DuckMeshError) as caught:
            attempt()
        told = f"{caught.value} {caught.value.context}"
        assert str(tmp_path) not in told
        assert not re.search(r"127\.0\.0\.1|http", told)
