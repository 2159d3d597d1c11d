"""A check of the catalog: one statement over one slice of it, whose rows are findings.

A statement sees one instant of the catalog, in which whatever a transaction changes together is changed together: what
is published, expired, compacted or deleted meanwhile makes no finding.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any
from uuid import UUID

from django.db import connection

from maintenance.integrity.findings import Finding, FindingKind

_LATEST = 2**63 - 1
_HASHES = 2**128


class Slicing(StrEnum):
    """What a check goes through in slices."""

    TENANT = "tenant"
    TABLES = "tables"
    FILES = "files"
    SNAPSHOTS = "snapshots"
    WRITES = "writes"
    KEYS = "keys"


@dataclass(frozen=True, kw_only=True)
class Check:
    """`sql` yields table, file, object key and details of what is wrong in the slice `low` < … ≤ `high`.

    One of the `whole_tenant` says nothing about a single table; a `deep` one costs as much as there are rows.
    """

    kind: FindingKind
    by: Slicing
    sql: str
    whole_tenant: bool = False
    deep: bool = False


@dataclass(frozen=True, kw_only=True)
class Part:
    """The part of a tenant that a run is about: a table or all, and which of its snapshots."""

    tenant_id: str
    table_id: int | None = None
    from_snapshot: int = 0
    to_snapshot: int = _LATEST


# Where a slice ends that begins behind `low`; null if there is nothing.
_ENDS = {
    Slicing.TENANT: "SELECT CASE WHEN %(low)s < 1 THEN 1 END",
    Slicing.TABLES: """SELECT min(table_id) FROM table_def WHERE tenant_id = %(tenant)s AND table_id > %(low)s
        AND (%(table)s::bigint IS NULL OR table_id = %(table)s)""",
    Slicing.FILES: """SELECT max(file_id) FROM (SELECT file_id FROM data_file WHERE tenant_id = %(tenant)s
        AND file_id > %(low)s ORDER BY file_id LIMIT 20000) s""",
    Slicing.SNAPSHOTS: """SELECT max(snapshot_id) FROM (SELECT snapshot_id FROM snapshot WHERE tenant_id = %(tenant)s
        AND snapshot_id > %(low)s ORDER BY snapshot_id LIMIT 10000) s""",
    Slicing.WRITES: """SELECT max(last_token) FROM (SELECT last_token FROM ingest_event WHERE tenant_id = %(tenant)s
        AND last_token > %(low)s ORDER BY last_token LIMIT 10000) s""",
}
_KEYS_END = """
SELECT k.table_id, k.key_hash
  FROM table_def t
  CROSS JOIN LATERAL (SELECT table_id, key_hash FROM (
      SELECT table_id, key_hash FROM ingest_key
       WHERE table_id = t.table_id AND (table_id, key_hash) > (%(low_table)s, %(low_hash)s)
       ORDER BY table_id, key_hash LIMIT 50000) s ORDER BY table_id DESC, key_hash DESC LIMIT 1) k
 WHERE t.tenant_id = %(tenant)s AND (%(table)s::bigint IS NULL OR t.table_id = %(table)s)
   AND t.table_id >= %(low_table)s
 ORDER BY t.table_id LIMIT 1
"""

NOTHING = -1
"""The place before the first slice."""


def slices(by: Slicing, *, part: Part, after: int) -> Iterator[tuple[int, int]]:
    """The slices behind `after`, one after the other; each is asked for when it is needed."""
    while (end := _end(by, part=part, low=after)) is not None:
        yield after, end
        after = end


def findings_of(check: Check, *, part: Part, low: int, high: int) -> list[Finding]:
    """What the check finds in the slice."""
    with connection.cursor() as cursor:
        cursor.execute(check.sql, _given(part, low=low, high=high))
        return [
            Finding(
                kind=check.kind,
                tenant_id=part.tenant_id,
                table_id=table_id,
                file_id=file_id,
                object_key=object_key or "",
                detail=json.loads(detail),
            )
            for table_id, file_id, object_key, detail in cursor.fetchall()
        ]


def _end(by: Slicing, *, part: Part, low: int) -> int | None:
    given = _given(part, low=low, high=low)
    with connection.cursor() as cursor:
        if by != Slicing.KEYS:
            cursor.execute(_ENDS[by], given)
            found: int | None = cursor.fetchone()[0]
            return found
        cursor.execute(_KEYS_END, given)
        row = cursor.fetchone()
        return None if row is None else int(row[0]) * _HASHES + row[1].int


# Any: what a statement takes.
def _given(part: Part, *, low: int, high: int) -> Mapping[str, Any]:
    return {
        "tenant": part.tenant_id,
        "table": part.table_id,
        "from": part.from_snapshot,
        "to": part.to_snapshot,
        # A place in the keys is a table's id and a hash in one number; others fit the type.
        "low": min(low, _LATEST),
        "high": min(high, _LATEST),
        **_key_place("low", low),
        **_key_place("high", high),
    }


def _key_place(name: str, place: int) -> dict[str, Any]:
    table_id, key_hash = divmod(max(place, 0), _HASHES)
    return {f"{name}_table": table_id, f"{name}_hash": str(UUID(int=key_hash))}
