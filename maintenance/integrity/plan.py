"""What an integrity run is about: its tenants, and which objects of the store."""

from dataclasses import dataclass

from django.db import connection

from catalog.errors import TableNotFound
from catalog.models import TableDef, Tenant
from duckmesh.kernel.errors import JSON, Invalid
from maintenance.integrity.checks import Part
from maintenance.integrity.objects import Ground
from maintenance.job import Scope

_SIZES = """
SELECT (SELECT count(*) FROM snapshot WHERE (%(tenant)s::text IS NULL OR tenant_id = %(tenant)s)
           AND snapshot_id BETWEEN %(from)s AND %(to)s),
       count(*), coalesce(sum(size_bytes), 0)::bigint
  FROM data_file WHERE tombstoned_at IS NULL AND (%(tenant)s::text IS NULL OR tenant_id = %(tenant)s)
   AND (%(table)s::bigint IS NULL OR table_id = %(table)s)
"""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The tenants in the order of their ids, the part of one that a run is restricted to, and how much there is."""

    tenant_ids: tuple[str, ...]
    part: Part | None
    ground: Ground
    snapshots: int
    files: int
    size_bytes: int

    def part_of(self, tenant_id: str) -> Part:
        """What of the tenant the run is about."""
        return self.part or Part(tenant_id=tenant_id)

    @property
    def shown(self) -> dict[str, JSON]:
        """The plan as a dry run tells it."""
        return {
            "tenants": list(self.tenant_ids),
            "snapshots": self.snapshots,
            "files": self.files,
            "size_bytes": self.size_bytes,
            "prefixes": list(self.ground.prefixes),
        }


def plan_of(*, scope: Scope, from_snapshot: int | None, to_snapshot: int | None) -> Plan:
    """What is to be checked. Raises `Invalid` for a range of snapshots that is none, and `TableNotFound`."""
    part, prefixes = _restricted(scope, from_snapshot, to_snapshot)
    whole = Part(tenant_id="")
    with connection.cursor() as cursor:
        cursor.execute(
            _SIZES,
            {
                "tenant": part.tenant_id if part else None,
                "table": part.table_id if part else None,
                "from": (part or whole).from_snapshot,
                "to": (part or whole).to_snapshot,
            },
        )
        snapshots, files, size_bytes = cursor.fetchone()
    tenants = [part.tenant_id] if part else Tenant.objects.order_by("tenant_id").values_list("tenant_id", flat=True)
    return Plan(
        tenant_ids=tuple(sorted(tenants)),
        part=part,
        ground=Ground(prefixes=prefixes, part=part),
        snapshots=snapshots,
        files=files,
        size_bytes=size_bytes,
    )


def _restricted(scope: Scope, first: int | None, last: int | None) -> tuple[Part | None, tuple[str, ...]]:
    if scope.tenant_id is None:
        if first is not None or last is not None:
            raise Invalid("A range of snapshots is of one tenant: name it.")
        return None, ("",)
    if first is not None and last is not None and first > last:
        raise Invalid("from_snapshot lies behind to_snapshot.", from_snapshot=first, to_snapshot=last)
    whole = Part(tenant_id=scope.tenant_id)
    part = Part(
        tenant_id=scope.tenant_id,
        table_id=scope.table_id,
        from_snapshot=whole.from_snapshot if first is None else first,
        to_snapshot=whole.to_snapshot if last is None else last,
    )
    if scope.table_id is None:
        return part, (f"{scope.tenant_id}/", f"_staged/{scope.tenant_id}/")
    table = TableDef.objects.filter(tenant_id=scope.tenant_id, table_id=scope.table_id).first()
    if table is None:
        raise TableNotFound("The table is gone.", table_id=scope.table_id)
    return part, (f"{scope.tenant_id}/{table.name}/",)
