"""`manage.py compact [--tenant T] [--table N] [--full] [--dry-run]`"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

from django.conf import settings
from django.core.management.base import CommandParser

from catalog.errors import TableNotFound, TenantNotFound
from catalog.management.base import Outcome, ServiceCommand
from catalog.models import Tenant
from catalog.tables import TableInfo, live_tables
from maintenance.compaction import CompactionLimits, compact_table, planned
from maintenance.rewrite import RewriteLimits
from maintenance.tiers import CompactionPolicy
from storage.factory import StoreSettings, open_store


class Command(ServiceCommand):
    """Compact tables."""

    help = "Rewrite small files into fewer, and fold the operations on keys. What a query sees stays as it is."

    def declare(self, parser: CommandParser) -> None:
        parser.add_argument("--tenant", metavar="T", help="The tenant whose tables; without it all tenants.")
        parser.add_argument("--table", metavar="N", help="The table; without it all tables.")
        parser.add_argument("--full", action="store_true", help="Rewrite whatever can be fewer, worth it or not.")
        parser.add_argument("--dry-run", action="store_true", help="Show what would be rewritten, and change nothing.")

    def perform(self, options: Mapping[str, Any]) -> Outcome:
        policy = CompactionPolicy().full() if options["full"] else CompactionPolicy()
        report = _planned if options["dry_run"] else _compacted
        documents = [report(table, policy) for table in _tables(options["tenant"], options["table"])]
        overtaken = [document["table_name"] for document in documents if document.get("overtaken")]
        return Outcome(
            document={"dry_run": options["dry_run"], "tables": documents},
            lines=[_line(document) for document in documents],
            problem=f"Something else changed these tables' files: {', '.join(overtaken)}." if overtaken else None,
        )


def _tables(tenant: str | None, table: str | None) -> Iterator[TableInfo]:
    tenants = Tenant.objects.filter(tenant_id=tenant) if tenant else Tenant.objects.all()
    ids = list(tenants.order_by("tenant_id").values_list("tenant_id", flat=True))
    if tenant and not ids:
        raise TenantNotFound(f"There is no tenant {tenant}.", tenant_id=tenant)
    found = [
        info
        for tenant_id in ids
        for name, info in sorted(live_tables(tenant_id=tenant_id).tables.items())
        if table is None or name == table.lower()
    ]
    if table and not found:
        raise TableNotFound(f"There is no table {table}.", table_name=table)
    yield from found


def _compacted(table: TableInfo, policy: CompactionPolicy) -> dict[str, Any]:
    config = settings.DUCKMESH
    result = compact_table(
        tenant_id=table.tenant_id,
        table_id=table.table_id,
        store=open_store(StoreSettings.of(config)),
        policy=policy,
        limits=CompactionLimits(rewrite=RewriteLimits(scratch=config.home / "scratch")),
    )
    slices = [asdict(done) for done in result.slices]
    return {**_names(table), "slices": slices, "overtaken": result.overtaken}


def _planned(table: TableInfo, policy: CompactionPolicy) -> dict[str, Any]:
    slices = planned(tenant_id=table.tenant_id, table_id=table.table_id, policy=policy)
    return {**_names(table), "slices": [{"kind": kind, "inputs": list(inputs)} for kind, inputs in slices]}


def _names(table: TableInfo) -> dict[str, Any]:
    return {"tenant_id": table.tenant_id, "table_id": table.table_id, "table_name": table.name}


def _line(document: Mapping[str, Any]) -> str:
    name = f"{document['tenant_id']} {document['table_name']}"
    if not document["slices"]:
        return f"{name}: nothing to do."
    if "overtaken" not in document:
        files = sum(len(item["inputs"]) for item in document["slices"])
        return f"{name}: {files} files would be rewritten in {len(document['slices'])} slices."
    before = sum(done["input_files"] for done in document["slices"])
    after = sum(done["output_files"] for done in document["slices"])
    return f"{name}: {before} files became {after}."
