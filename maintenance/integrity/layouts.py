"""What the files of a table must look like, by the version of its schema that they were written in."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from django.db import connection

from catalog.partitions import PartitionField, partition_fields
from catalog.scanning import scan_columns
from catalog.schema import TableSchema, from_stored
from maintenance.rewrite import TargetColumn
from storage.columns import OP_COLUMN, TOKEN_COLUMN

_TABLES_AT_ONCE = 64

_VERSIONS = """
SELECT v.schema_version, v.schema_json::text, t.primary_key_cols <> '[]'::jsonb,
       coalesce(v.schema_json->'partition_spec', t.partition_spec)::text
  FROM table_def t JOIN table_schema_version v ON v.table_id = t.table_id
 WHERE t.table_id = %s ORDER BY v.schema_version
"""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The columns of the files of one version, and how they are divided.

    No `partition` where none is to be told of a file: a column that divides the table had another name or type in an
    earlier version, and files may have kept what was made of it then.
    """

    columns: tuple[TargetColumn, ...]
    partition: tuple[PartitionField, ...]

    @property
    def field_ids(self) -> frozenset[int]:
        """The field ids that a file of this version carries."""
        return frozenset(column.scan.field_id for column in self.columns)


class Layouts:
    """The layouts of the tables that were asked about last."""

    def __init__(self) -> None:
        self._held: dict[int, Mapping[int, Layout]] = {}

    def of(self, *, table_id: int, version: int) -> Layout | None:
        """The layout of the table's files of this version; None if there is no such version."""
        if version not in self._held.get(table_id, {}):
            self._held.pop(table_id, None)
            if len(self._held) >= _TABLES_AT_ONCE:
                self._held.pop(next(iter(self._held)))
            self._held[table_id] = _layouts(table_id)
        return self._held[table_id].get(version)


def _layouts(table_id: int) -> Mapping[int, Layout]:
    with connection.cursor() as cursor:
        cursor.execute(_VERSIONS, [table_id])
        rows = cursor.fetchall()
    found: dict[int, Layout] = {}
    # Partitions are told as long as every version so far makes the same of the same columns.
    divided: set[tuple[Any, ...]] = set()
    for version, stored, keyed, spec in rows:
        schema = from_stored(json.loads(stored)["columns"], version=version)
        fields = partition_fields(json.loads(spec), schema=schema)
        divided.add(tuple((field, _field_id(schema, field.column)) for field in fields))
        found[version] = Layout(columns=_columns(schema, keyed=keyed), partition=fields if len(divided) == 1 else ())
    return found


def _field_id(schema: TableSchema, name: str) -> int | None:
    column = schema.column(name)
    return column.field_id if column else None


def _columns(schema: TableSchema, *, keyed: bool) -> tuple[TargetColumn, ...]:
    kinds = {column.name: "list" if column.type.startswith("list<") else column.type for column in schema.columns}
    kinds |= {OP_COLUMN: "int8", TOKEN_COLUMN: "int64"}
    return tuple(TargetColumn(scan=scan, kind=kinds[scan.name]) for scan in scan_columns(schema, keyed=keyed))
