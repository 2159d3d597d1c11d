"""Holds on files: while one lives, what the catalog named when it was taken stays in the object store.

A backup takes its hold before it reads the catalog, so everything that it reads is named at that time or later: what
becomes unreferenced after that is held. To hold no more than that, it is narrowed when the reading is over.

Two transactions could still pass each other: an expiry marks a file, a hold is taken and the catalog read, and the
expiry commits, with a time before the hold's. So whatever unmarks, marks or deletes files does it beside no taking of a
hold, which waits for all of them. In the lock order this stands between `tenant_catalog` and the token lock.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog
from django.db import IntegrityError, connection, transaction

from catalog.errors import HoldExists, HoldLost
from catalog.models import FileHold

log = structlog.get_logger(__name__)

_SHARED = "SELECT pg_advisory_xact_lock_shared(hashtextextended('duckmesh.holds', 0))"
_ALONE = "SELECT pg_advisory_xact_lock(hashtextextended('duckmesh.holds', 0))"

_LIVE = "(h.expires_at IS NULL OR h.expires_at > clock_timestamp())"

# Conditions of a statement that runs in a transaction which holds off new holds, in a later statement than that.
FILE_IS_HELD = f"""EXISTS (SELECT 1 FROM file_hold h
    WHERE f.unreferenced_since >= h.created_at AND (h.upto_file_id IS NULL OR f.file_id <= h.upto_file_id)
      AND {_LIVE})"""
STAGED_IS_HELD = f"""EXISTS (SELECT 1 FROM file_hold h
    WHERE (h.upto_staged_id IS NULL OR s.staged_id <= h.upto_staged_id) AND {_LIVE})"""

_TAKE = """
INSERT INTO file_hold (kind, name, created_at, expires_at)
VALUES (%s, %s, clock_timestamp(), clock_timestamp() + make_interval(secs => %s)) RETURNING hold_id, created_at
"""
_EXTEND = """
UPDATE file_hold SET expires_at = clock_timestamp() + make_interval(secs => %s)
 WHERE hold_id = %s AND expires_at > clock_timestamp()
"""
_NARROW = """
UPDATE file_hold
   SET upto_file_id = coalesce(pg_sequence_last_value(pg_get_serial_sequence('data_file', 'file_id')), 0),
       upto_staged_id = coalesce(pg_sequence_last_value(pg_get_serial_sequence('ingest_staged', 'staged_id')), 0)
 WHERE hold_id = %s AND (expires_at IS NULL OR expires_at > clock_timestamp())
"""


@dataclass(frozen=True, kw_only=True)
class Hold:
    """A hold that was taken, at the database's time `created_at`."""

    hold_id: int
    created_at: datetime


def keep_holds_away() -> None:
    """No hold is taken until this transaction ends; those that there are can be read by its next statement."""
    if not connection.in_atomic_block:
        raise transaction.TransactionManagementError("Holds are kept away for a transaction.")
    with connection.cursor() as cursor:
        cursor.execute(_SHARED)


def take_file_hold(*, kind: FileHold.Kind, name: str, expires_in: timedelta | None = None) -> Hold:
    """Whatever a transaction that begins from now on reads in the catalog stays in the store, until the hold goes.

    Without `expires_in` only `release_file_hold` ends it. Raises `HoldExists`.
    """
    try:
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute(_ALONE)
            cursor.execute(_TAKE, [kind, name, None if expires_in is None else expires_in.total_seconds()])
            hold_id, created_at = cursor.fetchone()
    except IntegrityError as exc:
        raise HoldExists(f"There is a hold of the {kind} {name}.", kind=str(kind), name=name) from exc
    transaction.on_commit(lambda: log.info("files_held", kind=str(kind), hold=name, hold_id=hold_id))
    return Hold(hold_id=hold_id, created_at=created_at)


@transaction.atomic
def extend_file_hold(*, hold_id: int, expires_in: timedelta) -> None:
    """The hold lives for so long from now on. Raises `HoldLost` for one that has ended: it cannot come back."""
    with connection.cursor() as cursor:
        # Whoever deletes has judged by the old time: the two are apart from each other, as with a new hold.
        cursor.execute(_ALONE)
        cursor.execute(_EXTEND, [expires_in.total_seconds(), hold_id])
        if cursor.rowcount != 1:
            raise HoldLost("The hold on files has ended; what it held may be gone.", hold_id=hold_id)


def narrow_file_hold(*, hold_id: int) -> None:
    """The hold is about no file and no staged payload that comes from now on. Called when what it is for was read.

    Raises `HoldLost`.
    """
    with connection.cursor() as cursor:
        cursor.execute(_NARROW, [hold_id])
        if cursor.rowcount != 1:
            raise HoldLost("The hold on files has ended; what it held may be gone.", hold_id=hold_id)


def release_file_hold(*, hold_id: int) -> None:
    """The hold is gone, if it was there; what it alone has held is deleted in time."""
    if FileHold.objects.filter(hold_id=hold_id).delete()[0]:
        transaction.on_commit(lambda: log.info("files_released", hold_id=hold_id))
