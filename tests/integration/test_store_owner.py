"""Only the catalog that the store belongs to deletes in it."""

import json
from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path
from uuid import uuid4

import pytest
from django.db.models.functions import Now

from catalog.errors import StoreNotOurs
from catalog.holds import take_file_hold
from catalog.identity import OWNER_KEY, delete_objects, identity, own_store, owner_of, renew_identity, take_over
from catalog.models import CatalogIdentity, FileHold
from ingest.housekeeping import HousekeepingPolicy, keep_house
from ingest.models import IngestStaged
from ingest.staging import unstage
from storage.local import LocalStore
from storage.store import Keys
from tests.factories import make_tenant
from tests.together import together

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    store = LocalStore(root=tmp_path / "objects")
    store.put("acme/part.parquet", b"rows")
    return store


def stored(store: LocalStore) -> set[str]:
    return {info.key for info in store.list("")} - {OWNER_KEY}


def staged(store: LocalStore) -> IngestStaged:
    """A payload that no write names since a week."""
    tenant_id = make_tenant()
    path = f"_staged/{tenant_id}/1.envelope"
    store.put(path, b"rows")
    row = IngestStaged.objects.create(tenant_id=tenant_id, path=path, size_bytes=4)
    IngestStaged.objects.update(created_at=Now() - timedelta(days=7))
    return row


def clean(store: LocalStore, tmp_path: Path) -> int:
    policy = HousekeepingPolicy(window=timedelta(days=7), unnamed_for=timedelta(days=1), scratch=tmp_path / "scratch")
    return keep_house(store=store, policy=policy, seconds=5).staged_objects


def test_first_catalog_owns_the_store_and_deletes_in_it(store: LocalStore) -> None:
    assert owner_of(store) is None
    assert delete_objects(store=store, keys=["acme/part.parquet", "acme/gone.parquet"]) == []
    assert owner_of(store) == identity()
    assert stored(store) == set()


def test_everyone_who_asks_at_once_is_told_the_same_identity() -> None:
    found = together([identity] * 6)
    assert set(found) == {identity()}
    assert CatalogIdentity.objects.count() == 1


def test_restored_catalog_deletes_nothing_until_it_takes_the_store_over(store: LocalStore, tmp_path: Path) -> None:
    own_store(store)
    row = staged(store)
    restored = renew_identity()
    assert restored.incarnation == 2
    with pytest.raises(StoreNotOurs):
        delete_objects(store=store, keys=["acme/part.parquet"])
    assert clean(store, tmp_path) == 0
    unstage(staged_id=row.staged_id, store=store)
    assert stored(store) == {"acme/part.parquet", row.path}
    take_over(store)
    assert owner_of(store) == restored
    assert clean(store, tmp_path) == 1
    assert stored(store) == {"acme/part.parquet"}


def test_two_catalogs_restored_from_one_backup_are_two(store: LocalStore) -> None:
    source = identity()
    renew_identity()
    take_over(store)
    CatalogIdentity.objects.update(incarnation=source.incarnation, life=source.life)
    assert renew_identity().incarnation == 2
    with pytest.raises(StoreNotOurs):
        own_store(store)


def test_restored_catalog_does_not_claim_a_store_of_nobody(store: LocalStore) -> None:
    renew_identity()
    with pytest.raises(StoreNotOurs):
        own_store(store)
    assert owner_of(store) is None


class Contested(LocalStore):
    """Between two requests of a new owner the former one, which nobody has stopped, claims the store again."""

    def delete_many(self, keys: Iterable[str]) -> Keys:
        kept = super().delete_many(keys)
        self.put(OWNER_KEY, json.dumps({"catalog_id": str(uuid4()), "incarnation": 1, "life": str(uuid4())}).encode())
        return kept


def test_taking_over_a_store_that_somebody_keeps_fails(tmp_path: Path) -> None:
    renew_identity()
    with pytest.raises(StoreNotOurs):
        take_over(Contested(root=tmp_path / "objects"))


@pytest.mark.parametrize("text", ["", "{}", "[]", "null", '{"catalog_id": 1}', "\xff", json.dumps({"catalog_id": "x"})])
def test_owner_that_cannot_be_read_is_not_us(store: LocalStore, text: str) -> None:
    store.put(OWNER_KEY, text.encode("latin-1"))
    with pytest.raises(StoreNotOurs):
        delete_objects(store=store, keys=["acme/part.parquet"])
    assert stored(store) == {"acme/part.parquet"}


def test_housekeeping_claims_the_store_before_it_has_anything_to_delete(store: LocalStore, tmp_path: Path) -> None:
    assert clean(store, tmp_path) == 0
    assert owner_of(store) == identity()


def test_held_payload_stays_until_the_hold_goes(store: LocalStore, tmp_path: Path) -> None:
    row = staged(store)
    take_file_hold(kind=FileHold.Kind.BACKUP, name="b")
    assert clean(store, tmp_path) == 0
    FileHold.objects.update(upto_staged_id=row.staged_id - 1)
    assert clean(store, tmp_path) == 1
    assert row.path not in stored(store)
