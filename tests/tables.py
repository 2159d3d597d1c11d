"""Tables as a query sees them: the planner's views over a snapshot's files, read by DuckDB in this process."""

from datetime import timedelta
from typing import Any

import duckdb

from catalog.readset import read_set
from catalog.snapshots import resolve
from catalog.tables import tables_at
from maintenance.compactor import CompactionLimits, CompactionResult, compact_table
from maintenance.job import Workplace
from maintenance.rewrite import RewriteLimits
from maintenance.tiers import CompactionPolicy
from query import planner
from query.cache import InPlace
from query.engine import view_sql
from tests.lake import Lake

Row = dict[str, Any]

LIMITS = CompactionLimits(rewrite=RewriteLimits(memory_bytes=2**28), attempt=timedelta(minutes=5))


def rows_at(lake: Lake, tenant_id: str, table: str = "events", *, snapshot_id: int | None = None) -> list[Row]:
    """The table's rows in the snapshot, or in the latest, in no order."""
    return query(lake, tenant_id, f'SELECT * FROM "{table}"', table, snapshot_id=snapshot_id)


def query(lake: Lake, tenant_id: str, sql: str, table: str = "events", *, snapshot_id: int | None = None) -> list[Row]:
    """The rows of a statement that reads the table."""
    read = read_set(tenant_id=tenant_id, names=[table.lower()], snapshot_id=snapshot_id)
    assert read is not None
    source = InPlace(lake.root / "objects")
    plan = planner.plan(read, tenant_id=tenant_id, source=source)
    with duckdb.connect(config={"threads": 2}) as database:
        database.execute("SET GLOBAL TimeZone = 'UTC'")
        for view in plan.views:
            shown = view_sql(view, below=source.tenant_dir(tenant_id=tenant_id))
            database.execute(f'CREATE VIEW "{view.name}" AS {shown}')
        cursor = database.execute(sql)
        names = [column[0] for column in cursor.description]
        return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


def state_at(
    lake: Lake, tenant_id: str, table: str = "events", *, snapshot_id: int | None = None, key: str = "id"
) -> dict[Any, Row]:
    """The rows of a keyed table by their key; no key is there twice."""
    rows = rows_at(lake, tenant_id, table, snapshot_id=snapshot_id)
    state = {row[key]: row for row in rows}
    assert len(state) == len(rows), "a key is there twice"
    return state


def compact(lake: Lake, tenant_id: str, table: str = "events", **policy: Any) -> CompactionResult:
    """The table is compacted as far as the policy asks for; without one, as far as it can be."""
    at = resolve(tenant_id=tenant_id).snapshot_id
    return compact_table(
        tenant_id=tenant_id,
        table_id=tables_at(tenant_id=tenant_id, snapshot_id=at)[table.lower()].table_id,
        place=Workplace(store=lake.store, scratch=lake.root / "scratch"),
        policy=CompactionPolicy(**policy) if policy else CompactionPolicy().full(),
        limits=LIMITS,
    )
