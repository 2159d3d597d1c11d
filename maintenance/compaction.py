"""The job that keeps tables in few files: small ones are merged, and the operations on keys are folded.

What a query sees stays as it is, in every snapshot. The catalog says what is left to do, so a run that died is simply
begun again; its cursor only spares it the tables that it was through with, and keeps its totals.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Annotated

from pydantic import Field

from catalog.errors import TableNotFound, TenantNotFound
from catalog.models import TableDef, Tenant
from catalog.tables import TableInfo, live_tables
from duckmesh.kernel.config import Config
from duckmesh.kernel.errors import JSON
from maintenance.compactor import CompactionLimits, CompactionResult, SliceDone, Watch, compact_table
from maintenance.errors import RewriteNeedsRoom
from maintenance.inventory import load_inventory
from maintenance.job import JobOptions, Progress, Scope, Workplace
from maintenance.planning import Fold, Work, plan_table
from maintenance.rewrite import RewriteLimits
from maintenance.tally import Shape, Standing, TableDone, Tally
from maintenance.tiers import CompactionPolicy, TableFile

_MOST_TABLES = 100
_MOST_GROUPS = 1_000
_MOST_INPUTS = 100


class CompactionOptions(JobOptions):
    """`full` asks for as few files as there can be. The others replace what the configuration says, if given."""

    full: bool = False
    min_input_files: Annotated[int, Field(ge=2, le=1_000)] | None = None
    target_file_bytes: Annotated[int, Field(ge=2**16, le=2**32)] | None = None
    max_fresh_files: Annotated[int, Field(ge=2, le=1_000)] | None = None
    min_fold_files: Annotated[int, Field(ge=1, le=1_000)] | None = None
    dead_share: Annotated[float, Field(ge=0, le=1)] | None = None

    def policy(self, configured: CompactionPolicy) -> CompactionPolicy:
        """The configured policy with what these options say."""
        given = self.model_dump(exclude_none=True, exclude={"full", "dry_run"})
        changed = CompactionPolicy(**{**asdict(configured), **given})
        return changed.full() if self.full else changed


@dataclass(frozen=True, kw_only=True)
class CompactionSettings:
    """What the configuration says of compaction."""

    policy: CompactionPolicy
    limits: CompactionLimits

    @classmethod
    def of(cls, config: Config) -> "CompactionSettings":
        """Compaction's part of the configuration."""
        return cls(
            policy=CompactionPolicy(
                min_input_files=config.compaction_min_input_files,
                target_file_bytes=config.compaction_target_file_bytes,
                max_input_bytes=config.compaction_max_input_bytes,
                max_input_files=config.compaction_max_input_files,
                max_fresh_files=config.compaction_max_fresh_files,
                min_fold_files=config.compaction_min_fold_files,
                dead_share=config.compaction_dead_share,
            ),
            limits=CompactionLimits(
                rewrite=RewriteLimits(
                    memory_bytes=config.compaction_memory_bytes,
                    spill_bytes=config.compaction_spill_bytes,
                    threads=config.compaction_threads,
                    keep_free_bytes=config.min_free_disk_bytes,
                ),
                attempt=config.attempt_limit,
            ),
        )


def perform(
    *,
    scope: Scope,
    options: CompactionOptions,
    place: Workplace,
    settings: CompactionSettings,
    progress: Progress,
) -> dict[str, JSON]:
    """The tables of the scope are compacted as far as the policy asks for. A dry run tells what that would begin with.

    Raises `TenantNotFound` or `TableNotFound` if the scope names what does not exist, and `RewriteNeedsRoom` if there
    was work and the disk had no room for any of it.
    """
    policy = options.policy(settings.policy)
    tables = list(_tables(scope))
    if options.dry_run:
        return _plan(tables, policy, progress)
    run = _Run(place=place, policy=policy, limits=settings.limits, progress=progress)
    for number, table in enumerate(tables):
        run.compact(table, begins_at=number / len(tables), share=1 / len(tables))
    return run.ended()


def _tables(scope: Scope) -> Iterator[TableInfo]:
    """The live tables of the scope, in an order that never changes."""
    tenants = Tenant.objects.all()
    if scope.tenant_id is not None:
        tenants = tenants.filter(tenant_id=scope.tenant_id)
        if not tenants.exists():
            raise TenantNotFound(f"There is no tenant {scope.tenant_id}.", tenant_id=scope.tenant_id)
    elif scope.table_id is not None:
        tenants = tenants.filter(tenant_id__in=TableDef.objects.filter(table_id=scope.table_id).values("tenant_id"))
    found = False
    for tenant_id in sorted(tenants.values_list("tenant_id", flat=True)):
        for table in sorted(live_tables(tenant_id=tenant_id).tables.values(), key=lambda table: table.table_id):
            if scope.table_id in (None, table.table_id):
                found = True
                yield table
    if scope.table_id is not None and not found:
        raise TableNotFound("The table is gone.", table_id=scope.table_id)


def _named(table: TableInfo) -> dict[str, JSON]:
    return {"tenant_id": table.tenant_id, "table_id": table.table_id, "table_name": table.name}


def _plan(tables: list[TableInfo], policy: CompactionPolicy, progress: Progress) -> dict[str, JSON]:
    groups: list[JSON] = []
    total = files = size = 0
    for number, table in enumerate(tables):
        progress.at("planning", number / len(tables))
        for item in planned(tenant_id=table.tenant_id, table_id=table.table_id, policy=policy):
            total += 1
            files += len(item.inputs)
            size += item.input_bytes
            if len(groups) < _MOST_GROUPS:
                groups.append({**_named(table), **_described(item)})
    return {
        "dry_run": True,
        "tables_examined": len(tables),
        "group_count": total,
        "input_files": files,
        "input_bytes": size,
        "groups": groups,
    }


def planned(*, tenant_id: str, table_id: int, policy: CompactionPolicy) -> list[Work]:
    """What a run over the table would begin with; nothing is changed. Raises `TableNotFound`."""
    return plan_table(load_inventory(tenant_id=tenant_id, table_id=table_id), policy=policy)


def _described(item: Work) -> dict[str, JSON]:
    """A piece of work for people. A fold also rewrites those of `folded_files` that hold keys of its inputs."""
    group: dict[str, JSON] = {
        "kind": item.kind,
        "partition": dict(item.inputs[0].partition_values),
        "files": len(item.inputs),
        "rows": sum(file.row_count for file in item.inputs),
        "bytes": item.input_bytes,
        "inputs": [file.path for file in item.inputs[:_MOST_INPUTS]],
    }
    if isinstance(item, Fold):
        group |= {"folded_files": len(item.folded), "folded_bytes": sum(file.size_bytes for file in item.folded)}
    return group


class _Run(Watch):
    """A run over several tables, which goes on from where its cursor says."""

    def __init__(
        self, *, place: Workplace, policy: CompactionPolicy, limits: CompactionLimits, progress: Progress
    ) -> None:
        self._place, self._policy, self._limits, self._progress = place, policy, limits, progress
        self._standing = Standing.model_validate(progress.cursor)
        self._from, self._share = 0.0, 1.0
        self._short: RewriteNeedsRoom | None = None

    def compact(self, table: TableInfo, *, begins_at: float, share: float) -> None:
        """The table is compacted, unless an earlier process of this run was through with it, or it is gone."""
        standing = self._standing
        if standing.after is not None and (table.tenant_id, table.table_id) <= standing.after:
            return
        self._from, self._share = begins_at, share
        if standing.table is None or standing.table.table_id != table.table_id:
            here = TableDone(tenant_id=table.tenant_id, table_id=table.table_id, table_name=table.name)
            self._standing = standing.model_copy(update={"table": here})
        try:
            result = compact_table(
                tenant_id=table.tenant_id,
                table_id=table.table_id,
                place=self._place,
                policy=self._policy,
                limits=self._limits,
                watch=self,
            )
        except TableNotFound:
            result = None
        self._finish(table, result)

    def at(self, phase: str, done: float) -> None:
        self._progress.at(phase, self._from + self._share * done)

    def begins(self, files: Sequence[TableFile]) -> None:
        here = self._here
        if not here.tally.slices:
            self._update(here.model_copy(update={"before": Shape.of(files)}))
        self.at("planning", 0)

    def published(self, done: SliceDone) -> None:
        here = self._here
        facts = {name: value for name, value in asdict(done).items() if name not in ("snapshot_id", "kind")}
        self._update(here.model_copy(update={"tally": here.tally + Tally(slices=1, **facts)}))
        self._progress.save(self._standing.model_dump(mode="json"))
        self._progress.step(done.kind.value, table=here.table_name, snapshot_id=done.snapshot_id, **facts)

    def ended(self) -> dict[str, JSON]:
        """What the run has done, all its processes together."""
        standing = self._standing
        total = standing.total
        if self._short is not None and not total.tally.slices:
            raise self._short
        return {
            "dry_run": False,
            "tables_examined": standing.examined,
            "tables_compacted": standing.compacted,
            **total.tally.model_dump(),
            "before": total.before.document(),
            "after": total.after.document(),
            "tables": [table.document() for table in standing.tables],
        }

    @property
    def _here(self) -> TableDone:
        assert self._standing.table is not None, "a table is being compacted"
        return self._standing.table

    def _update(self, here: TableDone) -> None:
        self._standing = self._standing.model_copy(update={"table": here})

    def _finish(self, table: TableInfo, result: CompactionResult | None) -> None:
        """The run is through with the table; it is listed if something was to be done there."""
        here, standing = self._here, self._standing
        if result is not None:
            self._short = result.short or self._short
            missed = Tally(overtaken=result.overtaken, skipped=result.skipped)
            here = here.model_copy(update={"tally": here.tally + missed, "after": Shape.of(result.after)})
        total = standing.total
        listed = here.tally != Tally()
        self._standing = Standing(
            after=(table.tenant_id, table.table_id),
            examined=standing.examined + 1,
            compacted=standing.compacted + bool(here.tally.slices),
            total=total.model_copy(
                update={
                    "tally": total.tally + here.tally,
                    "before": total.before + here.before,
                    "after": total.after + here.after,
                }
            ),
            tables=(*standing.tables, here) if listed and len(standing.tables) < _MOST_TABLES else standing.tables,
        )
        if listed:
            self._progress.save(self._standing.model_dump(mode="json"))
