"""A hold on files for as long as a block lasts, that a process which is killed in it does not leave behind for long."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import structlog
from django.db import DatabaseError, InterfaceError, connection

from catalog.errors import HoldLost
from catalog.holds import extend_file_hold, release_file_hold, take_file_hold
from catalog.models import FileHold

log = structlog.get_logger(__name__)


@dataclass(frozen=True, kw_only=True)
class Held:
    """A hold that is extended by itself, for so long each time."""

    hold_id: int
    lives_for: timedelta

    def check(self) -> None:
        """The hold lives, and has lived all the time. Raises `HoldLost`.

        Asks the database: the thread that extends the hold may not have looked since the process stood still.
        """
        extend_file_hold(hold_id=self.hold_id, expires_in=self.lives_for)


@contextmanager
def drill_hold(*, name: str, lives_for: timedelta) -> Iterator[Held]:
    """What the catalog names now stays in the store until the block ends."""
    hold = take_file_hold(kind=FileHold.Kind.DRILL, name=name, expires_in=lives_for)
    over = threading.Event()

    def extend() -> None:
        try:
            while not over.wait(lives_for.total_seconds() / 3):
                try:
                    extend_file_hold(hold_id=hold.hold_id, expires_in=lives_for)
                except HoldLost:
                    return
                except (DatabaseError, InterfaceError) as exc:
                    log.warning("drill_hold_not_extended", reason=type(exc).__name__)
                    connection.close()
        finally:
            connection.close()

    thread = threading.Thread(target=extend, name="drill-hold", daemon=True)
    thread.start()
    try:
        yield Held(hold_id=hold.hold_id, lives_for=lives_for)
    finally:
        over.set()
        thread.join()
        release_file_hold(hold_id=hold.hold_id)
