"""Large payloads lie in the object store until their rows are published; what comes to nothing leaves nothing."""

from collections.abc import Iterable

import pytest

from duckmesh.kernel.errors import Unavailable
from ingest import bus
from ingest.accept import Staging
from ingest.errors import IdempotencyConflict
from ingest.models import IngestPayload, IngestStaged
from storage.errors import StoreUnavailable
from storage.local import LocalStore
from storage.store import Keys, ObjectInfo
from tests.factories import make_table, make_tenant
from tests.lake import Lake, record, write

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def tenant_id() -> str:
    tenant_id = make_tenant()
    make_table(tenant_id=tenant_id)
    return tenant_id


def staging(lake: Lake) -> Staging:
    return Staging(store=lake.store, above_bytes=1_000)


def staged_objects(lake: Lake) -> list[str]:
    return [found.key for found in lake.store.list("_staged/")]


MANY = [record(f"r-{n}", n=n) for n in range(500)]


def test_large_payload_is_claimed_from_the_store(tenant_id: str, lake: Lake) -> None:
    answer = write(tenant_id, MANY, staging=staging(lake))
    assert answer.accepted_count == 500
    row = IngestStaged.objects.get(tenant_id=tenant_id)
    assert staged_objects(lake) == [row.path]
    assert not IngestPayload.objects.filter(event_id=row.event_id).exists()
    claim = bus.claim(tenant_id=tenant_id, consumer_id="test", policy=lake.claim)
    assert claim is not None
    assert [(one.payload, one.staged_path) for one in claim.envelopes] == [(b"", row.path)]
    assert lake.store.stat(row.path).size == row.size_bytes == answer.size_bytes


def test_small_payload_is_not_staged(tenant_id: str, lake: Lake) -> None:
    write(tenant_id, MANY[:2], staging=staging(lake))
    assert not IngestStaged.objects.filter(tenant_id=tenant_id).exists()


def test_duplicates_replays_and_conflicts_leave_no_object(tenant_id: str, lake: Lake) -> None:
    write(tenant_id, MANY, staging=staging(lake), request_key="k")
    left = staged_objects(lake)
    assert write(tenant_id, MANY, staging=staging(lake), request_key="k").replayed
    assert write(tenant_id, MANY, staging=staging(lake)).duplicate_count == 500
    with pytest.raises(IdempotencyConflict):
        write(tenant_id, MANY[:-1], staging=staging(lake), request_key="k")
    assert staged_objects(lake) == left
    assert IngestStaged.objects.filter(tenant_id=tenant_id).count() == 1


class Keeping(LocalStore):
    """A store that can delete nothing."""

    def delete_many(self, keys: Iterable[str]) -> Keys:
        return list(keys)


def test_object_that_the_store_keeps_keeps_its_row(tenant_id: str, lake: Lake) -> None:
    write(tenant_id, MANY, request_key="k")
    keeping = Staging(store=Keeping(root=lake.root / "objects"), above_bytes=1_000)
    assert write(tenant_id, MANY, staging=keeping, request_key="k").replayed
    row = IngestStaged.objects.get(tenant_id=tenant_id)
    assert staged_objects(lake) == [row.path]
    assert row.doomed_at is not None


class BrokenStore(LocalStore):
    """A store that takes nothing."""

    def put(self, key: str, data: bytes) -> ObjectInfo:
        raise StoreUnavailable(f"The store takes no {len(data)} bytes as {key}")


def test_store_that_is_down_refuses_the_write_and_leaves_a_row_to_clean_up(tenant_id: str, lake: Lake) -> None:
    broken = Staging(store=BrokenStore(root=lake.root / "broken"), above_bytes=1_000)
    with pytest.raises(Unavailable):
        write(tenant_id, MANY, staging=broken)
    assert IngestStaged.objects.filter(tenant_id=tenant_id, event=None).count() == 1
    assert write(tenant_id, MANY, staging=staging(lake)).accepted_count == 500, "no key was taken"
