"""Growing tables for the tests of decoding, and what their rows are once the table is done growing."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

import pyarrow as pa

from catalog.schema import TableSchema, TableShape, arrow_schema
from ingest.decode.batch import DecodedBatch, DecodeLimits
from ingest.decode.bodies import decode_body
from ingest.decode.envelope import read_envelope
from ingest.decode.json_body import decode_json
from ingest.decode.options import BodyOptions
from storage.parquet import conform
from tests.unit.body_cases import PLAIN, spool_of
from tests.unit.decode_cases import LIMITS

EMPTY = TableShape(schema=TableSchema(version=1, columns=()), grows=True, next_field_id=1)


def grown_by(shape: TableShape, decoded: DecodedBatch) -> TableShape:
    """The table's shape once the request is accepted."""
    if decoded.growth is None:
        return shape
    version = shape.schema.version + 1
    last = max(column.field_id for column in decoded.growth)
    return replace(
        shape,
        schema=TableSchema(version=version, columns=decoded.growth),
        next_field_id=max(shape.next_field_id, last + 1),
    )


def body(payloads: Iterable[str], *, key: str | None = None) -> bytes:
    """A request of payloads that are JSON text."""
    named = f',"idempotency_key":"{key}"' if key else ""
    return ('{"records":[' + ",".join(f'{{"payload":{payload}{named}}}' for payload in payloads) + "]}").encode()


class GrowingTable:
    """A table that takes request after request, as it would over HTTP."""

    def __init__(self, shape: TableShape = EMPTY) -> None:
        self.shape = shape
        self._batches: list[pa.RecordBatch] = []

    def write(
        self, *payloads: str, key: str | None = None, request_key: str | None = None, limits: DecodeLimits = LIMITS
    ) -> DecodedBatch:
        """The payloads, which are JSON text, are rows of the table."""
        return self.take(decode_json(body(payloads, key=key), shape=self.shape, limits=limits, request_key=request_key))

    def write_body(
        self,
        media_type: str,
        content: bytes,
        *,
        options: BodyOptions = PLAIN,
        request_key: str | None = None,
        limits: DecodeLimits = LIMITS,
    ) -> DecodedBatch:
        """The records of a body of any kind are rows of the table."""
        return self.take(
            decode_body(
                spool_of(content),
                media_type=media_type,
                shape=self.shape,
                options=options,
                limits=limits,
                request_key=request_key,
            )
        )

    def take(self, decoded: DecodedBatch) -> DecodedBatch:
        """The request is accepted."""
        with decoded.payload.open() as source:
            self._batches += read_envelope(source)
        self.shape = grown_by(self.shape, decoded)
        return decoded

    @property
    def types(self) -> dict[str, str]:
        """The type of each column, with what it holds behind a colon."""
        return {c.name: f"{c.type}:{c.holds}".rstrip(":") for c in self.shape.schema.columns}

    def rows(self, column: str) -> Sequence[object]:
        """The values of a column as a query sees them by now."""
        target = arrow_schema(self.shape.schema, keyed=False)
        tables = [conform(pa.Table.from_batches([batch]), target) for batch in self._batches]
        values: list[object] = pa.concat_tables(tables)[column].to_pylist()
        return values
