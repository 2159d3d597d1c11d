"""A session that PostgreSQL is told for whom it acts, with the statement that is the first to act for them.

The policies of the tables compare the setting `duckmesh.tenant` with each row. It is sent in front of a statement, in
the same message, whenever it is not what the session was last told: that costs no round trip, and there is no statement
that could be forgotten.
"""

from typing import Any

import psycopg2.extensions
from psycopg2.extensions import TRANSACTION_STATUS_INERROR

from duckmesh.kernel.acting import NOBODY, acting

SETTING = "duckmesh.tenant"


class TenantSession(psycopg2.extensions.connection):
    """A connection that knows for whom it was told that it acts, and is told again what a rollback may have undone."""

    # `Any`: psycopg2's own parameters.
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._told: str | None = NOBODY
        self._changed = False

    def begins_for(self, tenant: str) -> None:
        """That it acts for this one is said by its address, and is so again after each rollback."""
        self._told = tenant

    def word(self) -> str | None:
        """The statement that goes before the next one, and counts as sent; None if there is nothing new to say."""
        wanted = acting()
        # Of a transaction that has failed, the only statement that is taken is the one that goes back.
        if wanted == self._told or self.get_transaction_status() == TRANSACTION_STATUS_INERROR:
            return None
        self._told, self._changed = wanted, True
        return f"SET {SETTING} = '{wanted}'"

    def doubt(self) -> None:
        """What the session was told may have been undone."""
        if self._changed:
            self._told = None

    def rollback(self) -> None:
        """psycopg2's."""
        self.doubt()
        super().rollback()

    def commit(self) -> None:
        """psycopg2's."""
        try:
            super().commit()
        except Exception:
            self.doubt()
            raise
