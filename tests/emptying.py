"""How the database becomes empty after a test that commits.

Django truncates every table and makes the rights of the admin pages anew: a tenth of a second for each of 1,300 tests.
Most of them leave a few rows, which are deleted in a hundredth of that.
"""

from functools import cache

from django.contrib.auth.models import Permission
from django.contrib.contenttypes.models import ContentType
from django.db import connection

KEPT = {model._meta.db_table for model in (Permission, ContentType)}  # the same for every test
GROWN_BYTES = 2**18

_LARGEST = """
SELECT max(pg_table_size(oid)) FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'm')
"""


def empty_database() -> None:
    """Every table is empty, but for `KEPT`. Where something has grown, dead rows leave nothing behind either."""
    names = _names()
    with connection.cursor() as cursor:
        cursor.execute(_LARGEST)
        if cursor.fetchone()[0] > GROWN_BYTES:
            cursor.execute(f"TRUNCATE {', '.join(names)}")
            return
        deletions = "; ".join(f"DELETE FROM {name}" for name in names)
        # Constraints would ask for an order, and would look at each other's tables in vain.
        cursor.execute(f"BEGIN; SET LOCAL session_replication_role = replica; {deletions}; COMMIT")


@cache
def _names() -> list[str]:
    tables = set(connection.introspection.django_table_names(only_existing=True, include_views=False)) - KEPT
    return [connection.ops.quote_name(table) for table in sorted(tables)]
