"""Arrow streams and Parquet files as bodies, for the tests of decoding them."""

import io

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from catalog.schema import TableSchema, TableShape
from ingest.decode.batch import DecodedBatch, DecodeLimits
from ingest.decode.columnar.body import decode_arrow, decode_parquet
from ingest.decode.options import BodyOptions
from ingest.decode.spool import Spool
from ingest.errors import InvalidRecord
from tests.unit.decode_cases import LIMITS, SPOOL

INSERT = BodyOptions()


def arrow_of(
    table: pa.Table | pa.RecordBatch, *, compression: str | None = None, max_chunksize: int | None = None
) -> bytes:
    """The table as an Arrow stream."""
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(compression=compression)) as writer:
        writer.write_table(
            pa.Table.from_batches([table]) if isinstance(table, pa.RecordBatch) else table, max_chunksize
        )
    return sink.getvalue()


def parquet_of(table: pa.Table, *, row_group_size: int | None = None, **options: object) -> bytes:
    """The table as a Parquet file."""
    sink = io.BytesIO()
    pq.write_table(table, sink, row_group_size=row_group_size, **options)
    return sink.getvalue()


def column_of(array: pa.Array, name: str = "a") -> pa.Table:
    """A table of this one column."""
    return pa.Table.from_arrays([array], names=[name])


def decode(
    body: bytes,
    schema: TableSchema,
    *,
    primary_key: tuple[str, ...] = (),
    options: BodyOptions = INSERT,
    limits: DecodeLimits = LIMITS,
    request_key: str | None = None,
) -> DecodedBatch:
    """The body decoded, as Parquet if that is how it begins, else as an Arrow stream."""
    spool = Spool(SPOOL)
    spool.write(body)
    decoder = decode_parquet if body.startswith(b"PAR1") else decode_arrow
    shape = TableShape(schema=schema, primary_key=primary_key)
    return decoder(spool, shape=shape, options=options, limits=limits, request_key=request_key)


def refusals(
    body: bytes, schema: TableSchema, *, primary_key: tuple[str, ...] = (), options: BodyOptions = INSERT
) -> list[tuple[object, object, str]]:
    """(index, column, reason) of each problem that the body is refused for."""
    with pytest.raises(InvalidRecord) as caught:
        decode(body, schema, primary_key=primary_key, options=options)
    errors = caught.value.context["errors"]
    assert isinstance(errors, list)
    return [(e["index"], e["column"], str(e["reason"])) for e in errors if isinstance(e, dict)]
