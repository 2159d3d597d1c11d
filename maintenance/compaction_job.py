"""Compaction as a job: the tables of its scope, one after the other."""

from collections.abc import Mapping
from dataclasses import asdict

from catalog.models import Tenant
from catalog.tables import TableInfo, live_tables
from duckmesh.kernel.errors import JSON
from maintenance.compaction import CompactionLimits, compact_table, planned
from maintenance.job import JobOptions, Progress, Scope, Workplace
from maintenance.rewrite import RewriteLimits
from maintenance.tiers import CompactionPolicy


class CompactionOptions(JobOptions):
    """What may be asked of a compaction."""

    full: bool = False


def perform(*, scope: Scope, options: CompactionOptions, place: Workplace, progress: Progress) -> Mapping[str, JSON]:
    """Every table of the scope is compacted as far as its policy asks for."""
    policy = CompactionPolicy().full() if options.full else CompactionPolicy()
    tables = _tables(scope)
    done: list[JSON] = []
    for number, table in enumerate(tables):
        progress.at("compacting", number / len(tables))
        names: dict[str, JSON] = {"tenant_id": table.tenant_id, "table_id": table.table_id, "table_name": table.name}
        if options.dry_run:
            plan = planned(tenant_id=table.tenant_id, table_id=table.table_id, policy=policy)
            done.append({**names, "slices": [{"kind": kind, "inputs": list(inputs)} for kind, inputs in plan]})
            continue
        result = compact_table(
            tenant_id=table.tenant_id,
            table_id=table.table_id,
            store=place.store,
            policy=policy,
            limits=CompactionLimits(rewrite=RewriteLimits(scratch=place.scratch)),
        )
        done.append({**names, "slices": [asdict(each) for each in result.slices], "overtaken": result.overtaken})
        progress.step("compacted", table_name=table.name, slices=len(result.slices), overtaken=result.overtaken)
    return {"dry_run": options.dry_run, "tables": done}


def _tables(scope: Scope) -> list[TableInfo]:
    tenants = [scope.tenant_id] if scope.tenant_id else list(Tenant.objects.values_list("tenant_id", flat=True))
    found = [table for tenant_id in sorted(tenants) for table in live_tables(tenant_id=tenant_id).tables.values()]
    return [table for table in found if scope.table_id in (None, table.table_id)]
