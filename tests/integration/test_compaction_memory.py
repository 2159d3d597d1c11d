"""Compaction of ten gigabytes takes no more memory than that of a few files: slices are bounded, and DuckDB spills."""

import os
import random
from pathlib import Path

import pyarrow as pa
import pytest

from catalog.models import DataFile, Snapshot
from catalog.publish import NewFile, publish_snapshot
from catalog.schema import ParsedColumn, arrow_schema
from catalog.tables import TableInfo
from storage.columns import OP_COLUMN, TOKEN_COLUMN
from storage.keys import normalise
from storage.parquet import CONTENT_HASH_ALGORITHM, write_parquet
from tests.compactor import compacted_apart
from tests.factories import make_table, make_tenant
from tests.lake import Lake

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.long, pytest.mark.timeout(7_200)]

BYTES = int(os.environ.get("COMPACTION_BYTES", 10 * 2**30))
ROWS, WIDTH = 20_000, 1_000
LEAST_DISTINCT = 16


def rows_of(table: TableInfo, *, first: int, count: int = ROWS) -> pa.Table:
    """Rows with a key each and bytes that do not compress, in the schema of the table's files."""
    token = pa.field(TOKEN_COLUMN, pa.int64())  # whose field id is known
    schema = arrow_schema(table.schema, keyed=bool(table.primary_key_cols)).append(token)
    body = random.Random(first).randbytes(count * WIDTH)
    ids = list(range(first, first + count))
    columns = {
        "id": [(number * 0x9E3779B97F4A7C15) % 2**63 for number in ids],  # keys from everywhere, each once
        "body": [body[start : start + WIDTH] for start in range(0, len(body), WIDTH)],
        OP_COLUMN: [0] * count,
        TOKEN_COLUMN: ids,
    }
    return pa.table({field.name: pa.array(columns[field.name], field.type) for field in schema}, schema=schema)


def publish_copies(lake: Lake, table: TableInfo, rows: pa.Table, *, copies: int) -> int:
    """A file of the rows is live so many times, on disk once; its bytes, all copies together."""
    root = lake.root / "objects"
    made = root / f"made-{table.table_id}.parquet"
    written = write_parquet(rows, made)
    tokens = rows[TOKEN_COLUMN]
    added = []
    for copy in range(copies):
        key = normalise(f"{table.tenant_id}/{table.name}/{tokens[0].as_py()}-{copy}.parquet")
        (root / key).parent.mkdir(parents=True, exist_ok=True)
        (root / key).hardlink_to(made)
        added.append(
            NewFile(
                table_id=table.table_id,
                path=key,
                row_count=written.row_count,
                size_bytes=written.size_bytes,
                sha256=written.sha256,
                content_algorithm=CONTENT_HASH_ALGORITHM,
                content_hash=written.content_hash,
                schema_version=table.schema.version,
                min_token=tokens[0].as_py(),
                max_token=tokens[-1].as_py(),
            )
        )
    made.unlink()
    publish_snapshot(tenant_id=table.tenant_id, kind=Snapshot.Kind.INGEST, actor="test", added=added)
    return written.size_bytes * copies


@pytest.mark.parametrize("keyed", [False, True])
def test_memory_of_a_compaction_is_bounded_however_much_there_is(tmp_path: Path, keyed: bool) -> None:
    lake = Lake(tmp_path)
    tenant_id = make_tenant()
    columns = [ParsedColumn(name="id", type="int64"), ParsedColumn(name="body", type="binary")]
    table = make_table(tenant_id=tenant_id, columns=columns, primary_key_cols=["id"] if keyed else [])
    size = rows = 0
    # Rows without a key may be there again; keys may not, or folding would leave next to nothing.
    copies = 1 if keyed else -(-BYTES // (LEAST_DISTINCT * ROWS * WIDTH))
    while size < BYTES:
        size += publish_copies(lake, table, rows_of(table, first=1 + rows), copies=copies)
        rows += ROWS
    done = compacted_apart(lake.root, tenant_id)
    live = DataFile.objects.filter(tenant_id=tenant_id, intervals__removed_in=None)
    assert sum(live.values_list("row_count", flat=True)) == rows * copies
    assert min(live.values_list("size_bytes", flat=True)) >= 2**25
    assert all(live.values_list("folded", flat=True)) == keyed
    print(f"{size:,} bytes in {done.slices} slices, {done.seconds:.0f} s, at most {done.peak_bytes / 2**20:.0f} MiB")
    assert done.peak_bytes <= 2**30
