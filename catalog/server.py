"""On which PostgreSQL the catalog lives: told by the cluster's identifier and by the timeline of its history.

A standby that is promoted, and an archive that is recovered to a point in time, begin a new timeline; a dump that is
loaded elsewhere meets another identifier. Each may lack commits that were acknowledged, whose tokens and snapshot ids
would be issued a second time. So triggers refuse, in every session, what would issue anything on a server that is not
on record, and an operator says what became of the old one (`maintenance.restore.adopting`).
"""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from django.db import connection

_HERE = "SELECT system_identifier, timeline FROM duckmesh_server()"
_RECORDED = "SELECT system_identifier, timeline, recorded_at FROM catalog_server"
_RECORD = """
INSERT INTO catalog_server (one, system_identifier, timeline)
SELECT true, system_identifier, timeline FROM duckmesh_server()
ON CONFLICT (one) DO UPDATE SET system_identifier = excluded.system_identifier, timeline = excluded.timeline,
                                 recorded_at = clock_timestamp()
"""
_RECORD_FIRST = """
INSERT INTO catalog_server (one, system_identifier, timeline)
SELECT true, system_identifier, timeline FROM duckmesh_server()
ON CONFLICT DO NOTHING
"""


class Standing(StrEnum):
    """Whether the server is the catalog's own."""

    KNOWN = "known"
    CHANGED = "changed"
    STANDBY = "standby"


@dataclass(frozen=True, kw_only=True)
class Server:
    """A PostgreSQL. `timeline` is None of a standby, which has none of its own yet."""

    system_identifier: int
    timeline: int | None


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """The PostgreSQL that the catalog was last known on."""

    server: Server
    since: datetime


def server_here() -> Server:
    """The PostgreSQL that answers."""
    with connection.cursor() as cursor:
        cursor.execute(_HERE)
        identifier, timeline = cursor.fetchone()
    return Server(system_identifier=identifier, timeline=timeline)


def server_on_record() -> Recorded | None:
    """The PostgreSQL that the catalog was last known on; None before its first write."""
    with connection.cursor() as cursor:
        cursor.execute(_RECORDED)
        row = cursor.fetchone()
    if row is None:
        return None
    return Recorded(server=Server(system_identifier=row[0], timeline=row[1]), since=row[2])


def standing() -> Standing:
    """Whether the server that answers is the catalog's own. The first who asks puts it on record."""
    here = server_here()
    if here.timeline is None:
        return Standing.STANDBY
    recorded = server_on_record()
    if recorded is None:
        with connection.cursor() as cursor:
            cursor.execute(_RECORD_FIRST)
        recorded = server_on_record()
    return Standing.KNOWN if recorded is not None and recorded.server == here else Standing.CHANGED


def record_server() -> None:
    """The catalog lives on the server that answers."""
    with connection.cursor() as cursor:
        cursor.execute(_RECORD)


def record_no_server() -> None:
    """The catalog lives nowhere: nothing is issued until a server is recorded."""
    with connection.cursor() as cursor:
        cursor.execute("UPDATE catalog_server SET system_identifier = 0, timeline = 0, recorded_at = clock_timestamp()")
