"""The roles of a PostgreSQL whose superuser we are: who owns the tables is not who serves requests.

`python -m duckmesh.devstack.roles` makes them as the superuser of `SUPERUSER_DATABASE_URL`, with the passwords of
`DUCKMESH_OWNER_DATABASE_URL` and `DUCKMESH_DATABASE_URL`.
"""

import os
import sys

import psycopg2
from psycopg2 import sql

from duckmesh.kernel.config import ROOT, load_config
from duckmesh.postgresql.address import parts

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


def main() -> None:
    """What the environment names is so; or the process ends with a sentence."""
    config = load_config()
    superusers = os.environ.get("SUPERUSER_DATABASE_URL")
    if not superusers or config.owner_database_url is None:
        sys.exit("duckmesh: SUPERUSER_DATABASE_URL and DUCKMESH_OWNER_DATABASE_URL must be set to make the roles.")
    owner, app = parts(config.owner_database_url), parts(config.database_url)
    if (owner["USER"], app["USER"]) != (OWNER, APP):
        sys.exit(f"duckmesh: the roles that can be made here are {OWNER} and {APP}.")
    prepare_roles(superusers, owner_password=owner["PASSWORD"], app_password=app["PASSWORD"])


if __name__ == "__main__":
    main()
