"""The job `retention`: snapshots that the policy keeps no longer expire, and what nothing names any more is deleted.

Tenant by tenant: expire, collect files, forget dropped tables, sweep orphans. Each is done in slices that stand alone,
so that a run may end between any two of them. A run for one table expires nothing, because a snapshot is of all tables.
"""

from dataclasses import asdict, dataclass

from catalog.collect import forget_table, forgotten_tables
from catalog.errors import TenantNotFound
from catalog.identity import own_store
from catalog.models import Tenant
from duckmesh.kernel.errors import JSON
from maintenance.expiry import expire_tenant
from maintenance.gc import Collected, collect_files
from maintenance.job import Progress, Scope, Workplace
from maintenance.ladder import RetentionPolicy
from maintenance.orphans import sweep_is_due, sweep_orphans
from maintenance.outlook import outlook
from maintenance.rules import RetentionLimits, RetentionOptions, Rules, rules_for


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
    tenants = _tenants(scope)
    scopes = (Scope(tenant_id=tenant_id, table_id=scope.table_id) for tenant_id in tenants)
    rules = dict(zip(tenants, rules_for(scopes, asked=options, policy=policy, limits=limits), strict=True))
    if options.dry_run:
        return outlook(
            rules=rules,
            table_id=scope.table_id,
            orphan_grace=limits.orphan_grace if options.orphans is not False else None,
            store=place.store,
            progress=progress,
        )
    # Before anything: what a copy of the catalog expires may be live in the one that it was copied from.
    own_store(place.store)
    job = _Job(table_id=scope.table_id, options=options, place=place, limits=limits, progress=progress)
    after, done = _begun(progress)
    for number, tenant_id in enumerate(tenants):
        if tenant_id > after:
            done += job.tenant(tenant_id, rules[tenant_id], so_far=number / len(tenants))
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
    limits: RetentionLimits
    progress: Progress

    def tenant(self, tenant_id: str, rules: Rules, *, so_far: float) -> Done:
        """All that is due of the tenant."""
        whole = self.table_id is None
        expired = (
            expire_tenant(tenant_id=tenant_id, policy=rules.policy, progress=self.progress, done=so_far) if whole else 0
        )
        files = collect_files(
            tenant_id=tenant_id,
            table_id=self.table_id,
            safety_age=rules.safety_age,
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
