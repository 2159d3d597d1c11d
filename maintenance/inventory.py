"""What a table consists of in the latest snapshot, as compaction needs to know it."""

from collections.abc import Mapping
from dataclasses import dataclass

from django.db import connection
from django.db.models import Q

from catalog.errors import TableNotFound
from catalog.models import DataFile, TableSchemaVersion
from catalog.partitions import named_as_in
from catalog.schema import TableSchema, from_stored
from catalog.snapshots import resolve
from catalog.tables import TableInfo, tables_at
from maintenance.tiers import TableFile
from storage.conversion import is_convertible


@dataclass(frozen=True, kw_only=True)
class Inventory:
    """A table, the versions of its schema up to the present one, and its files in one snapshot.

    `first_hole` is the first token of the oldest write of the table that failed and that the snapshot does not hold,
    unless it was discarded: it may still be replayed.
    """

    tenant_id: str
    snapshot_id: int
    table: TableInfo
    schemas: Mapping[int, TableSchema]
    files: tuple[TableFile, ...]
    first_hole: int | None

    @property
    def key(self) -> tuple[str, ...]:
        return self.table.primary_key_cols

    @property
    def partitions_divide_keys(self) -> bool:
        """Whether no key of a keyed table can be in two partitions, as its files are recorded.

        Its partitions are made of key columns. But a file may hold rows of several, and after a rename or a widening
        one partition may be recorded in two ways.
        """
        fields = {field["column"] for field in self.table.partition_spec.get("fields", ())}
        if not fields:
            return False
        present = _types(self.table.schema, fields)
        return all(
            file.partition_values and _types(self.schemas[file.schema_version], fields) == present
            for file in self.files
        )

    def fits(self, present: TableSchema) -> bool:
        """Whether what was rewritten in this schema still holds all that the table shows in its present one.

        A change of the table sees to that. A restore does not: it brings back dropped columns and narrower types.
        """
        held = {column.field_id: column for column in self.table.schema.columns}
        former = {column.field_id for schema in self.schemas.values() for column in schema.columns} - held.keys()
        return all(
            column.field_id not in former
            and (
                (found := held.get(column.field_id)) is None
                or is_convertible(
                    from_type=found.type, from_holds=found.holds, to_type=column.type, to_holds=column.holds
                )
            )
            for column in present.columns
        )


def _types(schema: TableSchema, names: set[str]) -> set[tuple[str, str]]:
    return {(column.name, column.type) for column in schema.columns if column.name in names}


# A hole is told relative to the snapshot: a write that is replayed meanwhile is still one for these files.
_FIRST_HOLE = """
SELECT first_token FROM ingest_event WHERE event_id = duckmesh_first_failure(%s, %s, %s, %s)
"""


def load_inventory(*, tenant_id: str, table_id: int) -> Inventory:
    """The table as it is in the latest snapshot. Raises `TableNotFound`."""
    snapshot = resolve(tenant_id=tenant_id)
    at = snapshot.snapshot_id
    tables = tables_at(tenant_id=tenant_id, snapshot_id=at).values()
    table = next((table for table in tables if table.table_id == table_id), None)
    if table is None:
        raise TableNotFound("The table is gone.", table_id=table_id)
    versions = TableSchemaVersion.objects.filter(table_id=table_id, schema_version__lte=table.schema.version)
    with connection.cursor() as cursor:
        # After the files' snapshot was chosen: what has failed since has tokens that no file of it holds.
        cursor.execute(_FIRST_HOLE, [tenant_id, snapshot.visible_token, [table_id], at])
        hole = cursor.fetchone()
    schemas = {
        row.schema_version: from_stored(row.schema_json["columns"], version=row.schema_version) for row in versions
    }
    return Inventory(
        tenant_id=tenant_id,
        snapshot_id=at,
        table=table,
        schemas=schemas,
        files=_files(table, schemas, at),
        first_hole=None if hole is None else int(hole[0]),
    )


def _files(table: TableInfo, schemas: Mapping[int, TableSchema], snapshot_id: int) -> tuple[TableFile, ...]:
    """The files of the snapshot; their partitions by the names that the columns have now."""
    held = Q(intervals__removed_in=None) | Q(intervals__removed_in__gt=snapshot_id)
    rows = DataFile.objects.filter(held, table_id=table.table_id, intervals__added_in__lte=snapshot_id)
    return tuple(
        TableFile(
            file_id=row.file_id,
            path=row.path,
            row_count=row.row_count,
            size_bytes=row.size_bytes,
            schema_version=row.schema_version,
            level=row.level,
            folded=row.folded,
            min_token=row.min_token,
            max_token=row.max_token,
            content_algorithm=row.content_algorithm,
            content_hash=int(row.content_hash),
            min_event_time=row.min_event_time,
            max_event_time=row.max_event_time,
            partition_values=named_as_in(
                table.schema, row.partition_values, spec=table.partition_spec, written=schemas[row.schema_version]
            ),
        )
        for row in rows.order_by("min_token", "file_id")
    )
