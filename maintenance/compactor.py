"""One table is compacted: rounds of planning and of slices, each of which is published by itself.

A slice replaces a few files by what holds the same rows, as far as a query can see, by compare-and-set on every file
that it was computed from. A slice that is overtaken, or whose process dies, has changed nothing and leaves at worst
objects that no row names.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta

import structlog
from django.db import connection, transaction
from django.db.models import Q

from catalog.errors import PublishConflict, TableNotFound
from catalog.models import DataFile, Snapshot, SnapshotFile
from catalog.publish import NewFile, lock_head, publish_snapshot
from catalog.tables import live_tables
from duckmesh.kernel.failpoints import failpoint
from duckmesh.kernel.metrics import compaction_bytes_rewritten
from maintenance.errors import RewriteNeedsRoom, RewriteTooSlow
from maintenance.inventory import Inventory, load_inventory
from maintenance.job import Workplace
from maintenance.planning import Fold, Work, plan_table
from maintenance.rewrite import RewriteLimits, rewriter, spare_bytes
from maintenance.room import room_needed
from maintenance.slices import Slice, SliceKind
from maintenance.tiers import CompactionPolicy, TableFile, chunks
from maintenance.workbench import Workbench

log = structlog.get_logger(__name__)

_ACTOR = "compaction"
_MOST_CONFLICTS = 3


@dataclass(frozen=True, kw_only=True)
class CompactionLimits:
    """What a run may use: of this machine, and of time for one slice."""

    rewrite: RewriteLimits
    attempt: timedelta


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
    """What was done to a table, and what it consisted of before and after.

    `overtaken` counts the slices that gave up because something else had changed their files, `skipped` those for
    which the disk has no room, of which `short` is the last.
    """

    slices: tuple[SliceDone, ...]
    overtaken: int
    skipped: int
    short: RewriteNeedsRoom | None
    before: tuple[TableFile, ...]
    after: tuple[TableFile, ...]


class Watch:
    """Who is told between pieces of work of seconds, and of each slice that is published; it may raise to stop."""

    def begins(self, files: Sequence[TableFile]) -> None:
        """These are the files of the table at the beginning."""

    def at(self, phase: str, done: float) -> None:
        """This is being done, and so much of the table's work (0..1) is behind."""

    def published(self, done: SliceDone) -> None:
        """The slice is in the latest snapshot."""


def compact_table(
    *,
    tenant_id: str,
    table_id: int,
    place: Workplace,
    policy: CompactionPolicy,
    limits: CompactionLimits,
    watch: Watch | None = None,
) -> CompactionResult:
    """Of the files that the table had at the beginning none is left that the policy asks to rewrite.

    What arrives meanwhile is left to the next run, unless the work of this one needs it. A table that is dropped
    meanwhile is left alone; one that was before raises `TableNotFound`. Raises `RewriteUnproven` if a file does not
    hold what it must.
    """
    run = _Run(place=place, policy=policy, limits=limits, watch=watch or Watch())
    inventory = load_inventory(tenant_id=tenant_id, table_id=table_id)
    before, at_start = inventory.files, {file.file_id for file in inventory.files}
    run.watch.begins(before)
    while work := [item for item in plan_table(inventory, policy=policy) if run.is_due(item, at_start=at_start)]:
        with rewriter(limits.rewrite, scratch=place.scratch) as engine:
            bench = Workbench(inventory=inventory, store=place.store, engine=engine)
            goes_on = _Round(run=run, inventory=inventory, bench=bench).work_off(work)
        try:
            inventory = load_inventory(tenant_id=tenant_id, table_id=table_id)
        except TableNotFound:
            break
        if not goes_on:
            break
    return CompactionResult(
        slices=tuple(run.done),
        overtaken=run.overtaken,
        skipped=run.skipped,
        short=run.short,
        before=before,
        after=inventory.files,
    )


@dataclass(kw_only=True)
class _Run:
    """What a run has done to its table so far."""

    place: Workplace
    policy: CompactionPolicy
    limits: CompactionLimits
    watch: Watch
    done: list[SliceDone] = field(default_factory=list)
    made: set[int] = field(default_factory=set)
    overtaken: int = 0
    skipped: int = 0
    short: RewriteNeedsRoom | None = None

    def is_due(self, item: Work, *, at_start: set[int]) -> bool:
        """Whether this run should do it. Work on arrivals alone, or on them and what it made, might never end."""
        ids = {file.file_id for file in item.inputs}
        return ids <= self.made or not ids.isdisjoint(at_start)


@dataclass(kw_only=True)
class _Round:
    """The work that was planned for the files of one inventory."""

    run: _Run
    inventory: Inventory
    bench: Workbench
    # The table's live files as this round knows them: those of the inventory and those it made.
    known: set[int] = field(init=False)
    share: float = 0.0

    def __post_init__(self) -> None:
        self.known = {file.file_id for file in self.inventory.files}

    def work_off(self, work: Sequence[Work]) -> bool:
        """What the disk has room for is done, and the rest is skipped; whether another round may find more."""
        run, published = self.run, len(self.run.done)
        run.skipped = 0
        total, behind = sum(item.input_bytes for item in work), 0
        for item in work:
            self.share = behind / total
            behind += item.input_bytes
            try:
                self._do(item)
            except RewriteNeedsRoom as exc:
                run.skipped, run.short = run.skipped + 1, exc
                log.warning("compaction_skipped", table_id=self.inventory.table.table_id, **exc.context)
            except PublishConflict:
                run.overtaken += 1
                log.warning("compaction_overtaken", table_id=self.inventory.table.table_id)
                return run.overtaken < _MOST_CONFLICTS
        return len(run.done) > published

    def _do(self, item: Work) -> None:
        place, limits = self.run.place, self.run.limits.rewrite
        local = place.store.local_root
        needed = room_needed(item, sorts=self.bench.sorts, fetches=local is None)
        spare = min(spare_bytes(directory, limits) for directory in (place.scratch, local or place.scratch))
        if needed > spare:
            raise RewriteNeedsRoom(
                "The disk has too little room for a slice.", needed_bytes=needed, spare_bytes=max(0, spare)
            )
        if isinstance(item, Fold):
            self._fold(item)
        else:
            self._rewrite(item)

    def _fold(self, fold: Fold) -> None:
        policy, touched = self.run.policy, []
        for file, is_touched in self.bench.touched(fold.folded, later=fold.inputs):
            self.run.watch.at("looking for keys", self.share)
            touched += [file] if is_touched else []
        for chunk in chunks(touched, most_bytes=policy.target_file_bytes, most_files=policy.max_input_files):
            self._rewrite(Slice(kind=SliceKind.CLEAN, inputs=chunk, later=fold.inputs))
        self._rewrite(Slice(kind=SliceKind.SETTLE, inputs=fold.inputs), settles_to=fold.reached)

    def _rewrite(self, item: Slice, *, settles_to: int | None = None) -> None:
        watch, added = self.run.watch, list[NewFile]()
        deadline = self._begin(item)
        pieces = self.bench.rewrite(
            item,
            target_bytes=self.run.policy.target_file_bytes,
            before_each=lambda: watch.at(item.kind, self.share),
        )
        for number, made in enumerate(pieces):
            failpoint(f"compaction.{item.kind}.after_read")
            added.append(self.bench.put(made, item=item, number=number))
        failpoint(f"compaction.{item.kind}.after_put")
        with transaction.atomic():
            snapshot_id, made_ids = self._publish(item, added, settles_to=settles_to, deadline=deadline)
            failpoint(f"compaction.{item.kind}.before_commit")
        failpoint(f"compaction.{item.kind}.after_commit")
        self.known = self.known - {file.file_id for file in item.inputs} | made_ids
        self.run.made |= made_ids
        done = SliceDone(
            snapshot_id=snapshot_id,
            kind=item.kind,
            input_files=len(item.inputs),
            input_rows=sum(file.row_count for file in item.inputs),
            input_bytes=item.input_bytes,
            output_files=len(added),
            output_rows=sum(file.row_count for file in added),
            output_bytes=sum(file.size_bytes for file in added),
        )
        self.run.done.append(done)
        compaction_bytes_rewritten.inc(done.output_bytes)
        log.info("files_compacted", tenant_id=self.inventory.tenant_id, **asdict(done))
        watch.published(done)

    def _begin(self, item: Slice) -> datetime:
        """When an attempt that begins now must have published, by the database's clock."""
        self._require_live(item)
        with connection.cursor() as cursor:
            limit = self.run.limits.attempt.total_seconds()
            cursor.execute("SELECT clock_timestamp() + make_interval(secs => %s)", [limit])
            deadline: datetime = cursor.fetchone()[0]
            return deadline

    def _require_live(self, item: Slice) -> None:
        needed = {file.file_id for file in (*item.inputs, *item.later)}
        if SnapshotFile.objects.filter(file_id__in=needed, removed_in=None).count() < len(needed):
            raise PublishConflict("A file that the rewrite reads has left the latest snapshot.", files=len(needed))

    def _publish(
        self, item: Slice, added: list[NewFile], *, settles_to: int | None, deadline: datetime
    ) -> tuple[int, set[int]]:
        """The slice is in the next snapshot, if all that it was computed from is still so; with the files it made."""
        tenant_id, table_id = self.inventory.tenant_id, self.inventory.table.table_id
        lock_head(tenant_id=tenant_id)
        if _is_past(deadline):
            raise RewriteTooSlow("The rewrite took longer than an attempt may.", retry_after=1)
        self._require_live(item)
        if settles_to is not None:
            self._require_nothing_older(settles_to)
        present = next((t for t in live_tables(tenant_id=tenant_id).tables.values() if t.table_id == table_id), None)
        if present is None or not self.inventory.fits(present.schema):
            raise PublishConflict("The table was dropped, or older columns of it have come back.", table_id=table_id)
        snapshot = publish_snapshot(
            tenant_id=tenant_id,
            kind=Snapshot.Kind.COMPACTION,
            actor=_ACTOR,
            added=added,
            removed=[file.file_id for file in item.inputs],
        )
        made = SnapshotFile.objects.filter(tenant_id=tenant_id, table_id=table_id, added_in=snapshot.snapshot_id)
        return snapshot.snapshot_id, set(made.values_list("file_id", flat=True))

    def _require_nothing_older(self, settles_to: int) -> None:
        """All files are as this round knows them, but for fresh ones that begin behind what is settled."""
        table_id = self.inventory.table.table_id
        intervals = SnapshotFile.objects.filter(table_id=table_id, removed_in=None)
        live = set(intervals.values_list("file_id", flat=True))
        if not self.known <= live:
            raise PublishConflict("A file of the table has left the latest snapshot.", table_id=table_id)
        come = DataFile.objects.filter(file_id__in=live - self.known)
        if come.filter(Q(folded=True) | Q(min_token__lte=settles_to)).exists():
            raise PublishConflict("Older rows of the table have come back.", token=settles_to)


def _is_past(deadline: datetime) -> bool:
    with connection.cursor() as cursor:
        cursor.execute("SELECT clock_timestamp() > %s", [deadline])
        return bool(cursor.fetchone()[0])
