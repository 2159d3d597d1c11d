"""The backend that the settings name; Django finds `DatabaseWrapper` in a module of this name."""

import select

from django.db.backends.postgresql import base


class DatabaseWrapper(base.DatabaseWrapper):
    """A connection that is checked before each request without asking the server.

    Nothing is owed to a connection between requests, so whatever can be read from it is its end, or a notice: only
    then is the server asked. Asking it each time cost a small write a tenth of its processor time and a round trip.
    """

    def is_usable(self) -> bool:
        """Whether statements can be sent; a server that has gone without a word is noticed by the first of them."""
        if self.connection is None or self.connection.closed:
            return False
        waiting = select.poll()
        waiting.register(self.connection.fileno(), select.POLLIN | select.POLLPRI)
        return bool(super().is_usable()) if waiting.poll(0) else True
