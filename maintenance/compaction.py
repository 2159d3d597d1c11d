"""Small files of a table become fewer, and the operations on its keys are folded: the core that runs are made of.

Work goes in slices. Each slice replaces a few files by what holds the same rows, as far as a query can see, and is
published by itself, by compare-and-set on every file that it was computed from. A slice that is overtaken, or whose
process dies, has changed nothing and leaves at worst objects that no row names.
"""

from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta

import structlog
from django.db import connection, transaction

from catalog.errors import PublishConflict
from catalog.models import Snapshot, SnapshotFile
from catalog.publish import NewFile, lock_head, publish_snapshot
from catalog.tables import live_tables
from duckmesh.kernel.failpoints import failpoint
from maintenance.errors import RewriteTooSlow
from maintenance.inventory import Inventory, load_inventory
from maintenance.rewrite import RewriteLimits, rewriter
from maintenance.slices import Slice, SliceKind
from maintenance.tiers import CompactionPolicy, TableFile, by_partition, chunks, foldable, merges, worth_folding
from maintenance.workbench import Workbench
from storage.store import ObjectStore

log = structlog.get_logger(__name__)

_ACTOR = "compaction"


@dataclass(frozen=True, kw_only=True)
class CompactionLimits:
    """What a run may use: of this machine, and of time for one slice."""

    rewrite: RewriteLimits
    attempt: timedelta = timedelta(minutes=30)


@dataclass(frozen=True, kw_only=True)
class SliceDone:
    """What one slice has replaced by what, in the snapshot that it made."""

    snapshot_id: int
    kind: SliceKind
    input_files: int
    input_rows: int
    input_bytes: int
    output_files: int
    output_rows: int
    output_bytes: int


@dataclass(frozen=True, kw_only=True)
class CompactionResult:
    """What a run has done. `overtaken` says that something else changed its files, so that it stopped early."""

    slices: tuple[SliceDone, ...]
    overtaken: bool


def compact_table(
    *, tenant_id: str, table_id: int, store: ObjectStore, policy: CompactionPolicy, limits: CompactionLimits
) -> CompactionResult:
    """Every file of the table that the policy asks for is rewritten, as far as nothing else changes them meanwhile.

    Raises `TableNotFound`, and `RewriteUnproven` if a rewritten file does not hold what it must.
    """
    inventory = load_inventory(tenant_id=tenant_id, table_id=table_id)
    overtaken = False
    with rewriter(limits.rewrite) as engine:
        bench = Workbench(inventory=inventory, store=store, engine=engine)
        run = _Run(inventory=inventory, bench=bench, policy=policy, attempt=limits.attempt)
        try:
            for group in _groups(inventory):
                run.compact(group)
        except PublishConflict:
            log.warning("compaction_overtaken", tenant_id=tenant_id, table_id=table_id)
            overtaken = True
    return CompactionResult(slices=tuple(run.done), overtaken=overtaken)


def planned(*, tenant_id: str, table_id: int, policy: CompactionPolicy) -> list[tuple[str, tuple[str, ...]]]:
    """What a run would begin with, changing nothing: the kind of each slice and the objects that it would replace.

    Folded files that a fold cleans are found only while it runs.
    """
    inventory = load_inventory(tenant_id=tenant_id, table_id=table_id)
    slices: list[Slice] = []
    for group in _groups(inventory):
        ready, _ = foldable((file for file in group if not file.folded), before=inventory.first_hole)
        if inventory.key and worth_folding(ready, [file for file in group if file.folded], policy):
            slices.append(Slice(kind=SliceKind.SETTLE, inputs=ready))
        slices += _plain_slices(group, inventory, policy)
    return [(item.kind.value, tuple(file.path for file in item.inputs)) for item in slices]


def _groups(inventory: Inventory) -> list[tuple[TableFile, ...]]:
    """Files that are compacted together: a partition's, or all of a keyed table where a key may be in two groups."""
    groups = by_partition(inventory.files)
    return groups if not inventory.key or inventory.partitions_divide_keys else [inventory.files]


def _plain_slices(files: tuple[TableFile, ...], inventory: Inventory, policy: CompactionPolicy) -> list[Slice]:
    """The slices of a group that can be done in any order, each file in one at most."""
    if not inventory.key:
        return [Slice(kind=SliceKind.MERGE, inputs=chunk) for chunk in merges(files, policy)]
    folded = [file for file in files if file.folded]
    slices = [Slice(kind=SliceKind.MERGE, inputs=chunk) for chunk in merges(folded, policy)]
    # What lies before the failed write is kept apart from what lies after it, so that it can be folded while it waits.
    hole = inventory.first_hole
    older = [file for file in files if not file.folded and (hole is None or file.max_token < hole)]
    newer = [file for file in files if not file.folded and hole is not None and file.max_token >= hole]
    slices += [
        Slice(kind=SliceKind.GATHER, inputs=chunk)
        for side in (older, newer)
        if len(side) >= policy.max_fresh_files
        for chunk in chunks(side, most_bytes=policy.max_input_bytes)
        if len(chunk) > 1
    ]
    return slices


@dataclass(kw_only=True)
class _Run:
    """A run on its way through the groups of a table's files."""

    inventory: Inventory
    bench: Workbench
    policy: CompactionPolicy
    attempt: timedelta
    done: list[SliceDone] = field(default_factory=list)
    # The table's live files as this run knows them: those it saw and those it made.
    known: set[int] = field(init=False)

    def __post_init__(self) -> None:
        self.known = {file.file_id for file in self.inventory.files}

    def compact(self, group: tuple[TableFile, ...]) -> None:
        """All slices of the group are published."""
        rest = self._fold(group) if self.inventory.key else group
        for item in _plain_slices(rest, self.inventory, self.policy):
            self._rewrite(item)

    def _fold(self, group: tuple[TableFile, ...]) -> tuple[TableFile, ...]:
        """Folds what can be, if that is worth it; the files of the group that this has left untouched."""
        folded = [file for file in group if file.folded]
        fresh = [file for file in group if not file.folded]
        ready, reached = foldable(fresh, before=self.inventory.first_hole)
        if not worth_folding(ready, folded, self.policy):
            return group
        touched = self.bench.touched(folded, later=ready)
        for chunk in chunks(touched, most_bytes=self.policy.target_file_bytes):
            self._rewrite(Slice(kind=SliceKind.CLEAN, inputs=chunk, later=ready))
        self._rewrite(Slice(kind=SliceKind.SETTLE, inputs=ready), settles_to=reached)
        gone = {file.file_id for file in (*touched, *ready)}
        return tuple(file for file in group if file.file_id not in gone)

    def _rewrite(self, item: Slice, *, settles_to: int | None = None) -> None:
        deadline = _deadline(self.attempt)
        added: list[NewFile] = []
        for number, made in enumerate(self.bench.rewrite(item, target_bytes=self.policy.target_file_bytes)):
            failpoint("compaction.after_read")
            added.append(self.bench.put(made, item=item, number=number))
        failpoint("compaction.after_put")
        with transaction.atomic():
            snapshot_id = self._publish(item, added, settles_to=settles_to, deadline=deadline)
            failpoint("compaction.before_commit")
        failpoint("compaction.after_commit")
        done = SliceDone(
            snapshot_id=snapshot_id,
            kind=item.kind,
            input_files=len(item.inputs),
            input_rows=sum(file.row_count for file in item.inputs),
            input_bytes=sum(file.size_bytes for file in item.inputs),
            output_files=len(added),
            output_rows=sum(file.row_count for file in added),
            output_bytes=sum(file.size_bytes for file in added),
        )
        self.done.append(done)
        log.info("files_compacted", tenant_id=self.inventory.tenant_id, **asdict(done))

    def _publish(self, item: Slice, added: list[NewFile], *, settles_to: int | None, deadline: datetime) -> int:
        """The slice is in the next snapshot, if all that it was computed from is still so."""
        tenant_id, table_id = self.inventory.tenant_id, self.inventory.table.table_id
        lock_head(tenant_id=tenant_id)
        if _is_past(deadline):
            raise RewriteTooSlow("The rewrite took longer than an attempt may.", retry_after=1)
        live = {
            row.file_id: row.file
            for row in SnapshotFile.objects.select_related("file").filter(table_id=table_id, removed_in=None)
        }
        needed = self.known if settles_to is not None else {file.file_id for file in (*item.inputs, *item.later)}
        if not needed <= live.keys():
            raise PublishConflict("A file that the rewrite read has left the latest snapshot.", files=len(needed))
        present = next((t for t in live_tables(tenant_id=tenant_id).tables.values() if t.table_id == table_id), None)
        if present is None or not self.inventory.fits(present.schema):
            raise PublishConflict("The table was dropped, or older columns of it have come back.", table_id=table_id)
        if settles_to is not None and any(
            file.folded or file.min_token <= settles_to for id_, file in live.items() if id_ not in self.known
        ):
            raise PublishConflict("Older rows of the table have come back.", token=settles_to)
        snapshot = publish_snapshot(
            tenant_id=tenant_id,
            kind=Snapshot.Kind.COMPACTION,
            actor=_ACTOR,
            added=added,
            removed=[file.file_id for file in item.inputs],
        )
        made = SnapshotFile.objects.filter(tenant_id=tenant_id, table_id=table_id, added_in=snapshot.snapshot_id)
        self.known -= {file.file_id for file in item.inputs}
        self.known |= set(made.values_list("file_id", flat=True))
        return snapshot.snapshot_id


def _deadline(limit: timedelta) -> datetime:
    """When an attempt that begins now must have published, by the database's clock."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT clock_timestamp() + make_interval(secs => %s)", [limit.total_seconds()])
        found: datetime = cursor.fetchone()[0]
        return found


def _is_past(deadline: datetime) -> bool:
    with connection.cursor() as cursor:
        cursor.execute("SELECT clock_timestamp() > %s", [deadline])
        return bool(cursor.fetchone()[0])
