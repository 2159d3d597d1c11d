"""Plain functions that make what a test needs, each with a name of its own, so that tests never meet."""

import itertools
import uuid
from collections.abc import Sequence

from catalog.definition import TableDefinition
from catalog.models import Snapshot
from catalog.publish import NewFile, publish_snapshot
from catalog.schema import ParsedColumn
from catalog.snapshots import SnapshotInfo
from catalog.tables import TableInfo, create_table
from catalog.tenants import create_tenant

_numbers = itertools.count(1)

COLUMNS = (ParsedColumn(name="id", type="string"), ParsedColumn(name="n", type="int64"))


def make_tenant(prefix: str = "tenant") -> str:
    """A new tenant's id."""
    tenant_id = f"{prefix}-{uuid.uuid4().hex[:12]}"
    create_tenant(tenant_id=tenant_id)
    return tenant_id


def make_table(
    *,
    tenant_id: str,
    name: str = "events",
    columns: Sequence[ParsedColumn] = COLUMNS,
    primary_key_cols: Sequence[str] = (),
) -> TableInfo:
    """A new table, in a snapshot of its own."""
    definition = TableDefinition(name=name, columns=tuple(columns), primary_key_cols=tuple(primary_key_cols))
    return create_table(tenant_id=tenant_id, definition=definition, actor="test")


def make_file(*, table_id: int, rows: int = 10, first_token: int = 1, size_bytes: int = 1_000) -> NewFile:
    """A file that could be published. No object stands behind it."""
    number = next(_numbers)
    return NewFile(
        table_id=table_id,
        path=f"tests/part-{number}-{uuid.uuid4()}.parquet",
        row_count=rows,
        size_bytes=size_bytes,
        sha256=f"{number:064x}",
        content_algorithm="test",
        content_hash=number,
        schema_version=1,
        min_token=first_token,
        max_token=first_token + rows - 1,
    )


def make_snapshot(
    *,
    tenant_id: str,
    table_id: int | None = None,
    files: int = 1,
    removed: Sequence[int] = (),
    watermark: int | None = None,
) -> SnapshotInfo:
    """The tenant's next snapshot, with this many new files of the table and without those `removed`."""
    added = [make_file(table_id=table_id) for _ in range(files)] if table_id is not None else []
    kind = Snapshot.Kind.COMPACTION if removed else Snapshot.Kind.INGEST
    return publish_snapshot(
        tenant_id=tenant_id, kind=kind, actor="test", added=added, removed=removed, watermark=watermark
    )
