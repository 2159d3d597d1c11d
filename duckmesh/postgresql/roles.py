"""The owner of the tables, who is not whom the programs connect as, and what the owner lets them do.

`deploy/postgresql/roles.sql` makes the roles; where there is one role for everything, nothing here changes anything.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from django.db import DEFAULT_DB_ALIAS, connection, connections
from psycopg2 import sql

from duckmesh.postgresql.address import parts

LAKE = "duckmesh_lake"

# They hold rows of tenants no less than others: the lake's reader is bound by the same policies.
_LAKE_READS = (
    "tenant_catalog",
    "table_def",
    "table_schema_version",
    "table_interval",
    "snapshot",
    "snapshot_table_watermark",
    "data_file",
    "snapshot_file",
    "snapshot_pin",
)

# That a migration has been made, and on which server the catalog lives, only the owner says.
_APPLICATION = """
GRANT USAGE ON SCHEMA public TO {role};
GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {role};
REVOKE INSERT, UPDATE, DELETE ON django_migrations FROM {role};
REVOKE UPDATE, DELETE ON catalog_server FROM {role};
GRANT USAGE, SELECT ON ALL SEQUENCES IN SCHEMA public TO {role};
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA public TO {role};
"""
_MAINTAINS = "GRANT MAINTAIN ON ingest_key TO {role}"
_SINCE_MAINTAIN = 170_000
_READER = "GRANT USAGE ON SCHEMA public TO {role}; GRANT SELECT ON {tables} TO {role}"


@contextmanager
def connected(**given: str) -> Iterator[None]:
    """The default connection of this thread is another one, whose settings differ in what is given."""
    former = connections[DEFAULT_DB_ALIAS]
    other = connections.create_connection(DEFAULT_DB_ALIAS)
    other.settings_dict = {**former.settings_dict, **given}
    connections[DEFAULT_DB_ALIAS] = other
    try:
        yield
    finally:
        connections[DEFAULT_DB_ALIAS] = former
        other.close()


@contextmanager
def as_owner(url: str | None) -> Iterator[None]:
    """The default connection of this thread is the owner's, to the same database; without `url` it stays as it is."""
    if url is None:
        yield
        return
    owner = parts(url)
    del owner["NAME"]
    with connected(**owner):
        yield


def grant(*, application: str) -> None:
    """The role may do what the programs do with the connected database, whose owner we are, and no more.

    Nothing changes if it is the same role. If there is a role of the lake's readers, it may read what it needs.
    """
    with connection.cursor() as cursor:
        cursor.execute("SELECT current_user, (SELECT rolname FROM pg_roles WHERE rolname = %s)", [LAKE])
        ourselves, lake = cursor.fetchone()
        if application == ourselves:
            return
        role = sql.Identifier(application)
        cursor.execute(sql.SQL(_APPLICATION).format(role=role))
        if cursor.connection.server_version >= _SINCE_MAINTAIN:
            cursor.execute(sql.SQL(_MAINTAINS).format(role=role))
        if lake is not None:
            tables = sql.SQL(", ").join(map(sql.Identifier, _LAKE_READS))
            cursor.execute(sql.SQL(_READER).format(role=sql.Identifier(lake), tables=tables))
