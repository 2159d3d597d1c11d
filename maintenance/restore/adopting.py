"""The catalog is told that it lives on another PostgreSQL now: after a failover, or a recovery to a point in time.

If commits may have been lost with the old one, the catalog begins a new incarnation first, as after a restore.
Meanwhile it lives on no server, so nothing is issued; and before and after, whoever has a transaction open is
disconnected: it may have computed a number before it was refused.
"""

import time
from dataclasses import dataclass
from datetime import datetime

from django.db import connection, transaction

from catalog.identity import identity
from catalog.server import Server, Standing, record_no_server, record_server, server_here, standing
from duckmesh.kernel.failpoints import failpoint
from maintenance.postgres.errors import DatabaseInUse
from maintenance.restore.errors import ServerIsStandby
from maintenance.restore.loaded import begin_life

_PATIENCE = 30.0

# Snapshots follow the order of commits: what the lost history published came after the latest that is known.
_LAST_KNOWN = "SELECT coalesce(max(snapshot_time), clock_timestamp()) FROM tenant_catalog"
_END_OLDER = """
SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
 WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend' AND xact_start <= %s
"""


@dataclass(frozen=True, kw_only=True)
class Adopted:
    """What became of it. `known_until` is the last instant of which the catalog knows all, if commits were lost."""

    server: Server
    incarnation: int
    changed: bool
    known_until: datetime | None = None


def adopt_without_loss() -> Adopted:
    """The catalog lives on the server that answers, which has every commit of the one before. Raises `ServerIsStandby`.

    For a switchover in which the old server was shut down, and the new one had received all of its WAL.
    """
    changed = _require_primary() == Standing.CHANGED
    record_server()
    return Adopted(server=server_here(), incarnation=identity().incarnation, changed=changed)


def adopt_after_loss() -> Adopted:
    """The catalog lives on the server that answers, in a new incarnation: nothing is issued twice, whatever was lost.

    Of any server, the one on record too: a copy of its disk that was put back is not told by its identity. Whoever has
    a transaction open is disconnected. If this dies on its way nothing is issued until it is done again. Raises
    `ServerIsStandby`, and `DatabaseInUse` if somebody's transaction does not end.
    """
    _require_primary()
    record_no_server()
    _end_older_transactions()
    failpoint("adopt.after_refusal")
    with transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute(_LAST_KNOWN)
            known_until = cursor.fetchone()[0]
        begin_life(dumped_at=known_until, backup=None, why="PostgreSQL was replaced and may have lost commits.")
        record_no_server()
    failpoint("adopt.after_incarnation")
    _end_older_transactions()
    record_server()
    return Adopted(server=server_here(), incarnation=identity().incarnation, changed=True, known_until=known_until)


def _require_primary() -> Standing:
    found = standing()
    if found == Standing.STANDBY:
        raise ServerIsStandby("This PostgreSQL is a standby; promote it first.")
    return found


def _end_older_transactions() -> None:
    deadline = time.monotonic() + _PATIENCE
    with connection.cursor() as cursor:
        cursor.execute("SELECT clock_timestamp()")
        now = cursor.fetchone()[0]
        while True:
            cursor.execute(_END_OLDER, [now])
            if not cursor.fetchone()[0]:
                return
            if time.monotonic() > deadline:
                raise DatabaseInUse("A transaction that began before the adoption does not end; stop its program.")
            time.sleep(0.05)
