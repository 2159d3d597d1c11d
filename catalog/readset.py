"""What one statement reads: a snapshot, its tables of some names with their files, and whether a failure is in the way.

One SQL statement, hence one instant: a write that is replayed, a file that is compacted or a table that is dropped
meanwhile is either in all of it or in none. It is also the only round trip to the catalog that a query makes.
"""

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from typing import Any

from django.db import connection

from catalog.partitions import partition_fields
from catalog.schema import TableSchema, from_stored
from catalog.tables import exists_at
from duckmesh.kernel.errors import JSON
from duckmesh.postgresql.prepared import Prepared


@dataclass(frozen=True, kw_only=True)
class ReadFile:
    """A data file to read. `path` is its object key. In `folded` files of a table no key is twice, and no delete.

    `stats` are min, max and null count of the columns that the table names in `stat_fields`, None where none is known.
    `partition_values` are told of tables with `buckets`, where columns' bounds were asked for.
    """

    path: str
    row_count: int
    size_bytes: int
    sha256: str
    schema_version: int
    folded: bool = False
    stats: tuple[Mapping[str, Any] | None, ...] = ()
    partition_values: Mapping[str, JSON] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class ReadTable:
    """A table in its schema of the snapshot, with the files that it consists of there, in token order.

    `other_schemas` are those of the versions that files were written in, if they are not the snapshot's; `stat_fields`
    are the ids of the columns whose statistics the files carry here. `buckets` are the columns, by id, that divide the
    table by their hash, each with into how many.
    """

    table_id: int
    name: str
    schema: TableSchema
    primary_key_cols: tuple[str, ...]
    files: tuple[ReadFile, ...]
    other_schemas: Mapping[int, TableSchema] = field(default_factory=dict)
    stat_fields: tuple[int, ...] = ()
    buckets: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, kw_only=True)
class ReadSet:
    """A snapshot and those of the wanted tables that exist in it, by lower-case name.

    With a token: `issued_token` is the greatest token of the tenant if the snapshot does not reach the asked one, and
    `failed_event_id` the oldest failed write of these tables that the asked one covers and the snapshot does not hold.
    `token_is_void` says that the asked one is of a history that a restore of the catalog has replaced.
    """

    snapshot_id: int
    snapshot_time: datetime
    visible_token: int
    tables: Mapping[str, ReadTable]
    issued_token: int | None
    failed_event_id: int | None
    token_is_void: bool


# OFFSET 0: the planner cannot know how many intervals hold a snapshot, thinks of a ninth of them, and would read the
# whole of data_file; so it must look up file by file.
_READ = """
WITH at AS (
  SELECT snapshot_id, snapshot_time, visible_token FROM snapshot
   WHERE tenant_id = %(tenant)s AND snapshot_id = coalesce(
         %(snapshot)s, (SELECT snapshot_seq FROM tenant_catalog WHERE tenant_id = %(tenant)s))
), wanted AS MATERIALIZED (
  SELECT t.table_id, t.name, coalesce(v.schema_json->'primary_key_cols', t.primary_key_cols) AS primary_key_cols,
         v.schema_version, (v.schema_json->'columns')::text AS columns, {fields} AS fields,
         coalesce(v.schema_json->'partition_spec', t.partition_spec) AS spec
    FROM at, table_def t
    JOIN LATERAL (SELECT * FROM table_schema_version v WHERE v.table_id = t.table_id AND v.added_in <= at.snapshot_id
                   ORDER BY v.schema_version DESC LIMIT 1) v ON true
   WHERE t.tenant_id = %(tenant)s AND lower(t.name) = ANY (%(names)s::text[])
     AND {exists}
)
SELECT at.snapshot_id, at.snapshot_time, at.visible_token,
       CASE WHEN %(token)s > at.visible_token THEN duckmesh_latest_token(%(tenant)s) END,
       CASE WHEN %(token)s IS NOT NULL
            THEN duckmesh_first_failure(%(tenant)s, %(token)s, ARRAY(SELECT table_id FROM wanted), at.snapshot_id) END,
       %(token)s IS NOT NULL AND EXISTS (SELECT 1 FROM void_range WHERE tenant_id = %(tenant)s
                                            AND %(token)s BETWEEN first_token AND last_token),
       (SELECT json_agg(json_build_array(w.table_id, w.name, w.primary_key_cols, w.schema_version, w.columns, w.fields,
               w.spec, m.files,
               (SELECT json_object_agg(o.schema_version, (o.schema_json->'columns')::text) FROM table_schema_version o
                 WHERE o.table_id = w.table_id AND o.schema_version = ANY (m.versions))))
          FROM wanted w
          CROSS JOIN LATERAL (
            SELECT json_agg(json_build_array(f.path, f.row_count, f.size_bytes, f.sha256, f.schema_version, f.folded,
                                             {partition}{stats}) ORDER BY f.min_token, f.file_id) AS files,
                   array_agg(DISTINCT f.schema_version) FILTER (WHERE f.schema_version <> w.schema_version) AS versions
              FROM (SELECT file_id FROM snapshot_file
                     WHERE table_id = w.table_id AND removed_in IS NULL AND added_in <= at.snapshot_id
                    UNION ALL
                    SELECT file_id FROM snapshot_file
                     WHERE table_id = w.table_id AND removed_in > at.snapshot_id AND added_in <= at.snapshot_id
                   ) member
              JOIN LATERAL (SELECT * FROM data_file d WHERE d.file_id = member.file_id OFFSET 0) f ON true
          ) m)::text
  FROM at
"""

MAX_STATS = 8
# The columns of these names, as text that is a key of `column_stats`.
_FIELDS = """ARRAY(SELECT c->>'field_id' FROM jsonb_array_elements(v.schema_json->'columns') c
                WHERE lower(c->>'name') = ANY (%(bounded)s::text[]) ORDER BY (c->>'field_id')::int LIMIT {most})"""

_PARTITION = "CASE WHEN w.spec::text LIKE '%%\"bucket[%%' THEN f.partition_values END"


def read_set(
    *,
    tenant_id: str,
    names: Iterable[str],
    snapshot_id: int | None = None,
    token: int | None = None,
    bounded: Collection[str] = (),
) -> ReadSet | None:
    """What the tables `names` (lower case) consist of in this snapshot, or in the latest; None if there is no such.

    Their files come with the statistics of the columns `bounded` (lower case), of `MAX_STATS` a table at most.
    """
    given = {"tenant": tenant_id, "snapshot": snapshot_id, "names": list(names), "token": token}
    with connection.cursor() as cursor:
        _statement(min(len(bounded), MAX_STATS)).execute(cursor, {**given, "bounded": list(bounded)})
        row = cursor.fetchone()
    if row is None:
        return None
    tables = [_table(*item) for item in json.loads(row[6] or "[]")]
    return ReadSet(
        snapshot_id=row[0],
        snapshot_time=row[1],
        visible_token=row[2],
        issued_token=row[3],
        failed_event_id=row[4],
        token_is_void=row[5],
        tables={table.name.lower(): table for table in tables},
    )


# `columns`: the stored JSON of a schema version, as text; `files` and `others`: what the statement builds, or null.
def _table(
    table_id: int,
    name: str,
    key: list[str],
    version: int,
    columns: str,
    fields: list[str],
    spec: Mapping[str, Any],
    files: list[list[Any]] | None,
    others: dict[str, str] | None,
) -> ReadTable:
    schema = _schema(columns, version)
    return ReadTable(
        table_id=table_id,
        name=name,
        schema=schema,
        primary_key_cols=tuple(key),
        files=tuple(
            ReadFile(
                path=path,
                row_count=rows,
                size_bytes=size,
                sha256=digest,
                schema_version=written,
                folded=folded,
                stats=tuple(stats),
                partition_values=partition or {},
            )
            for path, rows, size, digest, written, folded, partition, *stats in files or ()
        ),
        stat_fields=tuple(map(int, fields)),
        buckets=_buckets(spec, schema),
        other_schemas={int(number): _schema(stored, int(number)) for number, stored in (others or {}).items()},
    )


def _buckets(spec: Mapping[str, Any], schema: TableSchema) -> tuple[tuple[int, int], ...]:
    ids = {column.name: column.field_id for column in schema.columns}
    fields = partition_fields(spec, schema=schema)
    return tuple((ids[field.column], field.buckets) for field in fields if field.buckets is not None)


@lru_cache(maxsize=MAX_STATS + 1)
def _statement(count: int) -> Prepared:
    """The statement that reads the statistics of `count` columns a table."""
    sql = _READ.format(
        exists=exists_at("at.snapshot_id"),
        fields=_FIELDS.format(most=count) if count else "ARRAY[]::text[]",
        partition=_PARTITION if count else "NULL",
        stats="".join(f", f.column_stats->w.fields[{place}]" for place in range(1, count + 1)),
    )
    types = {"tenant": "text", "snapshot": "bigint", "names": "text[]", "token": "bigint", "bounded": "text[]"}
    return Prepared(f"read_set_{count}", sql, types)


@lru_cache(maxsize=256)
def _schema(columns: str, version: int) -> TableSchema:
    """The schema that the text says; the same few are read by query after query."""
    stored: list[JSON] = json.loads(columns)
    return from_stored(stored, version=version)
