"""What two databases must agree on: rows of each table, and what guards them. Read from the connected database."""

from collections.abc import Mapping
from dataclasses import dataclass

from django.db import connection
from psycopg2 import sql


@dataclass(frozen=True, kw_only=True)
class TableFigures:
    """A table of PostgreSQL. The checksum does not depend on the order of rows and sees how often one is there."""

    rows: int
    checksum: str | None = None


_TABLES = """
SELECT c.relname, EXISTS (SELECT 1 FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attname = 'tenant_id'
                             AND NOT a.attisdropped)
  FROM pg_class c WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'r' ORDER BY c.relname
"""
_COUNT = "SELECT count(*), NULL FROM {table} t"
_CHECKSUM = "SELECT count(*), coalesce(sum(hashtextextended(t::text, 0)::numeric), 0)::text FROM {table} t"

# By name: a definition that was dumped and loaded may be spelled otherwise. An index that is not valid is one that is
# just being built, and in no dump.
_GUARDS = """
SELECT 'constraint ' || conrelid::regclass || '.' || conname
  FROM pg_constraint WHERE connamespace = 'public'::regnamespace AND contype <> 'n'
UNION ALL
SELECT 'index ' || c.relname FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
 WHERE c.relnamespace = 'public'::regnamespace AND i.indisvalid
UNION ALL
SELECT 'function ' || oid::regprocedure FROM pg_proc WHERE pronamespace = 'public'::regnamespace
UNION ALL
SELECT 'policy ' || polrelid::regclass || '.' || polname FROM pg_policy
UNION ALL
SELECT 'row-level security of ' || c.relname FROM pg_class c
 WHERE c.relnamespace = 'public'::regnamespace AND c.relrowsecurity
UNION ALL
SELECT 'trigger ' || tgrelid::regclass || '.' || tgname FROM pg_trigger WHERE NOT tgisinternal
"""


def table_figures(*, tenant_id: str | None, checksums: bool) -> dict[str, TableFigures]:
    """Of every table; of one tenant only its rows, in the tables that tell whose they are."""
    with connection.cursor() as cursor:
        cursor.execute(_TABLES)
        names = [name for name, tells in cursor.fetchall() if tells or tenant_id is None]
        figures = {}
        for name in names:
            statement = sql.SQL(_CHECKSUM if checksums else _COUNT).format(table=sql.Identifier(name))
            if tenant_id is not None:
                statement += sql.SQL(" WHERE tenant_id = {tenant}").format(tenant=sql.Literal(tenant_id))
            cursor.execute(statement)
            rows, checksum = cursor.fetchone()
            figures[name] = TableFigures(rows=rows, checksum=checksum)
    return figures


def guards() -> frozenset[str]:
    """Constraints, indexes, functions, policies and triggers."""
    with connection.cursor() as cursor:
        cursor.execute(_GUARDS)
        return frozenset(row[0] for row in cursor.fetchall())


def differences(source: Mapping[str, TableFigures], restored: Mapping[str, TableFigures]) -> list[dict[str, object]]:
    """The tables on which the two disagree."""
    found: list[dict[str, object]] = []
    for name in sorted({*source, *restored}):
        left, right = source.get(name), restored.get(name)
        if left != right:
            found.append(
                {
                    "table": name,
                    "rows": None if left is None else left.rows,
                    "restored_rows": None if right is None else right.rows,
                    "what": "rows" if left is None or right is None or left.rows != right.rows else "checksum",
                }
            )
    return found
