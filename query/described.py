"""What a statement may read, for whoever writes one: the tables of the latest snapshot, with a few of their rows.

Rows are counted by the catalog, and only where that is exact. Samples come from sealed runners like every answer, but
from as few bytes as will do: completing a name must not fetch a lake.
"""

import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec

from catalog.readset import ReadFile, ReadSet, ReadTable, read_set
from catalog.snapshots import SnapshotInfo, resolve
from catalog.tables import tables_at
from duckmesh.kernel.errors import DuckMeshError, Unavailable
from query import planner
from query.errors import SqlUnsealed
from query.incoming import Incoming
from query.limits import sealing
from query.pool import Session
from query.request import RunRequest
from query.results import json_rows
from query.service import PATIENCE, QueryPlane
from storage.reading import quote_name

SAMPLE_ROWS = 5
SAMPLE_BYTES = 64 * 2**20
SAMPLE_RESULT_BYTES = 2**20
SAMPLE_SECONDS = 10.0  # for all tables of a page

UNCOUNTED = "Keyed tables are counted once what was written to them since the last fold is folded."
TOO_LARGE = "The table's last state is in more bytes than are read for a sample; ask for its rows with a query."


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Up to `SAMPLE_ROWS` rows as they stand in a JSON answer; none, with the reason, if they cannot be had."""

    rows: list[list[Any]] | None  # JSON values
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class DescribedTable:
    """A table as it stands in the snapshot. `row_count` is None where only a query could tell it."""

    table: ReadTable
    row_count: int | None
    sample: Sample | None


@dataclass(frozen=True, kw_only=True)
class Described:
    """A page of the tables of a snapshot, and whether there are more behind it."""

    snapshot: SnapshotInfo
    tables: tuple[DescribedTable, ...]
    more: bool


def describe(*, tenant_id: str, plane: QueryPlane, after: str, limit: int, samples: bool) -> Described:
    """Up to `limit` tables of the latest snapshot behind the lower-case name `after`, in the order of these names."""
    snapshot = resolve(tenant_id=tenant_id)
    names = sorted(name for name in tables_at(tenant_id=tenant_id, snapshot_id=snapshot.snapshot_id) if name > after)
    read = read_set(tenant_id=tenant_id, names=names[:limit], snapshot_id=snapshot.snapshot_id)
    if read is None:
        raise Unavailable("The snapshot was being changed; try again.", retry_after=1)
    deadline = time.monotonic() + SAMPLE_SECONDS
    return Described(
        snapshot=snapshot,
        tables=tuple(
            DescribedTable(
                table=table,
                row_count=exact_count(table),
                sample=_sample(read, table, tenant_id=tenant_id, plane=plane, deadline=deadline) if samples else None,
            )
            for table in (read.tables[name] for name in names[:limit])
        ),
        more=len(names) > limit,
    )


def exact_count(table: ReadTable) -> int | None:
    """The number of rows that the table shows, if its files alone tell it."""
    if table.primary_key_cols and not all(file.folded for file in table.files):
        return None
    return sum(file.row_count for file in table.files)


def enough_for_sample(table: ReadTable) -> tuple[ReadFile, ...] | None:
    """Files that show some of the table's rows as they are; None if that takes too many bytes."""
    if table.primary_key_cols and not all(file.folded for file in table.files):
        chosen: Sequence[ReadFile] = table.files  # any of them may hold the last word on a key
    else:
        chosen, rows = [], 0
        for file in sorted(table.files, key=lambda file: file.size_bytes):
            if rows >= SAMPLE_ROWS:
                break
            chosen, rows = [*chosen, file], rows + file.row_count
    return tuple(chosen) if sum(file.size_bytes for file in chosen) <= SAMPLE_BYTES else None


def _sample(read: ReadSet, table: ReadTable, *, tenant_id: str, plane: QueryPlane, deadline: float) -> Sample:
    files = enough_for_sample(table)
    if files is None:
        return Sample(rows=None, reason=TOO_LARGE)
    if not files or not table.schema.columns:
        return Sample(rows=[])
    part = replace(read, tables={table.name.lower(): replace(table, files=files)})
    tenant_dir = Path(plane.source.tenant_dir(tenant_id=tenant_id))
    try:
        if not (plane.policy.allow_unsealed or sealing().sealed):
            raise SqlUnsealed(sealing().describe())
        plan = planner.plan(part, tenant_id=tenant_id, source=plane.source, deadline=deadline)
        with plane.pool.session(tenant_id=tenant_id, tenant_dir=tenant_dir, deadline=deadline) as session:
            return Sample(rows=_rows(session, plan, table))
    except DuckMeshError as exc:
        return Sample(rows=None, reason=str(exc))  # one table that cannot be read must not hide the others


def _rows(session: Session, plan: planner.Plan, table: ReadTable) -> list[list[Any]]:
    asked = RunRequest(
        sql=f"SELECT * FROM {quote_name(table.name)} LIMIT {SAMPLE_ROWS}",
        views=plan.views,
        row_limit=SAMPLE_ROWS,
        max_bytes=SAMPLE_RESULT_BYTES,
    )
    with closing(session.start(asked)) as running:
        batches = (batch for batch in Incoming(running).batches(PATIENCE) if batch is not None)
        shown = [json_rows(batch, column_types=running.column_types) for batch in batches]
    rows: list[list[Any]] = msgspec.json.decode(b"[" + b",".join(shown) + b"]")
    return rows
