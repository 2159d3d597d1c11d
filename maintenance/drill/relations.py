"""What must hold within a catalog beside its constraints, each as a statement that finds what breaks it.

A dump that is loaded anew has had its constraints checked. These are the references that have none, because they would
cost the bus too much, and the counters that a restored database goes on from.
"""

from collections.abc import Iterable

from django.db import connection
from psycopg2 import sql

# What each breaks is told with its tenant; null where that cannot be said.
_RELATIONS = {
    "constraint_not_valid": """
SELECT NULL AS tenant_id, conrelid::regclass || '.' || conname AS what FROM pg_constraint
 WHERE NOT convalidated AND connamespace = 'public'::regnamespace""",
    "head_without_snapshot": """
SELECT c.tenant_id, 'head' AS what FROM tenant_catalog c
  LEFT JOIN snapshot s ON s.tenant_id = c.tenant_id AND s.snapshot_id = c.snapshot_seq WHERE s.tenant_id IS NULL""",
    "tenant_without_head": """
SELECT t.tenant_id, 'tenant' AS what FROM tenant t
  LEFT JOIN tenant_catalog c USING (tenant_id) WHERE c.tenant_id IS NULL""",
    "snapshot_beyond_head": """
SELECT s.tenant_id, 'snapshot ' || s.snapshot_id AS what FROM snapshot s JOIN tenant_catalog c USING (tenant_id)
 WHERE s.snapshot_id > c.snapshot_seq OR s.visible_token > c.visible_token""",
    "file_interval_beyond_head": """
SELECT i.tenant_id, 'file ' || i.file_id AS what FROM snapshot_file i JOIN tenant_catalog c USING (tenant_id)
 WHERE greatest(i.added_in, i.removed_in) > c.snapshot_seq""",
    "file_of_another_tenant": """
SELECT i.tenant_id, 'file ' || i.file_id AS what FROM snapshot_file i JOIN data_file f USING (file_id)
 WHERE (f.tenant_id, f.table_id) <> (i.tenant_id, i.table_id)""",
    "totals_of_another_tenant": """
SELECT w.tenant_id, 'table ' || w.table_id AS what FROM snapshot_table_watermark w JOIN table_def t USING (table_id)
 WHERE w.tenant_id <> t.tenant_id""",
    "table_without_schema": """
SELECT t.tenant_id, 'table ' || t.name AS what FROM table_def t
 WHERE t.dropped_in IS NULL AND NOT EXISTS (SELECT 1 FROM table_schema_version v WHERE v.table_id = t.table_id)""",
    "payload_without_envelope": """
SELECT NULL AS tenant_id, 'envelope ' || p.event_id AS what FROM ingest_payload p
  LEFT JOIN ingest_event e USING (event_id) WHERE e.event_id IS NULL""",
    "envelope_without_payload": """
SELECT e.tenant_id, 'envelope ' || e.event_id AS what FROM ingest_event e
 WHERE e.state IN ('pending', 'failed') AND e.restore_to IS NULL
   AND NOT EXISTS (SELECT 1 FROM ingest_payload p WHERE p.event_id = e.event_id)
   AND NOT EXISTS (SELECT 1 FROM ingest_staged g WHERE g.event_id = e.event_id)""",
    "envelope_of_no_tenant": """
SELECT NULL AS tenant_id, 'envelope ' || e.event_id AS what FROM ingest_event e
  LEFT JOIN tenant t USING (tenant_id) WHERE t.tenant_id IS NULL""",
}

_SEQUENCES = """
SELECT c.relname, a.attname, pg_get_serial_sequence(format('%I', c.relname), a.attname)
  FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
 WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'r' AND a.attnum > 0 AND NOT a.attisdropped
   AND pg_get_serial_sequence(format('%I', c.relname), a.attname) IS NOT NULL
"""
_MOST = 20


def broken_relations(*, tenant_id: str | None) -> list[dict[str, object]]:
    """What does not hold in the connected catalog: up to 20 examples of each rule, of one tenant only its own."""
    return _broken(_RELATIONS, tenant_id=tenant_id)


def _broken(names: Iterable[str], *, tenant_id: str | None) -> list[dict[str, object]]:
    found: list[dict[str, object]] = []
    with connection.cursor() as cursor:
        for name in names:
            cursor.execute(
                f"SELECT tenant_id, what FROM ({_RELATIONS[name]}) broken WHERE %(tenant)s::text IS NULL"
                f" OR tenant_id = %(tenant)s ORDER BY what LIMIT {_MOST}",
                {"tenant": tenant_id},
            )
            found += [{"relation": name, "tenant_id": whose, "what": what} for whose, what in cursor.fetchall()]
    return found


_HEADS = ("head_without_snapshot", "tenant_without_head", "constraint_not_valid", "table_without_schema")

_OFF = """
SELECT 'trigger_switched_off' AS relation, tgrelid::regclass || '.' || tgname AS what
  FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid
 WHERE t.tgenabled = 'D' AND c.relnamespace = 'public'::regnamespace
UNION ALL
SELECT 'index_not_valid', indexrelid::regclass::text
  FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid
 WHERE NOT i.indisvalid AND c.relnamespace = 'public'::regnamespace
"""


def broken_heads() -> list[dict[str, object]]:
    """As `broken_relations`, of those rules only that cost as much as there are tenants and tables."""
    return _broken(_HEADS, tenant_id=None)


def switched_off() -> list[dict[str, object]]:
    """Triggers and indexes that are there and guard nothing."""
    with connection.cursor() as cursor:
        cursor.execute(_OFF)
        return [{"relation": relation, "what": what} for relation, what in cursor.fetchall()]


def lagging_sequences() -> list[dict[str, object]]:
    """The columns that hold greater numbers than the sequences from which they get the next one."""
    found: list[dict[str, object]] = []
    with connection.cursor() as cursor:
        cursor.execute(_SEQUENCES)
        for table, column, sequence in cursor.fetchall():
            behind = sql.SQL(
                "SELECT coalesce(max({column}), 0) > coalesce(pg_sequence_last_value(%s), 0) FROM {table}"
            ).format(column=sql.Identifier(column), table=sql.Identifier(table))
            cursor.execute(behind, [sequence])
            if cursor.fetchone()[0]:
                found.append({"relation": "sequence_behind_its_column", "what": f"{table}.{column}"})
    return found
