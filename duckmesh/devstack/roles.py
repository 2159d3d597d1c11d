"""The roles of the embedded PostgreSQL: who owns the tables is not who serves requests."""

import psycopg2
from psycopg2 import sql

from duckmesh.kernel.config import ROOT

OWNER, APP = "duckmesh_owner", "duckmesh_app"
STATEMENTS = ROOT / "deploy" / "postgresql" / "roles.sql"

_PASSWORD = "ALTER ROLE {} PASSWORD {}"  # noqa: S105 - a statement


def prepare_roles(superusers: str, *, owner_password: str, app_password: str) -> None:
    """Both roles can log in, and what is in the database that `superusers` names belongs to the owner."""
    session = psycopg2.connect(superusers, connect_timeout=5)
    try:
        with session, session.cursor() as cursor:
            cursor.execute(STATEMENTS.read_text(encoding="utf-8"))
            for role, password in ((OWNER, owner_password), (APP, app_password)):
                cursor.execute(sql.SQL(_PASSWORD).format(sql.Identifier(role), sql.Literal(password)))
    finally:
        session.close()
