"""A table's next schema version. Files that are there stay as they are: they are read in the new version from then on.

Key, partitioning and sort order name columns, and belong to the table and not to a version. So a version without
names of its own has those of the table, and when a column of them is renamed, all versions up to then get the old
ones: an old snapshot is read by the names that it shows.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import structlog
from django.db import connection, transaction

from catalog.change import TableChange
from catalog.compatibility import evolve
from catalog.mode import require_writable
from catalog.models import Snapshot, TableDef, TableSchemaVersion
from catalog.publish import lock_head, lock_tokens, publish_snapshot
from catalog.schema import Column, to_stored
from catalog.tables import TableInfo, get_table
from catalog.tenants import raise_ddl_version

log = structlog.get_logger(__name__)

_KEEP_NAMES = """
UPDATE table_schema_version v
   SET schema_json = v.schema_json || jsonb_build_object('primary_key_cols', t.primary_key_cols,
                                                         'partition_spec', t.partition_spec, 'sort_cols', t.sort_cols)
  FROM table_def t
 WHERE t.table_id = %s AND v.table_id = t.table_id AND NOT v.schema_json ? 'primary_key_cols'
"""


@transaction.atomic
def evolve_table(*, tenant_id: str, name: str, change: TableChange, actor: str) -> TableInfo:
    """The table has the next version of its schema, in a new snapshot; if the columns stay as they are, it has not.

    The answer is the table as it is then. A compatibility mode in the change is the one that the change is held to.
    Writes that are on their way land in the new version. Raises `TableNotFound`, `SchemaIncompatible` and `ReadOnly`.
    """
    require_writable()
    lock_head(tenant_id=tenant_id)
    table = get_table(tenant_id=tenant_id, name=name)
    mode = change.compatibility_mode or table.compatibility_mode
    evolved = evolve(change, shape=table.shape, roles=_roles(table), mode=mode)
    TableDef.objects.filter(table_id=table.table_id).update(compatibility_mode=mode)
    if evolved.columns != table.schema.columns:
        snapshot = publish_snapshot(tenant_id=tenant_id, kind=Snapshot.Kind.DDL, actor=actor)
        write_version(
            table,
            evolved.columns,
            next_field_id=evolved.next_field_id,
            named=_renamed(table, evolved.names),
            snapshot_id=snapshot.snapshot_id,
        )
        lock_tokens(tenant_id=tenant_id)
        raise_ddl_version(tenant_id=tenant_id)
        transaction.on_commit(
            lambda: log.info(
                "table_changed", tenant_id=tenant_id, table=table.name, snapshot_id=snapshot.snapshot_id, actor=actor
            )
        )
    return get_table(tenant_id=tenant_id, name=name)


def _roles(table: TableInfo) -> dict[str, str]:
    roles = {name.lower(): "sort order" for name in table.sort_cols}
    roles |= {field["column"].lower(): "partitioning" for field in table.partition_spec.get("fields", [])}
    return {name.lower(): "primary key" for name in table.primary_key_cols} | roles


# `Any`: what the model's JSON columns take.
def write_version(
    table: TableInfo, columns: Sequence[Column], *, next_field_id: int, named: Mapping[str, Any], snapshot_id: int
) -> None:
    """The table has these columns from the snapshot on, and `named` are its key, partitions and order then."""
    version = table.schema.version + 1
    if any(getattr(table, member) != value for member, value in named.items()):
        with connection.cursor() as cursor:
            cursor.execute(_KEEP_NAMES, [table.table_id])
    TableSchemaVersion.objects.create(
        table_id=table.table_id,
        schema_version=version,
        schema_json={"columns": to_stored(columns)},
        added_in=snapshot_id,
    )
    TableDef.objects.filter(table_id=table.table_id).update(
        schema_version=version, next_field_id=next_field_id, **named
    )


# `Any`: what the model's JSON columns take.
def _renamed(table: TableInfo, names: Mapping[str, str]) -> dict[str, Any]:
    def renamed(columns: Sequence[str]) -> tuple[str, ...]:
        return tuple(names[column.lower()] for column in columns)

    fields = table.partition_spec.get("fields", [])
    spec = {"fields": [{**field, "column": names[field["column"].lower()]} for field in fields]} if fields else {}
    return {
        "primary_key_cols": renamed(table.primary_key_cols),
        "partition_spec": spec,
        "sort_cols": renamed(table.sort_cols),
    }
