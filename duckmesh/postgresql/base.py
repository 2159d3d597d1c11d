"""The backend that the settings name; Django finds `DatabaseWrapper` in a module of this name."""

import select
import time
from typing import Any

import psycopg2.extensions
from django.db.backends.postgresql import base
from django_prometheus import db

from duckmesh.postgresql.errors import SERVER_CHANGED, server_changed
from duckmesh.postgresql.schema import SchemaEditor

_LABELS = ("default", "postgresql")
_executed = db.execute_total.labels(*_LABELS)
_executed_many = db.execute_many_total.labels(*_LABELS)
_duration = db.query_duration_seconds.labels(*_LABELS)
_opened = db.connections_total.labels(*_LABELS)
_not_opened = db.connection_errors_total.labels(*_LABELS)


class CountingCursor(psycopg2.extensions.cursor):
    """Counts statements as django-prometheus does, which would make a class anew for every cursor."""

    # `Any`: psycopg2's own parameters.
    def execute(self, *args: Any, **kwargs: Any) -> None:
        """The statement is executed, and counted whatever comes of it. Raises `CatalogServerChanged`, too."""
        _executed.inc()
        began = time.perf_counter()
        try:
            super().execute(*args, **kwargs)
        except Exception as exc:
            _failed(exc)
            raise
        finally:
            _duration.observe(time.perf_counter() - began)

    def executemany(self, query: Any, vars_list: Any) -> None:
        """The statement is executed for each of the parameters."""
        _executed.inc(len(vars_list))
        _executed_many.inc(len(vars_list))
        began = time.perf_counter()
        try:
            super().executemany(query, vars_list)
        except Exception as exc:
            _failed(exc)
            raise
        finally:
            _duration.observe(time.perf_counter() - began)


def _failed(exc: Exception) -> None:
    """The failure of a statement is counted. Raises `CatalogServerChanged` if that is what it was."""
    db.errors_total.labels(*_LABELS, type(exc).__name__).inc()
    if getattr(exc, "pgcode", None) == SERVER_CHANGED:
        raise server_changed() from exc


class DatabaseWrapper(base.DatabaseWrapper):
    """A connection that is checked before each request without asking the server.

    Nothing is owed to a connection between requests, so whatever can be read from it is its end, or a notice: only
    then is the server asked. Asking it each time cost a small write a tenth of its processor time and a round trip.
    """

    SchemaEditorClass = SchemaEditor

    def is_usable(self) -> bool:
        """Whether statements can be sent; a server that has gone without a word is noticed by the first of them."""
        if self.connection is None or self.connection.closed:
            return False
        waiting = select.poll()
        waiting.register(self.connection.fileno(), select.POLLIN | select.POLLPRI)
        return bool(super().is_usable()) if waiting.poll(0) else True

    def get_connection_params(self) -> dict[str, Any]:
        """Every cursor of the connection counts what it executes."""
        return {**super().get_connection_params(), "cursor_factory": CountingCursor}

    # `Any`: psycopg2's own parameters.
    def get_new_connection(self, conn_params: dict[str, Any]) -> Any:
        """A connection, counted, as is the failure to get one."""
        _opened.inc()
        try:
            return super().get_new_connection(conn_params)
        except Exception:
            _not_opened.inc()
            raise
