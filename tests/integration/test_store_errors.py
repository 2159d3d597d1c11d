"""What a caller is told when a store, or the way to it, fails."""

import os
import resource
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import pytest

from duckmesh.kernel.config import ConfigError, load_config
from storage.errors import (
    InvalidKey,
    ObjectExists,
    ObjectNotFound,
    StoreDenied,
    StoreOutcomeUnknown,
    StoreUnavailable,
)
from storage.factory import StoreSettings, open_store
from storage.local import TEMPORARY, LocalStore
from storage.store import ObjectStore
from tests.proxy import Proxy, proxied
from tests.swift import ACCESS_KEY, SECRET_KEY, Swift, shared_swift, unavailable_because

MEGABYTE = 2**20


@pytest.fixture
def swift() -> Swift:
    if reason := unavailable_because():
        pytest.skip(reason)
    return shared_swift()


@pytest.fixture
def settings(swift: Swift) -> StoreSettings:
    return StoreSettings(
        url=f"s3://b{uuid4()}/lake",
        endpoint=swift.host,
        access_key=ACCESS_KEY,
        secret_key=SECRET_KEY,
        secure=False,
        autocreate_bucket=True,
    )


@pytest.fixture
def proxy(swift: Swift) -> Iterator[Proxy]:
    with proxied(swift) as proxy:
        yield proxy


@pytest.fixture
def behind(settings: StoreSettings, proxy: Proxy) -> ObjectStore:
    """A store that has written an object through the proxy."""
    store = open_store(replace(settings, endpoint=proxy.host))
    store.put("before", b"x" * MEGABYTE)
    return store


@pytest.mark.s3
@pytest.mark.parametrize("wrong", [{"secret_key": "wrong"}, {"access_key": "test:nobody"}])
def test_wrong_credentials_are_denied(settings: StoreSettings, wrong: dict[str, str]) -> None:
    open_store(settings).put("k", b"x")
    store = open_store(replace(settings, autocreate_bucket=False, **wrong))  # type: ignore[arg-type]  # one field each
    for attempt in (
        store.ping,
        lambda: store.put("other", b"x"),
        lambda: store.get("k"),
        lambda: store.get_range("k", 0, 1),
        lambda: store.stat("k"),
        lambda: list(store.list("")),
        lambda: store.delete_many(["k"]),
    ):
        with pytest.raises(StoreDenied):
            attempt()
    assert [info.key for info in open_store(settings).list("")] == ["k"]


@pytest.mark.s3
def test_a_bucket_is_made_only_where_that_is_allowed(settings: StoreSettings) -> None:
    strict = open_store(replace(settings, autocreate_bucket=False))
    for attempt in (strict.ping, lambda: strict.put("k", b"x"), lambda: strict.get("k"), lambda: list(strict.list(""))):
        with pytest.raises((StoreUnavailable, ObjectNotFound)):
            attempt()
    with pytest.raises(StoreUnavailable):
        strict.put("k", b"x")
    open_store(settings).put("k", b"x")
    strict.ping()
    assert strict.get("k") == b"x"
    assert open_store(settings).get("k") == b"x"


@pytest.mark.long
@pytest.mark.s3
def test_a_server_that_is_not_there_is_unavailable(settings: StoreSettings, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    (tmp_path / "file").write_bytes(b"x")
    store = open_store(replace(settings, endpoint=f"127.0.0.1:{port}", autocreate_bucket=False))
    making = open_store(replace(settings, endpoint=f"127.0.0.1:{port}"))
    for attempt in (
        store.ping,
        making.ping,
        lambda: store.put("k", b"x"),
        lambda: making.put("k", b"x"),
        lambda: store.put_file("k", tmp_path / "file"),
        lambda: store.get("k"),
        lambda: store.fetch("k", tmp_path / "fetched"),
        lambda: list(store.list("")),
        lambda: store.delete_many(["k"]),
    ):
        with pytest.raises(StoreUnavailable):
            attempt()
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.s3
def test_a_server_that_vanished_between_writes_is_unavailable(behind: ObjectStore, proxy: Proxy) -> None:
    proxy.vanish()
    with pytest.raises(StoreUnavailable):
        behind.put("k", b"x")


@pytest.mark.s3
@pytest.mark.parametrize("megabytes", [4, 40])
def test_a_connection_lost_in_an_upload_leaves_the_outcome_unknown(
    settings: StoreSettings, behind: ObjectStore, proxy: Proxy, tmp_path: Path, megabytes: int
) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"x" * megabytes * MEGABYTE)
    proxy.upload_allowed = megabytes * MEGABYTE // 2
    with pytest.raises(StoreOutcomeUnknown):
        behind.put_file("k", source)
    assert source.exists()
    with pytest.raises(ObjectNotFound):
        open_store(settings).stat("k")
    assert [info.key for info in open_store(settings).list("")] == ["before"]


@pytest.mark.s3
@pytest.mark.parametrize(("megabytes", "last"), [(1, b"PUT /"), (20, b"CompleteMultipartUpload")])
def test_an_answer_lost_after_an_upload_leaves_the_outcome_unknown(
    settings: StoreSettings, behind: ObjectStore, proxy: Proxy, megabytes: int, last: bytes
) -> None:
    proxy.unanswered = last
    with pytest.raises(StoreOutcomeUnknown):
        behind.put("k", b"x" * megabytes * MEGABYTE)
    assert open_store(settings).stat("k").size == megabytes * MEGABYTE


@pytest.mark.s3
def test_a_download_that_breaks_off_leaves_no_file(behind: ObjectStore, proxy: Proxy, tmp_path: Path) -> None:
    proxy.download_allowed = MEGABYTE // 2
    with pytest.raises(StoreUnavailable):
        behind.fetch("before", tmp_path / "fetched")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.s3
def test_a_read_survives_one_broken_connection(behind: ObjectStore, proxy: Proxy) -> None:
    proxy.cut()
    assert behind.stat("before").size == MEGABYTE


# The local store.


@pytest.fixture
def local(tmp_path: Path) -> LocalStore:
    store = LocalStore(root=tmp_path / "objects")
    store.ping()  # its directory is there
    return store


def test_no_symbolic_link_leads_out_of_the_root(local: LocalStore, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_bytes(b"secret")
    root = tmp_path / "objects"
    (root / "d").symlink_to(outside)
    (root / "f").symlink_to(outside / "secret")
    for key in ("d/secret", "f"):
        with pytest.raises(ObjectNotFound):
            local.get(key)
        with pytest.raises(ObjectNotFound):
            local.stat(key)
    with pytest.raises(InvalidKey):
        local.put("d/new", b"x")
    with pytest.raises(ObjectExists):
        local.put("f", b"x")
    assert list(local.list("")) == list(local.list("d/")) == []
    assert local.delete_many(["d/secret"]) == []
    assert [path.name for path in outside.iterdir()] == ["secret"]
    assert (outside / "secret").read_bytes() == b"secret"


def test_unfinished_files_are_never_listed_and_go_with_time(local: LocalStore, tmp_path: Path) -> None:
    old, new = (tmp_path / "objects" / TEMPORARY / name for name in ("old", "new"))
    for left in (old, new):
        left.write_bytes(b"half")
    os.utime(old, (0, 0))
    assert list(local.list("")) == list(local.list(TEMPORARY)) == []
    for attempt in (lambda: local.get(f"{TEMPORARY}/new"), lambda: local.delete_many([f"{TEMPORARY}/new"])):
        with pytest.raises(InvalidKey):
            attempt()
    LocalStore(root=tmp_path / "objects").ping()
    assert not old.exists()
    assert new.exists()


def test_puts_and_deletes_in_one_directory_do_not_lose_objects(local: LocalStore) -> None:
    stop = threading.Event()

    def churn() -> None:
        while not stop.is_set():
            local.put("a/b/passing", b"x")
            local.delete_many(["a/b/passing"])

    thread = threading.Thread(target=churn)
    thread.start()
    try:
        for index in range(50):
            local.put(f"a/b/{index}", b"x")
            assert local.stat(f"a/b/{index}").size == 1
            local.delete_many([f"a/b/{index}"])
    finally:
        stop.set()
        thread.join()
    assert list(local.list("")) == []


def test_emptied_directories_go(local: LocalStore, tmp_path: Path) -> None:
    local.put("a/b/c", b"x")
    local.put("a/d", b"x")
    local.delete_many(["a/b/c"])
    assert not (tmp_path / "objects" / "a" / "b").exists()
    assert [info.key for info in local.list("")] == ["a/d"]


def test_a_key_below_an_object_is_refused(local: LocalStore) -> None:
    local.put("a", b"x")
    with pytest.raises(InvalidKey):
        local.put("a/b", b"x")


def test_a_root_that_vanished_is_no_missing_object(local: LocalStore, tmp_path: Path) -> None:
    local.put("k", b"x")
    (tmp_path / "objects").rename(tmp_path / "elsewhere")
    for attempt in (lambda: local.get("k"), lambda: local.put("l", b"x"), local.ping, lambda: list(local.list(""))):
        with pytest.raises(StoreUnavailable):
            attempt()


def test_a_store_that_is_away_is_asked_only_when_it_is_needed(tmp_path: Path) -> None:
    place = tmp_path / "objects"
    place.touch()
    local = LocalStore(root=place)
    assert local.local_root == place
    for attempt in (lambda: local.get("k"), lambda: local.put("l", b"x"), local.ping, lambda: list(local.list(""))):
        with pytest.raises(StoreUnavailable):
            attempt()
    place.unlink()
    local.put("l", b"x")
    assert [info.key for info in local.list("")] == ["l"]


def test_a_full_disk_is_unavailable(local: LocalStore) -> None:
    with Path("/dev/full").open("wb") as full, pytest.raises(OSError, match="No space"):
        full.write(b"x" * 100_000)
        full.flush()
    soft, hard = _file_size_limit(10_000)
    try:
        with pytest.raises(StoreUnavailable):
            local.put("k", b"x" * 100_000)
    finally:
        _file_size_limit(soft, hard)
    assert list(local.list("")) == []


def _file_size_limit(soft: int, hard: int | None = None) -> tuple[int, int]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, before[1] if hard is None else hard))
    return before


# Configuration.


def test_the_default_store_is_a_directory_of_the_home(tmp_path: Path) -> None:
    store = open_store(StoreSettings.of(load_config({"DUCKMESH_HOME": str(tmp_path / "it's a home")})))
    assert store.local_root == tmp_path / "it's a home" / "objects"


@pytest.mark.parametrize(
    "settings",
    [
        StoreSettings(url="file:///tmp/[x]"),
        StoreSettings(url="file://host/tmp/x"),
        StoreSettings(url="s3://bucket"),
        StoreSettings(url="s3:///prefix", access_key="a", secret_key="b"),
        StoreSettings(url="ftp://x/y"),
    ],
)
def test_settings_that_name_no_store_are_refused(settings: StoreSettings) -> None:
    with pytest.raises(ConfigError, match="DUCKMESH_"):
        open_store(settings)


def test_the_secret_is_not_shown() -> None:
    assert "hush" not in repr(StoreSettings(url="s3://b", access_key="a", secret_key="hush"))
