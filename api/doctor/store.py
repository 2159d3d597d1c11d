"""Whether the object store does what the design rests on, tried on a few objects of the doctor's own."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from uuid import uuid4

from api.doctor.clocks import MOST_SECONDS_OF_STORE, judge
from api.doctor.findings import Verdict, odd, well, wrong
from catalog.identity import RESERVED_PREFIX, identity, owner_of
from storage.errors import ObjectExists, ObjectNotFound
from storage.store import ObjectStore

PREFIX = f"{RESERVED_PREFIX}doctor/"
_LEFT_BEHIND = timedelta(minutes=10)  # by the store's clock: no examination lasts as long
_OBJECTS = {"a": bytes(range(256)), "b": b"second", "c": b"third"}


def semantics(store: ObjectStore) -> Callable[[], Verdict]:
    """A check of reading, listing, ranges, overwriting and deleting. Its objects are gone afterwards."""

    def look() -> Verdict:
        with _place(store) as prefix:
            broken = list(_broken(store, prefix))
        if broken:
            return wrong(f"The object store is not as it must be: {'; '.join(broken)}.", broken=[*broken])
        return well("The object store reads, lists, cuts, refuses to overwrite and deletes as it must.")

    return look


def clock(store: ObjectStore) -> Callable[[], Verdict]:
    """A check of the clock by which the store tells when an object was made."""

    def look() -> Verdict:
        with _place(store) as prefix:
            before = time.time()
            store.put(f"{prefix}clock", b"now")
            after = time.time()
            told = store.stat(f"{prefix}clock").modified.timestamp()
        return judge("The object store", before=before, after=after + 1, told=told, most=MOST_SECONDS_OF_STORE)

    return look


def ownership(store: ObjectStore) -> Callable[[], Verdict]:
    """A check that this catalog may delete in the store."""

    def look() -> Verdict:
        owner, ours = owner_of(store), identity()
        if owner == ours:
            return well("The object store belongs to this catalog.", incarnation=ours.incarnation)
        if owner is None and ours.incarnation == 1:
            return well("The object store belongs to nobody yet.", incarnation=ours.incarnation)
        return odd(
            "The object store belongs to another catalog, or this one was restored: nothing is deleted."
            " If this catalog replaces the other one, run manage.py own_store.",
            incarnation=ours.incarnation,
            owner_incarnation=None if owner is None else owner.incarnation,
        )

    return look


@contextmanager
def _place(store: ObjectStore) -> Iterator[str]:
    """A prefix of this examination's own, below which nothing is left."""
    prefix = f"{PREFIX}{uuid4()}/"
    try:
        yield prefix
    finally:
        keys = [f"{prefix}{name}" for name in (*_OBJECTS, "clock")]
        store.delete_many(keys)  # by name: whether the store lists well is what is asked


def _broken(store: ObjectStore, prefix: str) -> Iterator[str]:
    keys = {f"{prefix}{name}": data for name, data in _OBJECTS.items()}
    made = [store.put(key, data) for key, data in keys.items()]
    _clear(store, before=made[-1].modified.timestamp())
    first = f"{prefix}a"
    if any(store.get(key) != data for key, data in keys.items()):
        yield "an object that was just written reads otherwise"
    if [info.key for info in store.list(prefix)] != sorted(keys):
        yield "a list lacks what was just written, or is out of order"
    if [info.key for info in store.list(prefix, after=first)] != sorted(keys)[1:]:
        yield "a list does not begin behind the key that was asked for"
    if store.get_range(first, 100, 50) != _OBJECTS["a"][100:150]:
        yield "a range is not the one that was asked for"
    if store.stat(first).size != len(_OBJECTS["a"]):
        yield "an object's size is told wrong"
    with suppress(ObjectExists):
        store.put(first, b"overwritten")
        yield "an object can be overwritten"
    if store.delete_many(keys):
        yield "objects cannot be deleted"
    if any(_exists(store, key) for key in keys) or any(True for _ in store.list(prefix)):
        yield "deleted objects are still there"


def _exists(store: ObjectStore, key: str) -> bool:
    try:
        store.get(key)
    except ObjectNotFound:
        return False
    return True


def _clear(store: ObjectStore, *, before: float) -> None:
    """What an examination that was killed has left is gone."""
    old = before - _LEFT_BEHIND.total_seconds()
    store.delete_many([info.key for info in store.list(PREFIX) if info.modified.timestamp() < old])
