"""The job `retention`: snapshots that the policy keeps no longer expire, and what nothing names any more is deleted.

Tenant by tenant: expire, collect files, forget dropped tables, sweep orphans. Each is done in slices that stand alone,
so that a run may end between any two of them. A run for one table expires nothing, because a snapshot is of all tables.
"""

from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from typing import Annotated

from pydantic import AfterValidator, Field

from catalog.collect import forget_table, forgotten_tables
from catalog.errors import TenantNotFound
from catalog.identity import own_store
from catalog.models import Tenant
from duckmesh.kernel.errors import JSON
from duckmesh.kernel.spans import ladder, span, spelled
from maintenance.errors import SafetyAgeTooShort
from maintenance.expiry import expire_tenant
from maintenance.gc import Collected, collect_files
from maintenance.job import JobOptions, Progress, Scope, Workplace
from maintenance.ladder import RetentionPolicy
from maintenance.orphans import sweep_is_due, sweep_orphans
from maintenance.outlook import outlook


def _is_span(text: str) -> str:
    span(text)
    return text


def _is_ladder(text: str) -> str:
    ladder(text)
    return text


SpanText = Annotated[str, AfterValidator(_is_span)]
LadderText = Annotated[str, AfterValidator(_is_ladder)]


class RetentionOptions(JobOptions):
    """What is null is as the configuration says. `orphans`, with dropped tables: now, never, or (null) when due."""

    orphans: bool | None = None
    keep_last: int | None = Field(None, ge=1)
    keep_all_for: SpanText | None = None
    ladder: LadderText | None = None
    safety_age: SpanText | None = None


@dataclass(frozen=True, kw_only=True)
class RetentionLimits:
    """How soon things are deleted, and how soon they may be asked to. All ages are told by the database's clock."""

    safety_age: timedelta
    least_safety_age: timedelta
    orphan_grace: timedelta
    sweep_every: timedelta


@dataclass(frozen=True, kw_only=True)
class Done:
    """What a run has done so far; its summary, and part of its cursor."""

    tenants: int = 0
    snapshots_expired: int = 0
    tables_removed: int = 0
    files_deleted: int = 0
    bytes_deleted: int = 0
    tenants_swept: int = 0
    orphans_deleted: int = 0
    orphan_bytes_deleted: int = 0
    objects_undeleted: int = 0

    def __add__(self, other: "Done") -> "Done":
        return Done(**{name: count + getattr(other, name) for name, count in asdict(self).items()})


def perform(
    *,
    scope: Scope,
    options: RetentionOptions,
    place: Workplace,
    policy: RetentionPolicy,
    limits: RetentionLimits,
    progress: Progress,
) -> dict[str, JSON]:
    """Every tenant of the scope has the snapshots that the policy keeps; what nothing names is gone, or in its grace.

    With `dry_run` nothing is changed, and the summary lists each snapshot and object with what would become of it and
    why. Raises `TenantNotFound`, `SafetyAgeTooShort`, `StoreNotOurs`, and what the store, the catalog and `progress`
    raise.
    """
    limits = _limited(options, limits)
    job = _Job(
        table_id=scope.table_id,
        options=options,
        place=place,
        policy=_policy(options, policy),
        limits=limits,
        progress=progress,
    )
    tenants = _tenants(scope)
    if options.dry_run:
        return outlook(
            tenant_ids=tenants,
            table_id=scope.table_id,
            policy=job.policy,
            safety_age=limits.safety_age,
            orphan_grace=limits.orphan_grace if options.orphans is not False else None,
            store=place.store,
            progress=progress,
        )
    # Before anything: what a copy of the catalog expires may be live in the one that it was copied from.
    own_store(place.store)
    after, done = _begun(progress)
    for number, tenant_id in enumerate(tenants):
        if tenant_id > after:
            done += job.tenant(tenant_id, so_far=number / len(tenants))
            progress.save({"tenant": tenant_id, "done": asdict(done)})
    return asdict(done)


def _begun(progress: Progress) -> tuple[str, Done]:
    """The tenant up to which the run has come, in whatever process, and what it had done by then."""
    saved = progress.cursor.get("done")
    counts = {name: int(str(count)) for name, count in saved.items()} if isinstance(saved, dict) else {}
    return str(progress.cursor.get("tenant", "")), Done(**counts)


@dataclass(frozen=True, kw_only=True)
class _Job:
    """What is the same for each tenant of a run."""

    table_id: int | None
    options: RetentionOptions
    place: Workplace
    policy: RetentionPolicy
    limits: RetentionLimits
    progress: Progress

    def tenant(self, tenant_id: str, *, so_far: float) -> Done:
        """All that is due of the tenant."""
        whole = self.table_id is None
        expired = (
            expire_tenant(tenant_id=tenant_id, policy=self.policy, progress=self.progress, done=so_far) if whole else 0
        )
        files = collect_files(
            tenant_id=tenant_id,
            table_id=self.table_id,
            safety_age=self.limits.safety_age,
            store=self.place.store,
            progress=self.progress,
            done=so_far,
        )
        swept = whole and self._sweeps(tenant_id)
        tables = self._forget_tables(tenant_id) if swept else 0
        orphans = self._sweep(tenant_id, so_far=so_far) if swept else Collected()
        if tables:
            self.progress.step("tables_removed", tenant_id=tenant_id, tables=tables, why="no snapshot has them")
        return Done(
            tenants=1,
            snapshots_expired=expired,
            tables_removed=tables,
            files_deleted=files.files,
            bytes_deleted=files.size_bytes,
            tenants_swept=int(swept),
            orphans_deleted=orphans.files,
            orphan_bytes_deleted=orphans.size_bytes,
            objects_undeleted=files.undeleted + orphans.undeleted,
        )

    def _sweep(self, tenant_id: str, *, so_far: float) -> Collected:
        return sweep_orphans(
            tenant_id=tenant_id,
            grace=self.limits.orphan_grace,
            store=self.place.store,
            progress=self.progress,
            done=so_far,
        )

    def _forget_tables(self, tenant_id: str) -> int:
        return sum(
            forget_table(tenant_id=tenant_id, table_id=table_id) for table_id in forgotten_tables(tenant_id=tenant_id)
        )

    def _sweeps(self, tenant_id: str) -> bool:
        if self.options.orphans is None:
            return sweep_is_due(tenant_id=tenant_id, every=self.limits.sweep_every)
        return self.options.orphans


def _tenants(scope: Scope) -> list[str]:
    tenants = Tenant.objects.order_by("tenant_id")
    if scope.tenant_id is not None:
        tenants = tenants.filter(tenant_id=scope.tenant_id)
    ids = list(tenants.values_list("tenant_id", flat=True))
    if scope.tenant_id is not None and not ids:
        raise TenantNotFound(f"There is no tenant {scope.tenant_id}.", tenant_id=scope.tenant_id)
    return sorted(ids)


def _policy(options: RetentionOptions, default: RetentionPolicy) -> RetentionPolicy:
    return RetentionPolicy(
        keep_last=default.keep_last if options.keep_last is None else options.keep_last,
        keep_all_for=default.keep_all_for if options.keep_all_for is None else span(options.keep_all_for),
        rungs=default.rungs if options.ladder is None else ladder(options.ladder),
    )


def _limited(options: RetentionOptions, limits: RetentionLimits) -> RetentionLimits:
    if options.safety_age is not None:
        limits = replace(limits, safety_age=span(options.safety_age))
    if limits.safety_age < limits.least_safety_age:
        raise SafetyAgeTooShort(
            "The safety age is shorter than the longest query or attempt: what they read could be deleted.",
            safety_age=spelled(limits.safety_age),
            at_least=spelled(limits.least_safety_age),
        )
    return limits
