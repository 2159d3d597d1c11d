"""Databases beside the catalog's on the same server: made under a name that tells them, and dropped.

What reads the catalog asks Django's default connection. `connected_to` puts another database in its place, for this
thread and for as long as its block lasts.
"""

import hashlib
import re
import secrets
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import psycopg2
from django.db import DEFAULT_DB_ALIAS, OperationalError, connection, connections
from psycopg2 import sql

from duckmesh.postgresql.roles import connected
from maintenance.postgres.errors import DatabaseInUse, DatabaseRefused

_HOME = "postgres"  # the database from which others are made, renamed and dropped
_SWAPS = 20

# A scratch database without a session that holds its lock belongs to a process that died.
_LOCK = "SELECT pg_try_advisory_lock(hashtextextended('duckmesh.scratch/' || %s, 0))"
_UNLOCK = "SELECT pg_advisory_unlock(hashtextextended('duckmesh.scratch/' || %s, 0))"


def connected_to(name: str) -> AbstractContextManager[None]:
    """In this block the default connection of this thread is one to the database `name` of the same server."""
    return connected(NAME=name)


@dataclass(frozen=True, kw_only=True)
class Exported:
    """An instant of the connected database that other sessions can read too, until the block ends."""

    snapshot: str
    at: datetime  # by the database's clock
    _connection: Any  # Django's wrapper, which has no type of its own here

    @contextmanager
    def read(self) -> Iterator[None]:
        """The default connection of this thread reads the database as it was at that instant."""
        former = connections[DEFAULT_DB_ALIAS]
        connections[DEFAULT_DB_ALIAS] = self._connection
        try:
            yield
        finally:
            connections[DEFAULT_DB_ALIAS] = former


@contextmanager
def exported() -> Iterator[Exported]:
    """The connected database at this instant."""
    former = connections[DEFAULT_DB_ALIAS]
    other = connections.create_connection(DEFAULT_DB_ALIAS)
    other.settings_dict = dict(former.settings_dict)
    try:
        with other.cursor() as cursor:
            # It waits idly while others read at its instant.
            cursor.execute("SET idle_in_transaction_session_timeout = 0; SET statement_timeout = 0")
            other.set_autocommit(False)
            cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            cursor.execute("SELECT pg_export_snapshot(), transaction_timestamp()")
            snapshot, at = cursor.fetchone()
        yield Exported(snapshot=snapshot, at=at, _connection=other)
    finally:
        other.close()


class Server:
    """A session of the server from which databases are made and dropped."""

    def __init__(self, session: Any, *, database: str) -> None:
        self._session, self.database = session, database

    @property
    def version(self) -> int:
        """The server's major version."""
        return int(self._session.server_version) // 10_000

    def exists(self, name: str) -> bool:
        """Whether there is a database of this name."""
        return bool(self._rows("SELECT 1 FROM pg_database WHERE datname = %s", name))

    def scratch_name(self, purpose: str) -> str:
        """A name for a scratch database, which is this session's own."""
        name = f"{_prefix(purpose, self.database)}{secrets.token_hex(6)}"
        self._rows(_LOCK, name)
        return name

    def create_scratch(self, name: str) -> None:
        """The database exists and is empty. It is dropped by whoever comes when this session's process has died."""
        try:
            self._run("CREATE DATABASE {} ENCODING 'UTF8' TEMPLATE template0", name)
        except psycopg2.errors.InsufficientPrivilege as exc:
            raise DatabaseRefused(
                "This database role may not create databases, which this needs. Set DUCKMESH_OWNER_DATABASE_URL if"
                " there is an owner who may, or: ALTER ROLE … CREATEDB."
            ) from exc

    def drop_scratch(self, name: str) -> None:
        """The database is gone, and whoever was connected to it is not any more."""
        self._run("DROP DATABASE IF EXISTS {} WITH (FORCE)", name)
        self._rows(_UNLOCK, name)

    def keep_scratch(self, name: str) -> str | None:
        """The database stays, under a name that is nobody's leftover; that name, or None if it was never made."""
        kept = name.replace("duckmesh_", "duckmesh_kept_", 1) if self.exists(name) else None
        if kept is not None:
            self._run("ALTER DATABASE {} RENAME TO {}", name, kept)
        self._rows(_UNLOCK, name)
        return kept

    def drop_leftovers(self, purpose: str) -> list[str]:
        """What processes that died have left of scratch databases for this purpose is gone; their names."""
        prefix = _prefix(purpose, self.database)
        found = [
            name for (name,) in self._rows("SELECT datname FROM pg_database WHERE starts_with(datname, %s)", prefix)
        ]
        left = []
        for name in found:
            if re.fullmatch(r"[0-9a-f]{12}", name.removeprefix(prefix)) and self._rows(_LOCK, name)[0][0]:
                self.drop_scratch(name)
                left.append(name)
        return left

    def swap_in(self, scratch: str, *, keep_as: str) -> None:
        """The database is now what `scratch` was; what it was before, if there was one, is now named `keep_as`.

        Both at once. Whoever was connected to either is not any more. Raises `DatabaseInUse`.
        """
        for _ in range(_SWAPS):
            self._rows(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname IN (%s, %s)",
                scratch,
                self.database,
            )
            try:
                self._rename(scratch, keep_as=keep_as)
            except psycopg2.errors.ObjectInUse:
                continue  # somebody was faster than the rename
            self._rows(_UNLOCK, scratch)
            return
        raise DatabaseInUse("Programs keep connecting to the database; stop them and try again.")

    def _rename(self, scratch: str, *, keep_as: str) -> None:
        self._session.autocommit = False
        try:
            with self._session:
                if self.exists(self.database):
                    self._run("ALTER DATABASE {} RENAME TO {}", self.database, keep_as)
                self._run("ALTER DATABASE {} RENAME TO {}", scratch, self.database)
        finally:
            self._session.autocommit = True

    def _rows(self, statement: str, *given: str) -> list[tuple[Any, ...]]:
        with self._session.cursor() as cursor:
            cursor.execute(statement, given)
            rows: list[tuple[Any, ...]] = cursor.fetchall()
            return rows

    def _run(self, statement: str, *names: str) -> None:
        with self._session.cursor() as cursor:
            cursor.execute(sql.SQL(statement).format(*map(sql.Identifier, names)))


@contextmanager
def server_session() -> Iterator[Server]:
    """A session beside all databases, for the one that is configured, whether that exists or not.

    Raises Django's `OperationalError` if there is none to be had, as whoever asks the catalog gets it.
    """
    settings = connection.settings_dict
    try:
        session = psycopg2.connect(
            host=settings["HOST"] or None,
            port=settings["PORT"] or None,
            user=settings["USER"] or None,
            password=settings["PASSWORD"] or None,
            dbname=_HOME,
            connect_timeout=5,
            application_name="duckmesh",
        )
    except psycopg2.OperationalError as exc:
        raise OperationalError(*exc.args) from exc
    session.autocommit = True
    try:
        yield Server(session, database=settings["NAME"])
    finally:
        session.close()


def _prefix(purpose: str, database: str) -> str:
    """What the names of a database's scratch databases begin with: other catalogs of the server have others."""
    return f"duckmesh_{purpose}_{hashlib.sha256(database.encode()).hexdigest()[:8]}_"
