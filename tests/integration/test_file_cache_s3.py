"""Processes that share a cache of what a real S3 service holds."""

import hashlib
import multiprocessing
import secrets
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import django
import pytest

from catalog.readset import ReadFile
from query.cache import CacheSettings, file_source
from storage.factory import StoreSettings, open_store
from tests.swift import ACCESS_KEY, SECRET_KEY, Swift, shared_swift, unavailable_because

pytestmark = pytest.mark.s3

PROCESSES = 4


@pytest.fixture
def server() -> StoreSettings:
    if reason := unavailable_because():
        pytest.skip(reason)
    swift: Swift = shared_swift()
    return StoreSettings(
        url=f"s3://cache-{secrets.token_hex(4)}/lake",
        endpoint=swift.host,
        access_key=ACCESS_KEY,
        secret_key=SECRET_KEY,
        secure=False,
        autocreate_bucket=True,
    )


def bring(server: StoreSettings, directory: Path, files: list[ReadFile]) -> tuple[int, set[str]]:
    """What one process had to fetch, in bytes, and what it then found in the files."""
    cache = CacheSettings(directory=directory, max_bytes=10**8, keep_seconds=60, on_damage=damaged)
    local = file_source(store=open_store(server), cache=cache).bring(tenant_id="acme", files=files)
    total = sum(file.size_bytes for file in files)
    return total - local.hit_bytes, {hashlib.sha256(Path(path).read_bytes()).hexdigest() for path in local.paths}


def damaged(tenant_id: str, file: ReadFile, reason: str) -> None:
    raise AssertionError(f"{tenant_id} {file.path}: {reason}")


def test_processes_of_one_machine_fetch_each_object_once(server: StoreSettings, tmp_path: Path) -> None:
    store, files = open_store(server), []
    for number in range(6):
        data = secrets.token_bytes(300_000)
        store.put(f"acme/{number}.parquet", data)
        files.append(
            ReadFile(
                path=f"acme/{number}.parquet",
                row_count=1,
                size_bytes=len(data),
                sha256=hashlib.sha256(data).hexdigest(),
                schema_version=1,
            )
        )
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(PROCESSES, mp_context=context, initializer=django.setup) as pool:
        asked = [pool.submit(bring, server, tmp_path, files) for _ in range(3 * PROCESSES)]
        answers = [future.result(60) for future in asked]
    assert [found for _, found in answers] == [{file.sha256 for file in files}] * len(asked)
    assert sum(fetched for fetched, _ in answers) == sum(file.size_bytes for file in files)
    assert [path for path in tmp_path.rglob("*") if path.suffix in (".part", ".claim")] == []
