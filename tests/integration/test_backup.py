"""Backups taken with PostgreSQL's own programs, and restored into a second database."""

import json
import secrets
import shutil
from pathlib import Path

import pyrage
import pytest
from django.db import connection

from catalog.errors import SnapshotExpired, StoreNotOurs
from catalog.identity import delete_objects, identity, own_store
from catalog.models import FileHold, Snapshot, TenantCatalog, VoidRange
from catalog.snapshots import latest_issued_token, resolve
from ingest.backlog import lag
from ingest.models import IngestClaimBatch
from maintenance.backup.errors import (
    BackupDamaged,
    BackupIncomplete,
    BackupKeyInvalid,
    BackupKeyWrong,
    BackupNotFound,
    BackupUnfinished,
    RestoreObjectsMissing,
    RestoreTargetNotEmpty,
    RestoreTooNew,
)
from maintenance.backup.keeping import drop_backup
from maintenance.backup.listing import list_backups
from maintenance.models import Backup
from storage.factory import StoreSettings, open_store
from tests.backups import back_up, databases, restore, second_database
from tests.factories import make_table, make_tenant
from tests.lake import Lake, write_ids
from tests.reading import read_rows
from tests.swift import ACCESS_KEY, SECRET_KEY, shared_swift, unavailable_because

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(tmp_path / "first")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "backups"


@pytest.fixture
def tenant_id(lake: Lake) -> str:
    """A tenant with three snapshots of rows, and a write that waits."""
    tenant_id = make_tenant()
    make_table(tenant_id=tenant_id)
    for identity_ in "abc":
        write_ids(tenant_id, identity_)
        lake.materialize(tenant_id)
    write_ids(tenant_id, "waits")
    return tenant_id


def contents(lake: Lake, tenant_id: str) -> dict[int, dict[str, int]]:
    """The rows of every kept snapshot that has the table."""
    kept = Snapshot.objects.filter(tenant_id=tenant_id, snapshot_id__gt=0).values_list("snapshot_id", flat=True)
    return {snapshot_id: lake.rows(tenant_id, snapshot_id=snapshot_id) for snapshot_id in kept}


def test_a_catalog_comes_back_with_every_row_in_every_snapshot(lake: Lake, root: Path, tenant_id: str) -> None:
    before = contents(lake, tenant_id)
    manifest = back_up(lake, root)
    write_ids(tenant_id, "lost")
    lake.materialize(tenant_id)
    with second_database():
        restored = restore(lake, root)
        assert (restored.former, restored.missing, restored.migrated) == (None, 0, ())
        head = resolve(tenant_id=tenant_id)
        after = contents(lake, tenant_id)
        assert after.pop(head.snapshot_id) == {"a": 1, "b": 1, "c": 1}
        assert after == before
        assert lag(tenant_id=tenant_id).pending_events == 1
        assert lake.materialize(tenant_id) == 1
        assert lake.rows(tenant_id) == {"a": 1, "b": 1, "c": 1, "waits": 1}
        assert read_rows(lake, tenant_id, "SELECT count(*) AS n FROM events") == [{"n": 4}]
        assert Backup.objects.get().state == Backup.State.COMPLETED
        assert Backup.objects.get().name == manifest.name
    assert lake.rows(tenant_id) == {"a": 1, "b": 1, "c": 1, "waits": 1, "lost": 1}
    assert not databases("duckmesh_restore_")


def test_nothing_that_the_lost_catalog_issued_is_issued_again(lake: Lake, root: Path, tenant_id: str) -> None:
    back_up(lake, root)
    dumped = resolve(tenant_id=tenant_id)
    issued = latest_issued_token(tenant_id=tenant_id)
    lost = write_ids(tenant_id, "lost").max_visibility_token
    lake.materialize(tenant_id)
    lost_snapshot = resolve(tenant_id=tenant_id)
    lost_epoch = IngestClaimBatch.objects.latest("epoch")
    ddl_version = TenantCatalog.objects.get().tenant.ddl_version
    with second_database():
        restore(lake, root)
        void = VoidRange.objects.get()
        assert (void.first_token, void.first_snapshot_id) == (issued + 1, dumped.snapshot_id + 1)
        assert void.first_token <= lost <= void.last_token
        head = resolve(tenant_id=tenant_id)
        assert head.visible_token == issued - 1, "what waits is not visible"
        assert head.snapshot_id > lost_snapshot.snapshot_id
        with pytest.raises(SnapshotExpired) as gone:
            resolve(tenant_id=tenant_id, snapshot_id=lost_snapshot.snapshot_id)
        assert gone.value.context["replaced"] is True
        with pytest.raises(SnapshotExpired):
            resolve(tenant_id=tenant_id, snapshot_time=lost_snapshot.snapshot_time)
        assert TenantCatalog.objects.get().tenant.ddl_version > ddl_version + 1_000
        assert lag(tenant_id=tenant_id).token_lag == 0
        assert write_ids(tenant_id, "new").max_visibility_token == void.last_token + 1
        assert write_ids(tenant_id, "a").duplicate_count == 1, "keys of the dump are still known"
        assert write_ids(tenant_id, "lost").accepted_count == 1, "what was lost may be sent again"
        lake.materialize(tenant_id)
        assert lake.rows(tenant_id) == {"a": 1, "b": 1, "c": 1, "waits": 1, "new": 1, "lost": 1}
        claim = IngestClaimBatch.objects.latest("epoch")
        assert claim.epoch > lost_epoch.epoch + 1_000
        assert claim.batch_id > lost_epoch.batch_id + 1_000


@pytest.mark.long
def test_the_leap_is_visible_where_nothing_waits(lake: Lake, root: Path, tenant_id: str) -> None:
    lake.materialize(tenant_id)
    back_up(lake, root)
    with second_database():
        restore(lake, root)
        void = VoidRange.objects.get()
        told = lag(tenant_id=tenant_id)
        assert told.latest_visibility_token == told.latest_issued_token == void.last_token + 1


def test_a_restored_copy_deletes_nothing_in_the_store_of_the_other(lake: Lake, root: Path, tenant_id: str) -> None:
    own_store(lake.store)
    ours = identity()
    back_up(lake, root)
    with second_database():
        restore(lake, root)
        assert identity().incarnation == ours.incarnation + 1
        with pytest.raises(StoreNotOurs):
            delete_objects(store=lake.store, keys=["any"])
        restore(lake, root, force=True, take_over=True)
        own_store(lake.store)
    with pytest.raises(StoreNotOurs):
        own_store(lake.store)


def test_a_wiped_store_comes_back_from_a_backup_with_data(
    lake: Lake, root: Path, tenant_id: str, tmp_path: Path
) -> None:
    before = contents(lake, tenant_id)
    back_up(lake, root, with_data=True)
    shutil.rmtree(lake.root / "objects")
    second = Lake(tmp_path / "second")
    with second_database():
        assert restore(second, root).put_back == 3
        assert {key: rows for key, rows in contents(second, tenant_id).items() if key in before} == before
        assert second.materialize(tenant_id) == 1
        assert second.rows(tenant_id) == {"a": 1, "b": 1, "c": 1, "waits": 1}


def test_contents_are_copied_once(lake: Lake, root: Path, tenant_id: str) -> None:
    first = back_up(lake, root, with_data=True)
    lake.materialize(tenant_id)
    second = back_up(lake, root, with_data=True)
    rows = {row.name: row.copied_bytes or 0 for row in Backup.objects.all()}
    assert 0 < rows[second.name] < rows[first.name] == first.object_bytes
    assert len(list((root / "objects").glob("*/*"))) == 4
    freed = drop_backup(root=root, name=second.name)
    assert freed == rows[second.name]
    assert drop_backup(root=root, name=first.name) == first.object_bytes
    assert not list((root / "objects").glob("*/*"))


@pytest.mark.long
def test_a_backup_without_data_needs_its_store(lake: Lake, root: Path, tenant_id: str, tmp_path: Path) -> None:
    back_up(lake, root)
    empty = Lake(tmp_path / "second")
    with second_database():
        with pytest.raises(RestoreObjectsMissing) as missing:
            restore(empty, root)
        assert missing.value.context["count"] == 3
        assert restore(empty, root, allow_missing=True).missing == 3


@pytest.mark.long
def test_an_object_of_another_size_is_never_overwritten(lake: Lake, root: Path, tenant_id: str, tmp_path: Path) -> None:
    back_up(lake, root, with_data=True)
    second = Lake(tmp_path / "second")
    key = next(lake.store.list(tenant_id)).key
    second.store.put(key, b"somebody else's")
    with second_database(), pytest.raises(RestoreObjectsMissing):
        restore(second, root)
    assert second.store.get(key) == b"somebody else's"


def test_an_encrypted_backup_opens_with_its_key_only(lake: Lake, root: Path, tenant_id: str, tmp_path: Path) -> None:
    key = pyrage.x25519.Identity.generate()
    manifest = back_up(lake, root, with_data=True, key=str(key.to_public()))
    assert manifest.encrypted
    for path in root.rglob("*.*"):
        if path.is_file():
            assert tenant_id.encode() not in path.read_bytes(), path.name
    second = Lake(tmp_path / "second")
    with second_database():
        for wrong in ("", str(key.to_public()), str(pyrage.x25519.Identity.generate())):
            with pytest.raises(BackupKeyWrong):
                restore(second, root, key=wrong)
        restore(second, root, key=str(key))
        assert second.rows(tenant_id) == {"a": 1, "b": 1, "c": 1}


def test_a_key_that_is_none_is_refused(lake: Lake, root: Path) -> None:
    with pytest.raises(BackupKeyInvalid):
        back_up(lake, root, key="my dog's name")


@pytest.mark.parametrize("file", ["catalog.dump", "objects.jsonl", "manifest.json"])
def test_a_flipped_byte_is_found_before_anything_is_done(lake: Lake, root: Path, tenant_id: str, file: str) -> None:
    path = root / back_up(lake, root).name / file
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with second_database() as name:
        with pytest.raises(BackupDamaged):
            restore(lake, root)
        assert databases(name) == []


@pytest.mark.parametrize("file", ["catalog.dump", "objects.jsonl", "manifest.json"])
def test_a_cut_file_is_found_before_anything_is_done(lake: Lake, root: Path, tenant_id: str, file: str) -> None:
    path = root / back_up(lake, root).name / file
    path.write_bytes(path.read_bytes()[:-10])
    with second_database() as name:
        with pytest.raises(BackupDamaged):
            restore(lake, root)
        assert databases(name) == []


@pytest.mark.long
def test_a_damaged_copy_of_an_object_changes_nothing(lake: Lake, root: Path, tenant_id: str, tmp_path: Path) -> None:
    back_up(lake, root, with_data=True)
    copy = next(path for path in (root / "objects").glob("*/*"))
    copy.write_bytes(copy.read_bytes()[:-1] + b"!")
    with second_database() as name:
        with pytest.raises(BackupDamaged):
            restore(Lake(tmp_path / "second"), root)
        assert databases(name) == []


def test_a_backup_of_a_damaged_store_fails_by_name(lake: Lake, root: Path, tenant_id: str) -> None:
    key = next(lake.store.list(tenant_id)).key
    path = lake.root / "objects" / key
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    with pytest.raises(BackupIncomplete) as damaged:
        back_up(lake, root, with_data=True)
    assert damaged.value.context["key"] == key
    path.unlink()
    with pytest.raises(BackupIncomplete):
        back_up(lake, root, with_data=True)
    assert {row.state for row in Backup.objects.all()} == {Backup.State.FAILED}
    assert not FileHold.objects.exists()
    assert [path.name for path in root.iterdir() if path.is_dir()] == ["objects"]


def test_a_database_with_tenants_is_replaced_only_by_force(lake: Lake, root: Path, tenant_id: str) -> None:
    back_up(lake, root)
    with second_database() as name:
        restore(lake, root)
        write_ids(tenant_id, "mine")
        with pytest.raises(RestoreTargetNotEmpty):
            restore(lake, root)
        former = restore(lake, root, force=True).former
        assert former is not None
        assert sorted(databases(name)) == sorted([name, former])
        assert lag(tenant_id=tenant_id).pending_events == 1


@pytest.mark.long
def test_the_schema_without_a_tenant_counts_as_empty(lake: Lake, root: Path) -> None:
    back_up(lake, root)
    with second_database():
        restore(lake, root)
        assert restore(lake, root).former is not None


def test_a_newer_backup_is_refused_and_an_older_one_migrated(lake: Lake, root: Path, tenant_id: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute("DELETE FROM django_migrations WHERE app = 'ingest' AND name = '0013_broken_key_indexes'")
        cursor.execute("DROP FUNCTION duckmesh_drop_broken_key_indexes()")
    try:
        back_up(lake, root)
        with second_database():
            assert restore(lake, root).migrated == ("ingest.0013_broken_key_indexes",)
        with connection.cursor() as cursor:
            cursor.execute(
                "INSERT INTO django_migrations (app, name, applied) VALUES ('ingest', '9999_of_later', now())"
            )
        newer = back_up(lake, root).name
        with second_database() as name:
            with pytest.raises(RestoreTooNew):
                restore(lake, root, name=newer)
            assert databases(name) == []
    finally:
        with connection.cursor() as cursor:
            cursor.execute("DELETE FROM django_migrations WHERE name = '9999_of_later'")
        from django.core.management import call_command

        call_command("migrate", verbosity=0)


def test_a_backup_holds_what_it_names_until_it_is_dropped(lake: Lake, root: Path, tenant_id: str) -> None:
    manifest = back_up(lake, root)
    hold = FileHold.objects.get()
    assert (hold.kind, hold.name, hold.expires_at) == ("backup", manifest.name, None)
    assert hold.upto_file_id is not None
    drop_backup(root=root, name=manifest.name)
    assert not FileHold.objects.exists()
    assert Backup.objects.get().state == Backup.State.DROPPED
    with pytest.raises(BackupNotFound):
        restore(lake, root)
    with pytest.raises(BackupNotFound):
        drop_backup(root=root, name=manifest.name)


def test_a_backup_whose_directory_is_gone_can_be_dropped(lake: Lake, root: Path) -> None:
    manifest = back_up(lake, root)
    shutil.rmtree(root)
    assert [info.state for info in list_backups(root)] == ["gone"]
    drop_backup(root=root, name=manifest.name)
    assert list_backups(root) == []
    assert not FileHold.objects.exists()


def test_nothing_is_restored_from_an_unfinished_backup(lake: Lake, root: Path) -> None:
    manifest = back_up(lake, root)
    (root / manifest.name).rename(root / f"{manifest.name}.partial")
    with second_database():
        for name in (None, manifest.name):
            with pytest.raises(BackupUnfinished):
                restore(lake, root, name=name)
    assert [info.state for info in list_backups(root)] == ["unfinished"]


def test_the_manifest_says_what_is_in_the_backup(lake: Lake, root: Path, tenant_id: str) -> None:
    manifest = back_up(lake, root)
    lines = [json.loads(line) for line in (root / manifest.name / "objects.jsonl").read_text().splitlines()]
    assert [line["key"] for line in lines] == sorted(info.key for info in lake.store.list(tenant_id))
    assert manifest.object_count == 3
    assert manifest.object_bytes == sum(line["size"] for line in lines)


@pytest.mark.s3
@pytest.mark.long
def test_objects_of_an_s3_store_are_copied_and_put_back(root: Path, tmp_path: Path) -> None:
    if reason := unavailable_because():
        pytest.skip(reason)
    server = shared_swift()
    lakes = []
    for name in ("first", "second"):
        lake = Lake(tmp_path / name)
        bucket = StoreSettings(
            url=f"s3://{name}-{secrets.token_hex(4)}/lake",
            endpoint=server.host,
            access_key=ACCESS_KEY,
            secret_key=SECRET_KEY,
            secure=False,
            autocreate_bucket=True,
        )
        object.__setattr__(lake, "store", open_store(bucket))
        lakes.append(lake)
    first, second = lakes
    tenant_id = make_tenant()
    make_table(tenant_id=tenant_id)
    for identity_ in "ab":
        write_ids(tenant_id, identity_)
        first.materialize(tenant_id)
    back_up(first, root, with_data=True)
    with second_database():
        assert restore(second, root).put_back == 2
    keys = [info.key for info in first.store.list(tenant_id)]
    assert len(keys) == 2
    assert [second.store.get(key) for key in keys] == [first.store.get(key) for key in keys]
