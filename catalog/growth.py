"""Tables that grow with their data: what a write needs the columns to be becomes the next schema version with it."""

from collections.abc import Sequence

import structlog
from django.db import connection, transaction
from django.db.models import F, Value
from django.db.models.functions import Greatest

from catalog.errors import PublishConflict
from catalog.models import Snapshot, TableDef, TableSchemaVersion, Tenant
from catalog.publish import lock_tokens, publish_snapshot
from catalog.schema import Column, to_stored

log = structlog.get_logger(__name__)


def grow_table(*, tenant_id: str, table_id: int, ddl_version: int, columns: Sequence[Column], actor: str) -> int:
    """The table has exactly these columns, in a new snapshot; the answer is its new schema version.

    `columns` are worked out under the tables of `ddl_version`. If the tenant's tables have changed since, the table was
    dropped, or it does not grow, `PublishConflict` is raised and the caller's transaction must be rolled back.

    Called within the transaction that publishes the write which needs the columns, after its keys are written, and
    before it takes the token lock. On return this transaction holds the tenant's head and its token lock, and the
    tenant's version is `ddl_version + 1`: whatever else was decoded under `ddl_version` is decoded again.
    """
    if not connection.in_atomic_block:
        raise transaction.TransactionManagementError("A table grows in the transaction of a write.")
    snapshot = publish_snapshot(tenant_id=tenant_id, kind=Snapshot.Kind.DDL, actor=actor)
    lock_tokens(tenant_id=tenant_id)
    known = Tenant.objects.filter(tenant_id=tenant_id, ddl_version=ddl_version)
    table = TableDef.objects.filter(tenant_id=tenant_id, table_id=table_id, dropped_in=None, grows=True)
    if not known.update(ddl_version=F("ddl_version") + 1) or not table.update(
        schema_version=F("schema_version") + 1,
        next_field_id=Greatest(F("next_field_id"), Value(1 + max(column.field_id for column in columns))),
    ):
        raise PublishConflict("The tables changed while the write was decoded.", table_id=table_id)
    version: int = TableDef.objects.values_list("schema_version", flat=True).get(table_id=table_id)
    TableSchemaVersion.objects.create(
        table_id=table_id,
        schema_version=version,
        schema_json={"columns": to_stored(columns)},
        added_in=snapshot.snapshot_id,
    )
    transaction.on_commit(
        lambda: log.info(
            "table_grown", tenant_id=tenant_id, table_id=table_id, snapshot_id=snapshot.snapshot_id, actor=actor
        )
    )
    return version
