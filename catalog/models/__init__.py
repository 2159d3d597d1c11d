"""The catalog's tables. States and invariants are constraints in the database (see also the SQL in migrations)."""

from catalog.models.file import DataFile, SnapshotFile
from catalog.models.incarnation import VoidRange
from catalog.models.incident import IncidentAudit
from catalog.models.keeping import CatalogIdentity, CatalogServer, FileHold
from catalog.models.mode import ServiceMode
from catalog.models.snapshot import Snapshot, SnapshotPin, SnapshotTableWatermark
from catalog.models.table import TableDef, TableInterval, TableSchemaVersion
from catalog.models.tenant import Tenant, TenantCatalog, TenantLimitChange

__all__ = [
    "CatalogIdentity",
    "CatalogServer",
    "DataFile",
    "FileHold",
    "IncidentAudit",
    "ServiceMode",
    "Snapshot",
    "SnapshotFile",
    "SnapshotPin",
    "SnapshotTableWatermark",
    "TableDef",
    "TableInterval",
    "TableSchemaVersion",
    "Tenant",
    "TenantCatalog",
    "TenantLimitChange",
    "VoidRange",
]
