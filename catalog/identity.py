"""Which catalog this is, and whether the object store is its own. The one door through which objects are deleted.

A copy of a catalog, restored from a backup, sees the objects of the live one: those written since are orphans to it,
and those that it expires may be live there. So the store names its owner, and nobody else deletes in it.
"""

import json
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from uuid import UUID, uuid4

import structlog
from django.db import transaction
from django.db.models import F

from catalog.errors import StoreNotOurs
from catalog.models import CatalogIdentity
from catalog.server import Standing, standing
from storage.errors import ObjectExists, ObjectNotFound
from storage.store import Keys, ObjectStore

log = structlog.get_logger(__name__)

RESERVED_PREFIX = "_duckmesh/"
"""Objects below it belong to the store itself: no row names them, and they are no orphans."""

OWNER_KEY = f"{RESERVED_PREFIX}owner.json"

_ORIGINAL = 1


@dataclass(frozen=True, kw_only=True)
class Identity:
    """A catalog: the one it descends from, the number of its life, and this life itself."""

    catalog_id: UUID
    incarnation: int
    life: UUID


def identity() -> Identity:
    """This catalog's identity; the first who asks makes it."""
    row = CatalogIdentity.objects.first()
    if row is None:
        CatalogIdentity.objects.bulk_create([CatalogIdentity()], ignore_conflicts=True)
        row = CatalogIdentity.objects.get()
    return Identity(catalog_id=row.catalog_id, incarnation=row.incarnation, life=row.life)


@transaction.atomic
def renew_identity() -> Identity:
    """This catalog is another one than that which it was copied from: the store is not its own any more."""
    identity()
    CatalogIdentity.objects.update(incarnation=F("incarnation") + 1, life=uuid4())
    renewed = identity()
    transaction.on_commit(lambda: log.warning("incarnation_begun", incarnation=renewed.incarnation))
    return renewed


def owner_of(store: ObjectStore) -> Identity | None:
    """The catalog that the store belongs to; None if to nobody yet. Raises `StoreNotOurs` if that is unclear."""
    try:
        text = store.get(OWNER_KEY)
    except ObjectNotFound:
        return None
    try:
        told = json.loads(text)
        return Identity(
            catalog_id=UUID(told["catalog_id"]), incarnation=int(told["incarnation"]), life=UUID(told["life"])
        )
    except (ValueError, TypeError, KeyError, AttributeError) as exc:
        raise StoreNotOurs(f"The store's {OWNER_KEY} cannot be read: nothing is deleted.", key=OWNER_KEY) from exc


def own_store(store: ObjectStore) -> None:
    """The store is this catalog's own: it was, or it was nobody's and this catalog was never restored.

    Raises `StoreNotOurs`, also on another PostgreSQL than the catalog's: what was lost with that is no orphan yet.
    """
    if standing() != Standing.KNOWN:
        raise StoreNotOurs("PostgreSQL is not the server that the catalog was last known on: nothing is deleted.")
    ours = identity()
    owner = owner_of(store)
    if owner is None and ours.incarnation == _ORIGINAL:
        owner = _claim(ours, store)
    if owner != ours:
        raise StoreNotOurs(
            "The object store belongs to another catalog, or this catalog was restored from a backup: nothing is"
            " deleted. If this catalog replaces the other one, take the store over.",
            catalog_id=str(ours.catalog_id),
            incarnation=ours.incarnation,
            owner=None if owner is None else str(owner.catalog_id),
            owner_incarnation=None if owner is None else owner.incarnation,
        )


def take_over(store: ObjectStore) -> None:
    """The store is this catalog's own, whoever's it was. The other one must have been stopped before.

    Raises `StoreNotOurs` if it was not, and has claimed the store anew in between.
    """
    store.delete_many([OWNER_KEY])
    _claim(identity(), store)
    own_store(store)


def delete_objects(*, store: ObjectStore, keys: Iterable[str]) -> Keys:
    """The objects are gone; the keys of those that could not be deleted. Raises `StoreNotOurs`, and nothing is gone."""
    own_store(store)
    return store.delete_many(keys)


def _claim(ours: Identity, store: ObjectStore) -> Identity | None:
    told = {"catalog_id": str(ours.catalog_id), "incarnation": ours.incarnation, "life": str(ours.life)}
    with suppress(ObjectExists):  # somebody was faster
        store.put(OWNER_KEY, json.dumps(told, indent=1).encode())
        log.warning("store_owned", catalog_id=str(ours.catalog_id), incarnation=ours.incarnation)
    return owner_of(store)
