"""Snapshots are shown and compared as fast in a history of 100,000 as in a short one: by indexes, whatever they are."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from catalog.history import diff_snapshots, list_snapshots, show_snapshot
from catalog.snapshots import resolve
from tests.factories import make_table, make_tenant

pytestmark = pytest.mark.django_db(transaction=True)

_SNAPSHOTS = 100_000
_PER_TABLE = 10

# Each snapshot adds a file to one of ten tables, and each of these files is replaced a hundred snapshots later.
_FILL = """
INSERT INTO snapshot (tenant_id, snapshot_id, parent_id, snapshot_time, visible_token, kind, created_by, summary)
SELECT %(tenant)s, n, n - 1, clock_timestamp() + n * interval '1 microsecond', n, 'ingest', 'test', '{}'
  FROM generate_series(%(first)s, %(last)s) n;
INSERT INTO snapshot_table_watermark (tenant_id, snapshot_id, table_id, max_token, row_count, file_count, size_bytes)
SELECT %(tenant)s, n, (%(tables)s::bigint[])[1 + n %% 10], n, n, 1, n FROM generate_series(%(first)s, %(last)s) n;
WITH made AS (
  INSERT INTO data_file (tenant_id, table_id, path, row_count, size_bytes, sha256, content_algorithm, content_hash,
                         schema_version, partition_values, column_stats, min_token, max_token, level, folded)
  SELECT %(tenant)s, (%(tables)s::bigint[])[1 + n %% 10], 'tests/long-' || n || '-' || %(tenant)s, 1, 1,
         lpad(n::text, 64, '0'), 'test', n, 1, '{}', '{}', n, n, 0, false
    FROM generate_series(%(first)s, %(last)s) n
  RETURNING file_id, table_id, min_token
)
INSERT INTO snapshot_file (file_id, tenant_id, table_id, added_in, removed_in)
SELECT file_id, %(tenant)s, table_id, min_token, CASE WHEN min_token + 100 <= %(last)s THEN min_token + 100 END
  FROM made;
UPDATE tenant_catalog SET snapshot_seq = %(last)s WHERE tenant_id = %(tenant)s;
"""


@pytest.fixture
def tenant_id() -> str:
    tenant_id = make_tenant()
    tables = [make_table(tenant_id=tenant_id, name=f"t{number}").table_id for number in range(_PER_TABLE)]
    with connection.cursor() as cursor:
        first = _PER_TABLE + 1
        cursor.execute(_FILL, {"tenant": tenant_id, "tables": tables, "first": first, "last": _SNAPSHOTS})
        cursor.execute("ANALYZE snapshot, snapshot_table_watermark, data_file, snapshot_file")
    return tenant_id


def _rows_read(ask: Callable[[], object]) -> float:
    """How many rows the plans of its statements touch, those that they return and those that they throw away."""
    with CaptureQueriesContext(connection) as asked:
        ask()
    touched = 0.0
    with connection.cursor() as cursor:
        for query in asked.captured_queries:
            if not query["sql"].lstrip().startswith(("SELECT", "WITH")):
                continue
            cursor.execute("EXPLAIN (ANALYZE, FORMAT JSON) " + query["sql"])
            (plan,) = cursor.fetchone()[0]
            touched += _touched(plan["Plan"])
    return touched


def _touched(node: dict[str, Any]) -> float:
    own = node["Actual Rows"] + node.get("Rows Removed by Filter", 0) + node.get("Rows Removed by Index Recheck", 0)
    return float(own * node["Actual Loops"]) + sum(_touched(child) for child in node.get("Plans", ()))


@pytest.mark.long
def test_what_is_asked_about_is_read_and_not_the_history(tenant_id: str) -> None:
    for at in (20, _SNAPSHOTS // 2, _SNAPSHOTS):
        assert _rows_read(partial(resolve, tenant_id=tenant_id, snapshot_id=at)) < 10
        assert _rows_read(partial(show_snapshot, tenant_id=tenant_id, snapshot_id=at)) < 300
        assert _rows_read(partial(list_snapshots, tenant_id=tenant_id, before=at, limit=100)) < 500
        near = max(0, at - 50)
        assert _rows_read(partial(diff_snapshots, tenant_id=tenant_id, from_id=near, to_id=at)) < 5_000
    instant = resolve(tenant_id=tenant_id, snapshot_id=_SNAPSHOTS // 2).snapshot_time
    assert _rows_read(partial(resolve, tenant_id=tenant_id, snapshot_time=instant)) < 20
    shown = show_snapshot(tenant_id=tenant_id, snapshot_id=50_000)
    assert {table.rows for table in shown.tables} == set(range(49_991, 50_001))
    (change,) = shown.changes
    assert (change.added.files, change.removed.files) == (1, 1)
