"""Row-level security, for migrations: which rows of a table a session may see and write (docs/security.md).

What a session acts for is its setting `duckmesh.tenant`: a tenant, `*` for all of them, or nothing. The owner of a
table is not bound by its policies.
"""

from django.db.migrations import RunSQL

from duckmesh.postgresql.session import SETTING

# In a subquery it is read once a statement, not once a row.
_ACTING = f"(SELECT current_setting('{SETTING}', true))"
_FOR_ALL = f"{_ACTING} = '*'"


def tenants_rows(*tables: str) -> list[RunSQL]:
    """A row belongs to the tenant in its `tenant_id`; one without a tenant is the operator's."""
    return [_protect(table, _unless_for_all(f"tenant_id = {_ACTING}")) for table in tables]


def parents_rows(table: str, *, parent: str, key: str) -> RunSQL:
    """A row belongs to whom the row of the other table with the same key belongs to."""
    return _protect(table, _parents(table, parent, key))


def later_parents_rows(table: str, *, parent: str, key: str) -> RunSQL:
    """As `parents_rows`, of a table whose rows are written before their parents: by whoever acts for somebody."""
    return _protect(table, _parents(table, parent, key), check=f"{_ACTING} <> ''")


def operators_rows(*tables: str) -> list[RunSQL]:
    """The rows are the whole service's; a tenant has none of them."""
    return [_protect(table, _FOR_ALL) for table in tables]


def _parents(table: str, parent: str, key: str) -> str:
    return _unless_for_all(f"EXISTS (SELECT FROM {parent} p WHERE p.{key} = {table}.{key})")


def _unless_for_all(condition: str) -> str:
    """The planner takes an OR for one that nearly no row passes, and a CASE for one that half of them do.

    With the first it would join large tables of many tenants as if they were empty.
    """
    return f"CASE WHEN {_FOR_ALL} THEN true ELSE {condition} END"


def _protect(table: str, using: str, *, check: str | None = None) -> RunSQL:
    also = f" WITH CHECK ({check})" if check else ""
    return RunSQL(
        f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY; CREATE POLICY acting ON {table} USING ({using}){also}",
        f"DROP POLICY acting ON {table}; ALTER TABLE {table} DISABLE ROW LEVEL SECURITY",
    )
