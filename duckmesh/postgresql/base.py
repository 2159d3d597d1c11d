"""The backend that the settings name; Django finds `DatabaseWrapper` in a module of this name."""

import select
import time
from typing import Any

import psycopg2.extensions
from django.db.backends.postgresql import base
from django_prometheus import db

from duckmesh.kernel.acting import default
from duckmesh.postgresql.errors import SERVER_CHANGED, server_changed
from duckmesh.postgresql.schema import SchemaEditor
from duckmesh.postgresql.session import SETTING, TenantSession

_LABELS = ("default", "postgresql")
_executed = db.execute_total.labels(*_LABELS)
_executed_many = db.execute_many_total.labels(*_LABELS)
_duration = db.query_duration_seconds.labels(*_LABELS)
_opened = db.connections_total.labels(*_LABELS)
_not_opened = db.connection_errors_total.labels(*_LABELS)


class TenantCursor(psycopg2.extensions.cursor):
    """Says for whom its statements are, where that is news.

    And counts them as django-prometheus does, which would make a class anew for every cursor.
    """

    connection: TenantSession

    # `Any`: psycopg2's own parameters.
    def execute(self, query: Any, vars: Any = None) -> None:
        """The statement is executed, and counted whatever comes of it. Raises `CatalogServerChanged`, too."""
        _executed.inc()
        began = time.perf_counter()
        try:
            super().execute(self._introduced(query), vars)
        except Exception as exc:
            self._failed(exc)
            raise
        finally:
            _duration.observe(time.perf_counter() - began)

    def executemany(self, query: Any, vars_list: Any) -> None:
        """The statement is executed for each of the parameters."""
        _executed.inc(len(vars_list))
        _executed_many.inc(len(vars_list))
        began = time.perf_counter()
        try:
            if (word := self.connection.word()) is not None:
                super().execute(word)
            super().executemany(query, vars_list)
        except Exception as exc:
            self._failed(exc)
            raise
        finally:
            _duration.observe(time.perf_counter() - began)

    def _introduced(self, query: Any) -> Any:
        """The statement with what must be said before it, in one message where that can be."""
        word = self.connection.word()
        if word is None:
            return query
        if self.name is None and isinstance(query, str):
            return f"{word}; {query}"
        with self.connection.cursor(cursor_factory=psycopg2.extensions.cursor) as cursor:
            cursor.execute(word)  # a cursor with a name takes no other statement than its own
        return query

    def _failed(self, exc: Exception) -> None:
        """The failure of a statement is counted. Raises `CatalogServerChanged` if that is what it was."""
        self.connection.doubt()
        db.errors_total.labels(*_LABELS, type(exc).__name__).inc()
        if getattr(exc, "pgcode", None) == SERVER_CHANGED:
            raise server_changed() from exc


class DatabaseWrapper(base.DatabaseWrapper):
    """A connection that says for which tenant it acts, and is checked before each request without asking the server.

    Nothing is owed to a connection between requests, so whatever can be read from it is its end, or a notice: only
    then is the server asked. Asking it each time cost a small write a tenth of its processor time and a round trip.
    """

    SchemaEditorClass = SchemaEditor
    prepared: set[str]  # the names of the statements that the server has planned for this connection

    def is_usable(self) -> bool:
        """Whether statements can be sent; a server that has gone without a word is noticed by the first of them."""
        if self.connection is None or self.connection.closed:
            return False
        waiting = select.poll()
        waiting.register(self.connection.fileno(), select.POLLIN | select.POLLPRI)
        return bool(super().is_usable()) if waiting.poll(0) else True

    def get_connection_params(self) -> dict[str, Any]:
        """The session begins as what this process acts for by default."""
        params = super().get_connection_params()
        options = f"{params.get('options', '')} -c {SETTING}={default()}"
        return {**params, "options": options, "connection_factory": TenantSession, "cursor_factory": TenantCursor}

    # `Any`: psycopg2's own parameters.
    def get_new_connection(self, conn_params: dict[str, Any]) -> Any:
        """A connection, counted, as is the failure to get one."""
        self.prepared = set()
        _opened.inc()
        try:
            session = super().get_new_connection(conn_params)
        except Exception:
            _not_opened.inc()
            raise
        session.begins_for(default())
        return session

    def _savepoint_rollback(self, sid: str) -> None:
        super()._savepoint_rollback(sid)  # type: ignore[misc]  # the stubs have no such method
        self.connection.doubt()
