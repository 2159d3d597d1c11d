"""What the bus no longer needs goes, beside the traffic; what somebody may still need stays."""

import os
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from functools import partial

import pytest
from django.db import connection, transaction
from django.db.models import F
from django.db.models.functions import Now

from catalog.expire import expire_snapshots
from catalog.publish import lock_head
from catalog.readset import read_set
from catalog.snapshots import resolve
from duckmesh.celery import app
from ingest.failed import discard, replay
from ingest.housekeeping import HousekeepingPolicy, Kept, keep_house
from ingest.key_index import rebuild_if_bloated
from ingest.models import IngestClaimItem, IngestEvent, IngestKey, IngestStaged
from ingest.publishing import WriteLimits, publish_one
from ingest.purge import purge_slice
from storage.local import LocalStore
from storage.store import Keys
from tests.factories import make_table, make_tenant
from tests.lake import Lake, fail_oldest, publication, record, write, write_ids
from tests.together import Background, together, wait_until_blocked

pytestmark = pytest.mark.django_db(transaction=True)

WINDOW = timedelta(days=7)


@pytest.fixture
def tenant_id() -> str:
    tenant_id = make_tenant()
    make_table(tenant_id=tenant_id)
    return tenant_id


def policy(lake: Lake, *, keys_per_slice: int = 20_000) -> HousekeepingPolicy:
    return HousekeepingPolicy(
        window=WINDOW,
        unnamed_for=timedelta(days=1),
        scratch=lake.root / "scratch",
        keys_per_slice=keys_per_slice,
    )


def clean(lake: Lake, **options: int) -> Kept:
    return keep_house(store=lake.store, policy=policy(lake, **options), seconds=30)


def age(tenant_id: str, *first_tokens: int, by: timedelta = WINDOW + timedelta(seconds=1)) -> None:
    """The envelopes with these tokens, or all, were accepted so much earlier."""
    events = IngestEvent.objects.filter(tenant_id=tenant_id)
    if first_tokens:
        events = events.filter(first_token__in=first_tokens)
    assert events.update(accepted_at=F("accepted_at") - by)


def tokens(tenant_id: str) -> list[int]:
    events = IngestEvent.objects.filter(tenant_id=tenant_id).order_by("first_token")
    return list(events.values_list("first_token", flat=True))


def test_keys_past_the_window_go_with_their_envelopes(lake: Lake, tenant_id: str) -> None:
    for identities in ("ab", "cd", "ef"):
        write_ids(tenant_id, *identities)
    lake.materialize(tenant_id)
    age(tenant_id, 1, 3)
    kept = clean(lake)
    assert (kept.keys, kept.envelopes, kept.finished) == (4, 2, True)
    assert tokens(tenant_id) == [5]
    assert IngestKey.objects.count() == 2
    assert IngestClaimItem.objects.count() == 1
    assert write_ids(tenant_id, "e").max_visibility_token == 6, "a retry within the window finds its first token"
    assert write_ids(tenant_id, "a").max_visibility_token == 7, "past the window it is a new record"
    assert lake.rows(tenant_id) == dict.fromkeys("abcdef", 1)
    assert clean(lake) == Kept(
        keys=0, envelopes=0, staged_objects=0, scratch_files=0, index_rebuilt=False, finished=True
    )


def test_key_younger_than_the_window_never_goes(lake: Lake, tenant_id: str) -> None:
    for identity in "abc":
        write_ids(tenant_id, identity)
    lake.materialize(tenant_id)
    age(tenant_id, by=WINDOW - timedelta(minutes=1))
    age(tenant_id, 1, by=timedelta(minutes=2))
    assert clean(lake).keys == 1
    assert tokens(tenant_id) == [2, 3]
    again = write_ids(tenant_id, "b", "c")
    assert (again.accepted_count, again.duplicate_count, again.max_visibility_token) == (0, 2, 3)


def test_newest_envelope_of_each_tenant_stays_because_tokens_go_on_from_it(lake: Lake, tenant_id: str) -> None:
    other = make_tenant()
    make_table(tenant_id=other)
    for tenant in (tenant_id, other):
        write_ids(tenant, "a", "b")
        write_ids(tenant, "c")
        lake.materialize(tenant)
        age(tenant)
    assert clean(lake).envelopes == 2
    for tenant in (tenant_id, other):
        assert tokens(tenant) == [3]
        assert write_ids(tenant, "d").max_visibility_token == 4


def test_what_is_not_done_stays_however_old(lake: Lake, tenant_id: str) -> None:
    write_ids(tenant_id, "failed")
    fail_oldest(tenant_id)
    write_ids(tenant_id, "pending")
    write_ids(tenant_id, "newest")
    age(tenant_id)
    assert clean(lake).envelopes == 0
    assert tokens(tenant_id) == [1, 2, 3]
    assert write_ids(tenant_id, "failed", "pending").duplicate_count == 2
    discard(tenant_id=tenant_id, event_id=IngestEvent.objects.get(state="failed").event_id, actor="test")
    lake.materialize(tenant_id)
    assert clean(lake).envelopes == 2
    assert tokens(tenant_id) == [3]


def test_hole_of_an_old_snapshot_stays_as_long_as_the_snapshot(lake: Lake, tenant_id: str) -> None:
    write_ids(tenant_id, "a")
    event_id = fail_oldest(tenant_id)
    write_ids(tenant_id, "b")
    lake.materialize(tenant_id)
    before = resolve(tenant_id=tenant_id).snapshot_id
    replay(tenant_id=tenant_id, event_id=event_id, actor="test")
    lake.materialize(tenant_id)
    write_ids(tenant_id, "c")
    age(tenant_id)
    assert clean(lake).envelopes == 1
    assert tokens(tenant_id) == [1, 3]
    read = read_set(tenant_id=tenant_id, names=["events"], snapshot_id=before, token=1)
    assert read is not None and read.failed_event_id == event_id
    expire_snapshots(tenant_id=tenant_id, snapshot_ids=range(before + 1))
    assert clean(lake).envelopes == 1
    assert tokens(tenant_id) == [3]


def test_slices_are_small_and_come_to_the_same(lake: Lake, tenant_id: str) -> None:
    for number in range(30):
        write_ids(tenant_id, *(f"{number}-{n}" for n in range(number % 5 + 1)))
    lake.materialize(tenant_id)
    age(tenant_id)
    sizes = []
    after: int | None = 0
    while after is not None:
        purged = purge_slice(after=after, window=WINDOW, most_keys=8)
        assert purged is not None
        sizes.append(purged.keys)
        after = purged.after
    assert max(sizes) <= 8 and sum(sizes) == 85
    assert IngestKey.objects.count() == 5 and len(tokens(tenant_id)) == 1


def test_run_stops_when_its_time_is_up_and_the_next_goes_on(lake: Lake, tenant_id: str) -> None:
    for number in range(6):
        write_ids(tenant_id, str(number))
    lake.materialize(tenant_id)
    age(tenant_id)
    stopped = keep_house(store=lake.store, policy=policy(lake), seconds=0)
    assert (stopped.envelopes, stopped.finished) == (0, False)
    assert clean(lake, keys_per_slice=1).envelopes == 5


def test_several_clean_at_once_and_writers_go_on(lake: Lake, tenant_id: str) -> None:
    for number in range(40):
        write_ids(tenant_id, f"old-{number}")
    lake.materialize(tenant_id)
    age(tenant_id)

    def send(writer: int) -> int:
        return sum(write_ids(tenant_id, f"new-{writer}-{n}", f"old-{n}").accepted_count for n in range(20))

    def run() -> int:
        return clean(lake, keys_per_slice=3).envelopes

    functions: list[Callable[[], int]] = [run, run, run, partial(send, 0), partial(send, 1)]
    together(functions)
    clean(lake)
    assert not IngestEvent.objects.filter(tenant_id=tenant_id, state="committed").exclude(last_token__gte=40).exists()
    orphaned = IngestKey.objects.exclude(event_id__in=IngestEvent.objects.values("event_id"))
    assert not orphaned.exists(), "a key's envelope outlives it"
    issued = [token for event in IngestEvent.objects.filter(tenant_id=tenant_id) for token in (event.first_token,)]
    assert len(issued) == len(set(issued))


def test_retry_during_a_purge_waits_for_it_and_is_accepted(lake: Lake, tenant_id: str) -> None:
    write(tenant_id, [record("a", key=None)], request_key="once")
    write_ids(tenant_id, "b")
    lake.materialize(tenant_id)
    age(tenant_id)
    with transaction.atomic():
        assert purge_slice(after=0, window=WINDOW, most_keys=100)
        retry = Background(partial(write, tenant_id, [record("a", key=None)], request_key="once"))
        time.sleep(0.2)
        assert not retry.done
    retry.result()
    assert tokens(tenant_id) == [2, 3]


def test_cleaning_waits_for_nobody_and_holds_up_nobody(lake: Lake, tenant_id: str) -> None:
    write_ids(tenant_id, "a")
    write_ids(tenant_id, "b")
    lake.materialize(tenant_id)
    age(tenant_id)
    with transaction.atomic():
        lock_head(tenant_id=tenant_id)
        cleaned = Background(partial(clean, lake)).result(10)
    assert isinstance(cleaned, Kept) and cleaned.envelopes == 1
    with transaction.atomic():
        assert purge_slice(after=0, window=WINDOW, most_keys=100)
        Background(partial(write_ids, tenant_id, "c")).result(10)
        assert Background(partial(purge_slice, after=0, window=WINDOW, most_keys=100)).result(10) is None


def test_keys_are_found_by_their_envelope_without_reading_them_all(tenant_id: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO ingest_key SELECT 1, gen_random_uuid(), gen_random_uuid(), i / 100"
            " FROM generate_series(1, 200000) i"
        )
        cursor.execute("SELECT brin_summarize_new_values('ingest_key_event')")
        cursor.execute("ANALYZE ingest_key")
        cursor.execute("EXPLAIN (ANALYZE, FORMAT JSON) DELETE FROM ingest_key WHERE event_id BETWEEN 500 AND 510")
        plan = str(cursor.fetchone()[0])
        cursor.execute("TRUNCATE ingest_key")
    assert "ingest_key_event" in plan


def stage(lake: Lake, tenant_id: str, name: str, *, event_id: int | None = None, hours: int = 0) -> str:
    """A staged object and its row, so many hours old."""
    path = f"_staged/{tenant_id}/{name}.envelope"
    lake.store.put(path, b"rows")
    row = IngestStaged.objects.create(tenant_id=tenant_id, path=path, size_bytes=4, event_id=event_id)
    IngestStaged.objects.filter(pk=row.pk).update(created_at=Now() - timedelta(hours=hours))
    return path


def staged(lake: Lake) -> tuple[set[str], set[str]]:
    """The staged objects, and those that have a row."""
    objects = {info.key for info in lake.store.list("_staged/")}
    return objects, set(IngestStaged.objects.values_list("path", flat=True))


def test_staged_objects_go_when_their_envelope_is_done_or_nobody_names_them(lake: Lake, tenant_id: str) -> None:
    for identity in "abc":
        write_ids(tenant_id, identity)
    ids = dict(IngestEvent.objects.values_list("first_token", "event_id"))
    IngestEvent.objects.filter(event_id=ids[1]).update(state="committed", snapshot_id=1)
    IngestEvent.objects.filter(event_id=ids[2]).update(state="discarded")
    stage(lake, tenant_id, "committed", event_id=ids[1])
    stage(lake, tenant_id, "discarded", event_id=ids[2])
    stage(lake, tenant_id, "purged", event_id=10**12)
    stage(lake, tenant_id, "abandoned", hours=25)
    needed = {
        stage(lake, tenant_id, "pending", event_id=ids[3], hours=1_000),
        stage(lake, tenant_id, "under-way", hours=23),
    }
    assert clean(lake).staged_objects == 4
    assert staged(lake) == (needed, needed)


def test_late_publication_keeps_its_staged_object(lake: Lake, tenant_id: str) -> None:
    path = stage(lake, tenant_id, "late", hours=25)
    late = publication(tenant_id, [record("a")])
    staged_id = IngestStaged.objects.get(path=path).staged_id
    with transaction.atomic():
        publish_one(replace(late, payload=b"", staged_id=staged_id), limits=WriteLimits())
        cleaning = Background(partial(clean, lake))
        wait_until_blocked(1)
    kept = cleaning.result()
    assert isinstance(kept, Kept) and kept.staged_objects == 0
    assert staged(lake) == ({path}, {path})


class Refusing(LocalStore):
    """A store that can delete nothing."""

    def delete_many(self, keys: object) -> Keys:
        assert isinstance(keys, dict)
        return list(keys)


def test_staged_object_that_the_store_keeps_keeps_its_row(lake: Lake, tenant_id: str) -> None:
    path = stage(lake, tenant_id, "abandoned", hours=25)
    refusing = Refusing(root=lake.root / "objects")
    assert keep_house(store=refusing, policy=policy(lake), seconds=30).staged_objects == 0
    assert staged(lake) == ({path}, {path})
    assert IngestStaged.objects.get().doomed_at is not None
    assert clean(lake).staged_objects == 1
    assert staged(lake) == (set(), set())


def test_scratch_of_the_dead_goes_and_that_of_the_living_stays(lake: Lake, tenant_id: str) -> None:
    scratch = lake.root / "scratch"
    for name in ("claim-old", "claim-new", "rewrite-old", "rewrite-new"):
        (scratch / name).mkdir(parents=True)
        (scratch / name / "0.parquet").write_bytes(b"rows")
    for name in ("spool-old", "spool-new", "foreign"):
        (scratch / name).write_bytes(b"rows")
    for name in ("claim-old", "rewrite-old", "spool-old", "foreign"):
        os.utime(scratch / name, (0, time.time() - 90_000))
    assert clean(lake).scratch_files == 3
    assert sorted(path.name for path in scratch.iterdir()) == ["claim-new", "foreign", "rewrite-new", "spool-new"]


def fill(keys: int) -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO ingest_key SELECT 1, gen_random_uuid(), gen_random_uuid(), i FROM generate_series(1, %s) i",
            [keys],
        )


def burst_is_over() -> None:
    """Few keys are left of many, and a vacuum has seen it."""
    IngestKey.objects.filter(event_id__gt=2_000).delete()
    with connection.cursor() as cursor:
        cursor.execute("VACUUM ingest_key")


def index_size() -> int:
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_relation_size('ingest_key_pkey')")
        return int(cursor.fetchone()[0])


def test_index_of_the_keys_is_rebuilt_after_a_burst_and_not_again() -> None:
    fill(50_000)
    assert not rebuild_if_bloated(least_bytes=2**16), "it is as large as it must be"
    burst_is_over()
    before = index_size()
    assert rebuild_if_bloated(least_bytes=2**16)
    assert index_size() < before / 10
    assert not rebuild_if_bloated(least_bytes=2**16)
    IngestKey.objects.all().delete()


@pytest.mark.long
def test_index_is_not_rebuilt_while_an_old_transaction_is_open() -> None:
    fill(50_000)
    burst_is_over()

    def dump() -> None:
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            cursor.execute("SELECT count(*) FROM ingest_key")
            cursor.execute("SELECT pg_sleep(7)")

    dumping = Background(dump)
    time.sleep(5.5)
    started = time.monotonic()
    assert not rebuild_if_bloated(least_bytes=2**16)
    assert time.monotonic() - started < 1
    dumping.result()
    assert rebuild_if_bloated(least_bytes=2**16)
    IngestKey.objects.all().delete()


def test_index_that_a_killed_rebuild_left_is_dropped() -> None:
    with connection.cursor() as cursor:
        cursor.execute("CREATE INDEX ingest_key_pkey_ccnew ON ingest_key (table_id, key_hash)")
        cursor.execute("UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'ingest_key_pkey_ccnew'::regclass")
        assert not rebuild_if_bloated(least_bytes=2**30)
        cursor.execute("SELECT to_regclass('ingest_key_pkey_ccnew')")
        assert cursor.fetchone()[0] is None


def test_beat_sends_housekeeping_to_the_maintenance_queue_and_its_task_runs(tenant_id: str) -> None:
    app.loader.import_default_modules()
    assert {entry["task"] for entry in app.conf.beat_schedule.values()} <= set(app.tasks)
    assert app.amqp.router.route({}, "ingest.tasks.keep_house")["queue"].name == "maintenance"
    assert app.amqp.router.route({}, "ingest.tasks.sweep")["queue"].name == "materialize"
    for identity in "ab":
        write_ids(tenant_id, identity)
    IngestEvent.objects.update(state="committed", snapshot_id=1)
    age(tenant_id)
    app.tasks["ingest.tasks.keep_house"]()
    assert tokens(tenant_id) == [2]
