"""Tables: created, found, listed and dropped. Every change of them is a snapshot of its own."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import structlog
from django.db import IntegrityError, connection, transaction

from catalog.definition import TableDefinition
from catalog.errors import TableExists, TableNotFound
from catalog.mode import require_writable
from catalog.models import Snapshot, SnapshotFile, TableDef, TableSchemaVersion
from catalog.publish import lock_tokens, publish_snapshot
from catalog.schema import TableSchema, TableShape, from_stored, to_stored, with_field_ids
from catalog.tenants import raise_ddl_version

log = structlog.get_logger(__name__)


@dataclass(frozen=True, kw_only=True)
class TableInfo:
    """A table with the schema it has in the snapshot it was asked for in."""

    table_id: int
    tenant_id: str
    name: str
    schema: TableSchema
    primary_key_cols: tuple[str, ...]
    partition_spec: Mapping[str, Any]
    sort_cols: tuple[str, ...]
    compatibility_mode: str
    grows: bool
    next_field_id: int
    created_at: datetime
    created_in: int
    dropped_in: int | None

    @property
    def shape(self) -> TableShape:
        """What decoding needs to know of the table."""
        return TableShape(
            schema=self.schema,
            primary_key=self.primary_key_cols,
            grows=self.grows,
            next_field_id=self.next_field_id,
        )


@dataclass(frozen=True, kw_only=True)
class LiveTables:
    """The tables of a tenant by lower-case name, and the version of its definitions that they belong to."""

    ddl_version: int
    tables: Mapping[str, TableInfo]

    def find(self, name: str) -> TableInfo:
        """The table of this name, compared without case. Raises `TableNotFound`."""
        table = self.tables.get(name.lower())
        if table is None:
            raise TableNotFound(f"There is no table {name[:63]}.", table_name=name[:63])
        return table


def create_table(*, tenant_id: str, definition: TableDefinition, actor: str) -> TableInfo:
    """The table exists, empty, in a new snapshot. Raises `TableExists` and `ReadOnly`."""
    require_writable()
    try:
        with transaction.atomic():
            snapshot = publish_snapshot(tenant_id=tenant_id, kind=Snapshot.Kind.DDL, actor=actor)
            columns = with_field_ids(definition.columns, first=1)
            table = TableDef.objects.create(
                tenant_id=tenant_id,
                name=definition.name,
                next_field_id=len(columns) + 1,
                primary_key_cols=list(definition.primary_key_cols),
                partition_spec=dict(definition.partition_spec),
                sort_cols=list(definition.sort_cols),
                compatibility_mode=definition.compatibility_mode,
                grows=definition.grows,
                created_in=snapshot.snapshot_id,
                created_by=actor,
            )
            TableSchemaVersion.objects.create(
                table=table,
                schema_version=1,
                schema_json={"columns": to_stored(columns)},
                added_in=snapshot.snapshot_id,
            )
            lock_tokens(tenant_id=tenant_id)
            raise_ddl_version(tenant_id=tenant_id)
    except IntegrityError as exc:
        raise TableExists(f"There is a table {definition.name}.", table_name=definition.name) from exc
    log.info("table_created", tenant_id=tenant_id, table=definition.name, snapshot_id=snapshot.snapshot_id, actor=actor)
    return get_table(tenant_id=tenant_id, name=definition.name)


@transaction.atomic
def drop_table(*, tenant_id: str, name: str, actor: str) -> None:
    """From a new snapshot on the table does not exist; older snapshots still read it. Its pending writes go with it.

    Raises `TableNotFound` and `ReadOnly`.
    """
    require_writable()
    snapshot = publish_snapshot(tenant_id=tenant_id, kind=Snapshot.Kind.DDL, actor=actor)
    table = get_table(tenant_id=tenant_id, name=name)
    TableDef.objects.filter(table_id=table.table_id).update(dropped_in=snapshot.snapshot_id)
    live = SnapshotFile.objects.filter(tenant_id=tenant_id, table_id=table.table_id, removed_in=None)
    live.update(removed_in=snapshot.snapshot_id)
    lock_tokens(tenant_id=tenant_id)
    raise_ddl_version(tenant_id=tenant_id)
    transaction.on_commit(
        lambda: log.info(
            "table_dropped", tenant_id=tenant_id, table=table.name, snapshot_id=snapshot.snapshot_id, actor=actor
        )
    )


def get_table(*, tenant_id: str, name: str) -> TableInfo:
    """The live table of this name, compared without case. Raises `TableNotFound`."""
    return live_tables(tenant_id=tenant_id).find(name)


def list_tables(*, tenant_id: str, after: str = "", limit: int = 100) -> list[TableInfo]:
    """Up to `limit` live tables in the order of their lower-case names, from the first one behind `after`."""
    tables = sorted(live_tables(tenant_id=tenant_id).tables.items())
    return [table for name, table in tables if name > after.lower()][:limit]


# A version that names no key, partitions and order has those of the table: see `catalog.evolution`.
_COLUMNS = """t.table_id, t.tenant_id, t.name, v.schema_version, v.schema_json::text,
       coalesce(v.schema_json->'primary_key_cols', t.primary_key_cols)::text,
       coalesce(v.schema_json->'partition_spec', t.partition_spec)::text,
       coalesce(v.schema_json->'sort_cols', t.sort_cols)::text,
       t.compatibility_mode, t.created_at, t.created_in, t.dropped_in, t.grows, t.next_field_id"""

# One statement, so that the version and the tables are of the same instant.
_LIVE = f"""
SELECT n.ddl_version, {_COLUMNS}
  FROM tenant n
  LEFT JOIN table_def t ON t.tenant_id = n.tenant_id AND t.dropped_in IS NULL
  LEFT JOIN table_schema_version v ON v.table_id = t.table_id AND v.schema_version = t.schema_version
 WHERE n.tenant_id = %s
"""


def exists_at(snapshot: str) -> str:
    """The condition that the table `t` of a statement exists in the snapshot that this expression gives."""
    return f"""(t.created_in <= {snapshot} AND (t.dropped_in IS NULL OR t.dropped_in > {snapshot})
      OR EXISTS (SELECT 1 FROM table_interval i WHERE i.table_id = t.table_id
                    AND i.created_in <= {snapshot} AND i.dropped_in > {snapshot}))"""


_AT = f"""
SELECT {_COLUMNS}
  FROM table_def t
  JOIN LATERAL (SELECT * FROM table_schema_version v WHERE v.table_id = t.table_id AND v.added_in <= %(snapshot)s
                 ORDER BY v.schema_version DESC LIMIT 1) v ON true
 WHERE t.tenant_id = %(tenant)s AND {exists_at("%(snapshot)s")}
   AND (%(names)s::text[] IS NULL OR lower(t.name) = ANY (%(names)s::text[]))
"""


def live_tables(*, tenant_id: str) -> LiveTables:
    """The tables that exist now, with the version of the definitions: a write decoded under another starts again."""
    with connection.cursor() as cursor:
        cursor.execute(_LIVE, [tenant_id])
        rows = cursor.fetchall()
    tables = (_table(row[1:]) for row in rows if row[1] is not None)
    return LiveTables(ddl_version=rows[0][0] if rows else 0, tables={table.name.lower(): table for table in tables})


def tables_at(*, tenant_id: str, snapshot_id: int, names: Iterable[str] | None = None) -> dict[str, TableInfo]:
    """The tables of the snapshot by lower-case name, each in its schema of that snapshot; with `names`, only those."""
    wanted = None if names is None else [name.lower() for name in names]
    with connection.cursor() as cursor:
        cursor.execute(_AT, {"tenant": tenant_id, "snapshot": snapshot_id, "names": wanted})
        tables = (_table(row) for row in cursor.fetchall())
        return {table.name.lower(): table for table in tables}


_LAST = f"""
SELECT {_COLUMNS}
  FROM table_def t JOIN table_schema_version v ON v.table_id = t.table_id AND v.schema_version = t.schema_version
 WHERE t.tenant_id = %s AND t.table_id = ANY (%s)
"""


def last_definitions(*, tenant_id: str, table_ids: Iterable[int]) -> dict[int, TableInfo]:
    """These tables as they are now, or were when they were dropped, by id."""
    with connection.cursor() as cursor:
        cursor.execute(_LAST, [tenant_id, list(table_ids)])
        tables = (_table(row) for row in cursor.fetchall())
        return {table.table_id: table for table in tables}


def _table(row: tuple[Any, ...]) -> TableInfo:
    stored = json.loads(row[4])["columns"]
    return TableInfo(
        table_id=row[0],
        tenant_id=row[1],
        name=row[2],
        schema=from_stored(stored, version=row[3]),
        primary_key_cols=tuple(json.loads(row[5])),
        partition_spec=json.loads(row[6]),
        sort_cols=tuple(json.loads(row[7])),
        compatibility_mode=row[8],
        created_at=row[9],
        created_in=row[10],
        dropped_in=row[11],
        grows=row[12],
        next_field_id=row[13],
    )
