"""A body of a gigabyte is written by a worker that holds a small part of it."""

import multiprocessing
import resource
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import django
import pyarrow as pa
import pytest

from catalog.schema import ParsedColumn, TableSchema, arrow_schema, with_field_ids
from catalog.tables import TableInfo
from ingest.bus import Claim, Envelope
from ingest.decode.envelope import EnvelopeWriter
from ingest.decode.spool import Spool, SpoolPolicy
from ingest.writing import WritePolicy, write_files
from storage.local import LocalStore

FRAMES, FRAME_ROWS = 400, 20_000
ROWS = FRAMES * FRAME_ROWS  # 130 bytes of NDJSON each
SLICE = 2**26
COLUMNS = {"id": "string", "n": "int64", "at": "timestamp", "v": "float64", "carrier": "string"}
PATH = "_staged/t/large.envelope"


def table(partition_spec: Mapping[str, Any], sort_cols: tuple[str, ...]) -> TableInfo:
    columns = [ParsedColumn(name=name, type=kind) for name, kind in COLUMNS.items()]
    return TableInfo(
        table_id=1,
        tenant_id="t",
        name="events",
        schema=TableSchema(version=1, columns=with_field_ids(columns, first=1)),
        primary_key_cols=(),
        partition_spec=partition_spec,
        sort_cols=sort_cols,
        compatibility_mode="backward",
        grows=False,
        next_field_id=len(columns) + 1,
        created_at=datetime(2013, 1, 1, tzinfo=UTC),
        created_in=1,
        dropped_in=None,
    )


def stage(store: LocalStore, root: Path) -> None:
    """An envelope of `FRAMES` equal frames is in the store."""
    values = {
        "id": [f"user-{place * 7919 % 10**6:06}-and-more-of-it-{place % 97}" for place in range(FRAME_ROWS)],
        "n": range(FRAME_ROWS),
        "at": [1_357_000_000_000_000 + place * 30_000_000 for place in range(FRAME_ROWS)],
        "v": [place / 7 for place in range(FRAME_ROWS)],
        "carrier": [("UA", "AA", "DL")[place % 3] for place in range(FRAME_ROWS)],
    }
    schema = arrow_schema(table({}, ()).schema, keyed=False)
    arrays = [pa.array(values[field.name], field.type) for field in schema]
    batch = pa.RecordBatch.from_arrays(arrays, schema=schema)
    spool = Spool(SpoolPolicy(directory=root, memory_bytes=2**20))
    writer = EnvelopeWriter(spool)
    for _ in range(FRAMES):
        writer.write(batch)
    assert spool.path is not None
    spool.flush()
    store.put_file(PATH, spool.path)
    spool.close()


def growth(root: Path, partition_spec: Mapping[str, Any], sort_cols: tuple[str, ...]) -> tuple[int, int, int]:
    """(bytes by which the memory grew at most, rows written, files) while the staged envelope became files."""
    envelope = Envelope(
        event_id=1,
        table_id=1,
        schema_version=1,
        first_token=1,
        last_token=ROWS - 2,
        record_count=ROWS - 2,
        excluded=(5, ROWS - 7),
        min_event_time=None,
        max_event_time=None,
        accepted_at=datetime(2013, 1, 1, tzinfo=UTC),
        attempts=0,
        payload=b"",
        staged_path=PATH,
    )
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    files = write_files(
        Claim(batch_id=1, tenant_id="t", epoch=1, envelopes=(envelope,)),
        tables={1: table(partition_spec, sort_cols)},
        store=LocalStore(root=root / "objects"),
        policy=WritePolicy(scratch=root / "scratch", slice_bytes=SLICE, max_partitions=8),
    )
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return (after - before) * 1024, sum(file.row_count for file in files), len(files)


@pytest.mark.long
@pytest.mark.timeout(300)
@pytest.mark.parametrize("sort_cols", [(), ("id",)])
@pytest.mark.parametrize("partition_spec", [{}, {"fields": [{"column": "at", "transform": "day"}]}])
def test_a_gigabyte_is_written_slice_by_slice(
    tmp_path: Path, partition_spec: Mapping[str, Any], sort_cols: tuple[str, ...]
) -> None:
    stage(LocalStore(root=tmp_path / "objects"), tmp_path)
    # A process of its own, so that the most memory it ever had is its own.
    with multiprocessing.get_context("spawn").Pool(1, initializer=django.setup) as pool:
        grown, rows, files = pool.apply(growth, (tmp_path, partition_spec, sort_cols))
    assert rows == ROWS - 2
    assert files < 30
    assert grown < 500 * 2**20, f"{grown >> 20} MiB"
    assert not list((tmp_path / "scratch").iterdir())
