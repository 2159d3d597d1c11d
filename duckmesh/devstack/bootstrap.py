"""What a stack needs before its first request: servers that answer, the database, its contents."""

import os
from urllib.parse import unquote, urlsplit

import django
import psycopg2
import redis
from psycopg2 import sql

from duckmesh.devstack.addresses import DATABASE, Memory
from duckmesh.devstack.credentials import Credentials
from duckmesh.devstack.errors import StackError
from duckmesh.devstack.layout import Home
from duckmesh.devstack.postgres import Postgres
from duckmesh.devstack.programs import LOOPBACK
from duckmesh.devstack.roles import prepare_roles
from duckmesh.kernel.acting import act_for_all_by_default
from duckmesh.kernel.config import load_config


def create_database(url: str) -> None:
    """The database that `url` names exists, if this user may look for it and create it."""
    name = unquote(urlsplit(url).path.lstrip("/"))
    maintenance = urlsplit(url)._replace(path="/postgres").geturl()
    try:
        connection = psycopg2.connect(maintenance, connect_timeout=5)
    except psycopg2.OperationalError as exc:
        _require_database(url, because=str(exc).strip())
        return
    try:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1 FROM pg_database WHERE datname = %s", [name])
            if cursor.fetchone() is None:
                cursor.execute(
                    sql.SQL("CREATE DATABASE {} ENCODING 'UTF8' TEMPLATE template0").format(sql.Identifier(name))
                )
    except psycopg2.Error as exc:
        raise StackError(f"The database {name} does not exist and cannot be created: {exc}") from None
    finally:
        connection.close()


def prepare_server(postgres: Postgres, memory: Memory) -> None:
    """The embedded server has the database, and the roles that own and use it."""
    superusers = postgres.url(DATABASE)
    create_database(superusers)
    prepare_roles(superusers, owner_password=memory.owner_password, app_password=memory.app_password)


def _require_database(url: str, *, because: str) -> None:
    try:
        psycopg2.connect(url, connect_timeout=5).close()
    except psycopg2.OperationalError:
        raise StackError(f"PostgreSQL (DUCKMESH_DATABASE_URL) does not answer: {because}") from None


def require_redis(url: str) -> None:
    """Redis answers at `url`."""
    try:
        with redis.Redis.from_url(url, socket_timeout=5, socket_connect_timeout=5) as client:
            client.ping()
    except redis.RedisError as exc:
        raise StackError(f"Redis (DUCKMESH_REDIS_URL) does not answer: {exc}") from None


def prepare_database(home: Home, *, base_url: str) -> tuple[Credentials, str | None]:
    """The schema is current, the first tenant has a key and the admin pages have an operator.

    The credentials are in the home. The password comes back only if it was made just now.
    """
    os.environ["DJANGO_SETTINGS_MODULE"] = "duckmesh.settings"
    act_for_all_by_default()
    django.setup()
    from duckmesh.devstack import first_tenant  # models cannot be imported before the setup above

    return first_tenant.prepare(home, base_url=base_url)


def main() -> None:
    """Prepare the database of the configured stack: `python -m duckmesh.devstack.bootstrap`."""
    config = load_config()
    create_database(config.database_url)
    prepare_database(Home(config.home), base_url=f"http://{LOOPBACK}:{config.port}")


if __name__ == "__main__":
    main()
