"""Compaction as a job: scopes and options, dry runs, interruptions at every point, rivals, and its summary."""

import random
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest
from prometheus_client import REGISTRY

from catalog.errors import TableNotFound, TenantNotFound
from catalog.models import DataFile, SnapshotFile
from catalog.snapshots import resolve
from catalog.tables import drop_table, live_tables
from maintenance.compaction import CompactionOptions, CompactionSettings, perform, planned
from maintenance.compactor import SliceDone
from maintenance.errors import RewriteNeedsRoom, RunCancelled, RunPaused
from maintenance.job import Scope, Workplace
from maintenance.planning import Fold, Work
from maintenance.tiers import CompactionPolicy
from tests.factories import make_table, make_tenant
from tests.lake import Lake, record, write, write_ids
from tests.progress import Recorder
from tests.tables import LIMITS, compact, rows_at, state_at
from tests.together import together

pytestmark = pytest.mark.django_db(transaction=True)

POLICY = CompactionPolicy(min_input_files=3, max_fresh_files=3, min_fold_files=5)


@pytest.fixture
def tenant_id() -> str:
    tenant_id = make_tenant()
    make_table(tenant_id=tenant_id)
    return tenant_id


def write_files(lake: Lake, tenant_id: str, identities: Iterable[str], *, table: str = "events") -> None:
    """A file for each identity."""
    for identity in identities:
        write_ids(tenant_id, identity, table=table)
        assert lake.materialize(tenant_id) == 1


def run(
    lake: Lake,
    *,
    tenant_id: str | None = None,
    table_id: int | None = None,
    progress: Recorder | None = None,
    policy: CompactionPolicy = POLICY,
    keep_free_bytes: int = 0,
    **options: Any,
) -> dict[str, Any]:
    """The summary of a run."""
    return perform(
        scope=Scope(tenant_id=tenant_id, table_id=table_id),
        options=CompactionOptions(**options),
        place=Workplace(store=lake.store, scratch=lake.root / "scratch"),
        settings=CompactionSettings(
            policy=policy,
            limits=replace(LIMITS, rewrite=replace(LIMITS.rewrite, keep_free_bytes=keep_free_bytes)),
        ),
        progress=progress or Recorder(),
    )


def live(tenant_id: str) -> list[DataFile]:
    return list(DataFile.objects.filter(tenant_id=tenant_id, intervals__removed_in=None).order_by("min_token"))


def table_of(tenant_id: str, name: str = "events") -> int:
    return live_tables(tenant_id=tenant_id).find(name).table_id


def test_run_tells_what_it_replaced_and_how_the_files_are_shaped(lake: Lake, tenant_id: str) -> None:
    write_files(lake, tenant_id, "abcdefg")
    before, tokens = resolve(tenant_id=tenant_id), lake.tokens(tenant_id)
    counted = REGISTRY.get_sample_value("duckmesh_compaction_bytes_rewritten_total") or 0
    progress = Recorder()
    summary = run(lake, tenant_id=tenant_id, progress=progress)
    (file,) = live(tenant_id)
    told = {name: summary[name] for name in ("tables_examined", "tables_compacted", "slices", "input_files")}
    assert told == {"tables_examined": 1, "tables_compacted": 1, "slices": 1, "input_files": 7}
    assert (summary["output_files"], summary["output_rows"], summary["output_bytes"]) == (1, 7, file.size_bytes)
    assert summary["before"]["file_sizes"]["below_64KiB"] == summary["before"]["files"] == 7
    assert summary["after"]["file_sizes"]["below_64KiB"] == summary["after"]["files"] == 1
    assert (summary["before"]["write_amplification"], summary["after"]["write_amplification"]) == (1.0, 2.0)
    assert [table["table_name"] for table in summary["tables"]] == ["events"]
    assert [(name, facts["input_files"]) for name, facts in progress.steps] == [("merge", 7)]
    counted_now = REGISTRY.get_sample_value("duckmesh_compaction_bytes_rewritten_total") or 0
    assert counted_now == counted + file.size_bytes
    assert lake.tokens(tenant_id, snapshot_id=before.snapshot_id) == lake.tokens(tenant_id) == tokens
    assert run(lake, tenant_id=tenant_id)["tables"] == []


def test_dry_run_lists_the_groups_and_changes_nothing(lake: Lake, tenant_id: str) -> None:
    write_files(lake, tenant_id, "abc")
    at, files = resolve(tenant_id=tenant_id), live(tenant_id)
    summary = run(lake, tenant_id=tenant_id, dry_run=True)
    assert (summary["group_count"], summary["input_files"]) == (1, 3)
    (group,) = summary["groups"]
    assert {name: group[name] for name in ("table_name", "kind", "partition", "files", "rows", "bytes", "inputs")} == {
        "table_name": "events",
        "kind": "merge",
        "partition": {},
        "files": 3,
        "rows": 3,
        "bytes": sum(file.size_bytes for file in files),
        "inputs": [file.path for file in files],
    }
    assert resolve(tenant_id=tenant_id) == at
    assert not (lake.root / "scratch").exists() or not list((lake.root / "scratch").iterdir())


def test_options_take_the_place_of_what_is_configured(lake: Lake, tenant_id: str) -> None:
    write_files(lake, tenant_id, "ab")
    assert run(lake, tenant_id=tenant_id)["slices"] == 0
    assert run(lake, tenant_id=tenant_id, min_input_files=2)["slices"] == 1
    write_files(lake, tenant_id, "c")
    assert run(lake, tenant_id=tenant_id, full=True)["slices"] == 1
    assert len(live(tenant_id)) == 1


def test_scope_is_a_table_a_tenant_or_everything(lake: Lake, tenant_id: str) -> None:
    make_table(tenant_id=tenant_id, name="other")
    stranger = make_tenant()
    make_table(tenant_id=stranger)
    for tenant, table in ((tenant_id, "events"), (tenant_id, "other"), (stranger, "events")):
        write_files(lake, tenant, "abc", table=table)
    summary = run(lake, tenant_id=tenant_id, table_id=table_of(tenant_id, "other"))
    assert [table["table_name"] for table in summary["tables"]] == ["other"]
    assert [table["table_name"] for table in run(lake, tenant_id=tenant_id)["tables"]] == ["events"]
    assert [table["tenant_id"] for table in run(lake)["tables"]] == [stranger]
    with pytest.raises(TenantNotFound):
        run(lake, tenant_id="nobody")
    drop_table(tenant_id=stranger, name="events", actor="test")
    with pytest.raises(TableNotFound):
        run(lake, tenant_id=tenant_id, table_id=table_of(tenant_id) + 10**6)


def test_table_that_is_dropped_during_a_run_is_left_alone(lake: Lake, tenant_id: str) -> None:
    make_table(tenant_id=tenant_id, name="later")
    for table in ("events", "later"):
        write_files(lake, tenant_id, "abc", table=table)

    def drop() -> None:
        if "later" in live_tables(tenant_id=tenant_id).tables:
            drop_table(tenant_id=tenant_id, name="later", actor="test")

    summary = run(lake, tenant_id=tenant_id, progress=Recorder(beside=drop))
    assert [table["table_name"] for table in summary["tables"]] == ["events"]


def operations(rng: random.Random, *, keyed: bool) -> list[dict[str, Any]]:
    """Some records; of a keyed table also upserts of a few keys, and deletes."""
    made = []
    for _ in range(rng.randrange(1, 4)):
        identity = str(rng.randrange(12))
        op = rng.choice(["upsert", "upsert", "delete"]) if keyed else None
        made.append(record(identity, n=rng.randrange(100), key=None, op=op))
    return made


def contents(lake: Lake, tenant_id: str, *, keyed: bool, snapshot_id: int | None = None) -> Any:
    """What a query shows, in an order of its own."""
    if keyed:
        return state_at(lake, tenant_id, snapshot_id=snapshot_id)
    return sorted((row["id"], row["n"]) for row in rows_at(lake, tenant_id, snapshot_id=snapshot_id))


def require_done_first(tenant_id: str, plan: list[Work], slices: list[SliceDone]) -> None:
    """The first slices of a run were the planned ones, in their order; a fold cleans folded files before it settles."""
    rest = [(done, done.kind, set(_removed(tenant_id, done))) for done in slices]
    for item in plan:
        inputs = {file.file_id for file in item.inputs}
        if isinstance(item, Fold):
            while rest[0][1] == "clean":
                assert rest.pop(0)[2] <= {file.file_id for file in item.folded}
        _, kind, removed = rest.pop(0)
        assert (kind, removed) == ("settle" if isinstance(item, Fold) else item.kind, inputs)


def _removed(tenant_id: str, done: SliceDone) -> Iterable[int]:
    rows = SnapshotFile.objects.filter(tenant_id=tenant_id, removed_in=done.snapshot_id)
    return rows.values_list("file_id", flat=True)


@pytest.mark.parametrize("keyed", [False, True])
def test_what_is_planned_is_done_and_nothing_is_planned_after_it(lake: Lake, keyed: bool) -> None:
    rng = random.Random(f"compaction {keyed}")
    tenant_id = make_tenant()
    table_id = make_table(tenant_id=tenant_id, primary_key_cols=["id"] if keyed else []).table_id
    kinds: set[str] = set()
    for _ in range(9):
        for _ in range(rng.randrange(1, 5)):
            write(tenant_id, operations(rng, keyed=keyed))
            assert lake.materialize(tenant_id) == 1
        policy = {
            "min_input_files": rng.choice([2, 3, 4]),
            "max_fresh_files": rng.choice([2, 3, 5]),
            "min_fold_files": rng.choice([2, 6]),
            "max_input_files": rng.choice([3, 1_000]),
            "max_input_bytes": rng.choice([3_000, 2**29]),
        }
        at, shown = resolve(tenant_id=tenant_id), contents(lake, tenant_id, keyed=keyed)
        plan = planned(tenant_id=tenant_id, table_id=table_id, policy=CompactionPolicy(**policy))
        result = compact(lake, tenant_id, **policy)
        require_done_first(tenant_id, plan, list(result.slices))
        assert bool(plan) == bool(result.slices)
        assert not result.overtaken, "no piece of a plan is in the way of another"
        assert planned(tenant_id=tenant_id, table_id=table_id, policy=CompactionPolicy(**policy)) == []
        assert contents(lake, tenant_id, keyed=keyed) == shown
        assert contents(lake, tenant_id, keyed=keyed, snapshot_id=at.snapshot_id) == shown
        kinds |= {done.kind for done in result.slices}
    assert kinds == ({"merge", "gather", "clean", "settle"} if keyed else {"merge"}), "every kind was met"


def test_folded_files_are_merged_after_the_fold_that_cleans_them(lake: Lake) -> None:
    tenant_id = make_tenant()
    table_id = make_table(tenant_id=tenant_id, primary_key_cols=["id"]).table_id
    for identity in "abc":
        write_files(lake, tenant_id, identity)
        compact(lake, tenant_id, min_input_files=9, min_fold_files=1)
    assert [file.folded for file in live(tenant_id)] == [True, True, True]
    write(tenant_id, [record("a", n=1, key=None)])
    assert lake.materialize(tenant_id) == 1
    policy = CompactionPolicy().full()
    assert [item.kind for item in planned(tenant_id=tenant_id, table_id=table_id, policy=policy)] == ["fold"]
    result = compact(lake, tenant_id)
    assert [done.kind for done in result.slices] == ["clean", "settle", "merge"]
    assert not result.overtaken


@pytest.fixture
def busy_tenant(lake: Lake) -> str:
    """A tenant with work of every kind: a table without a key, and a keyed one with folded files and operations."""
    tenant_id = make_tenant()
    make_table(tenant_id=tenant_id)
    make_table(tenant_id=tenant_id, name="keyed", primary_key_cols=["id"])
    write_files(lake, tenant_id, "abc")
    write_files(lake, tenant_id, "abc", table="keyed")
    compact(lake, tenant_id, "keyed")
    for number in range(5):
        write(tenant_id, [record("b", n=number, key=None)], table="keyed")
        assert lake.materialize(tenant_id) == 1
    return tenant_id


def everything(lake: Lake, tenant_id: str) -> Any:
    return contents(lake, tenant_id, keyed=False), state_at(lake, tenant_id, "keyed")


def test_run_that_is_paused_at_any_moment_goes_on_and_counts_all_it_did(lake: Lake, busy_tenant: str) -> None:
    shown, cursor, pauses = everything(lake, busy_tenant), {}, 0
    files_before = len(live(busy_tenant))
    while True:
        progress = Recorder(error=RunPaused("Time is up."), fail_at=4, cursor=cursor)
        try:
            summary = run(lake, tenant_id=busy_tenant, progress=progress)
            break
        except RunPaused:
            pauses += 1
            cursor = dict(progress.cursor)
            assert everything(lake, busy_tenant) == shown
            assert not list((lake.root / "scratch").iterdir())
    assert pauses >= 2
    assert everything(lake, busy_tenant) == shown
    assert (summary["tables_examined"], summary["tables_compacted"]) == (2, 2)
    assert (summary["before"]["files"], summary["after"]["files"]) == (files_before, len(live(busy_tenant)))
    assert summary["slices"] == 3, "a merge, a clean and a settle"


def test_run_that_is_cancelled_at_any_moment_leaves_what_it_had_finished(lake: Lake, busy_tenant: str) -> None:
    shown, moment = everything(lake, busy_tenant), 0
    while True:
        moment += 1
        progress = Recorder(error=RunCancelled("Enough."), fail_at=moment)
        try:
            run(lake, tenant_id=busy_tenant, progress=progress)
            break
        except RunCancelled:
            assert everything(lake, busy_tenant) == shown
            assert not list((lake.root / "scratch").iterdir())
            stored = {info.key for info in lake.store.list("")}
            assert {file.path for file in live(busy_tenant)} <= stored
    assert moment > 5
    assert everything(lake, busy_tenant) == shown
    assert planned(tenant_id=busy_tenant, table_id=table_of(busy_tenant, "keyed"), policy=POLICY) == []


def test_progress_grows_to_the_end(lake: Lake, busy_tenant: str) -> None:
    progress = Recorder()
    run(lake, tenant_id=busy_tenant, progress=progress)
    shares = progress.shares
    assert shares == sorted(shares)
    assert 0 <= shares[0] < shares[-1] < 1
    assert set(progress.phases) >= {"planning", "merge", "clean", "settle"}


@pytest.mark.parametrize("moment", [2, 4, 6])
def test_rival_at_the_same_table_costs_work_and_nothing_else(lake: Lake, busy_tenant: str, moment: int) -> None:
    shown, heard = everything(lake, busy_tenant), []

    def rival() -> None:
        heard.append(1)
        if len(heard) == moment:
            run(lake, tenant_id=busy_tenant, full=True)

    run(lake, tenant_id=busy_tenant, progress=Recorder(beside=rival))
    assert everything(lake, busy_tenant) == shown
    assert planned(tenant_id=busy_tenant, table_id=table_of(busy_tenant, "keyed"), policy=POLICY) == []
    assert planned(tenant_id=busy_tenant, table_id=table_of(busy_tenant), policy=POLICY) == []


def test_compactors_of_all_tables_run_beside_each_other_and_beside_ingest(lake: Lake, busy_tenant: str) -> None:
    written = [f"new-{number}" for number in range(12)]

    def ingest() -> None:
        for identity in written:
            write_ids(busy_tenant, identity)
            write(busy_tenant, [record(identity, key=None), record("b", n=99, key=None)], table="keyed")
            lake.materialize(busy_tenant)

    def compactor() -> None:
        for _ in range(4):
            run(lake, tenant_id=busy_tenant, min_input_files=2, max_fresh_files=2, min_fold_files=1)

    together([ingest, compactor, compactor])
    run(lake, tenant_id=busy_tenant, full=True)
    assert sorted(row["id"] for row in rows_at(lake, busy_tenant)) == sorted([*"abc", *written])
    state = {key: row["n"] for key, row in state_at(lake, busy_tenant, "keyed").items()}
    assert state == {"a": 0, "b": 99, "c": 0} | dict.fromkeys(written, 0)
    assert len(live(busy_tenant)) == 2


@pytest.mark.parametrize("keyed", [False, True])
def test_run_ends_although_files_keep_coming(lake: Lake, keyed: bool) -> None:
    tenant_id = make_tenant()
    make_table(tenant_id=tenant_id, primary_key_cols=["id"] if keyed else [])
    written = ["a", "b"]
    write_files(lake, tenant_id, written)

    def ingest() -> None:
        assert len(written) < 30, "the run follows what is written meanwhile"
        written.append(f"new-{len(written)}")
        write_files(lake, tenant_id, written[-1:])

    run(lake, tenant_id=tenant_id, full=True, progress=Recorder(beside=ingest))
    assert sorted(row["id"] for row in rows_at(lake, tenant_id)) == sorted(written)


def test_disk_without_room_is_named_and_nothing_is_done(lake: Lake, tenant_id: str) -> None:
    write_files(lake, tenant_id, "abc")
    at = resolve(tenant_id=tenant_id)
    with pytest.raises(RewriteNeedsRoom) as caught:
        run(lake, tenant_id=tenant_id, keep_free_bytes=2**60)
    needed, spare = caught.value.context["needed_bytes"], caught.value.context["spare_bytes"]
    assert isinstance(needed, int)
    assert needed > 0 == spare
    assert resolve(tenant_id=tenant_id) == at
    assert not list((lake.root / "scratch").iterdir())


def test_slices_that_fit_on_the_disk_are_done_without_those_that_do_not(lake: Lake, tenant_id: str) -> None:
    make_table(tenant_id=tenant_id, name="small")
    write_files(lake, tenant_id, "abc")
    DataFile.objects.filter(tenant_id=tenant_id).update(size_bytes=2**50)
    write_files(lake, tenant_id, "abc", table="small")
    policy = replace(POLICY, target_file_bytes=2**55, max_input_bytes=2**55)
    summary = run(lake, tenant_id=tenant_id, policy=policy)
    assert [(table["table_name"], table["slices"], table["skipped"]) for table in summary["tables"]] == [
        ("events", 0, 1),
        ("small", 1, 0),
    ]


def test_row_is_rewritten_as_often_as_the_number_of_files_has_digits(lake: Lake, tenant_id: str) -> None:
    for number in range(27):
        write_files(lake, tenant_id, [str(number)])
        if number % 3 == 2:
            summary = run(lake, tenant_id=tenant_id)
    (file,) = live(tenant_id)
    assert file.row_count == 27
    assert summary["after"]["write_amplification"] == 1 + 3, "27 is 3 to the third"
