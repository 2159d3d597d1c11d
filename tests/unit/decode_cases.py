"""Tables, bodies and shorthands for the tests of decoding."""

import json
from datetime import timedelta
from pathlib import Path

import pyarrow as pa
import pytest

from catalog.schema import ParsedColumn, TableSchema, TableShape, with_field_ids
from duckmesh.kernel.errors import Invalid
from ingest.decode.batch import DecodedBatch, DecodeLimits
from ingest.decode.envelope import read_envelope
from ingest.decode.json_body import decode_json
from ingest.decode.spool import SpoolPolicy
from ingest.errors import InvalidRecord

SPOOL = SpoolPolicy(directory=Path("/nonexistent"), memory_bytes=2**30)
LIMITS = DecodeLimits(max_records=1_000, max_visibility_timeout=timedelta(minutes=5), spool=SPOOL)


def make_schema(*columns: str) -> TableSchema:
    """A schema of `"name type"` or `"name type!"` columns; the mark means that nulls are refused."""
    parsed = [column.split(" ", 1) for column in columns]
    return TableSchema(
        version=1,
        columns=with_field_ids(
            [ParsedColumn(name=n, type=t.rstrip("!"), nullable=not t.endswith("!")) for n, t in parsed], first=1
        ),
    )


def decode(
    body: bytes | str,
    schema: TableSchema,
    *,
    primary_key: tuple[str, ...] = (),
    limits: DecodeLimits = LIMITS,
    request_key: str | None = None,
) -> DecodedBatch:
    """The body decoded."""
    raw = body.encode() if isinstance(body, str) else body
    shape = TableShape(schema=schema, primary_key=primary_key)
    return decode_json(raw, shape=shape, limits=limits, request_key=request_key)


def batch_of(decoded: DecodedBatch) -> pa.RecordBatch:
    """All records of the envelope, as one batch."""
    with decoded.payload.open() as source:
        return pa.Table.from_batches(read_envelope(source)).combine_chunks().to_batches()[0]


def body_of(*payloads: object) -> str:
    """A request of these payloads without keys."""
    return json.dumps({"records": [{"payload": payload} for payload in payloads]})


def body_with(literal: str, *, column: str = "a") -> str:
    """A request of one record whose column holds this JSON text."""
    return f'{{"records":[{{"payload":{{"{column}":{literal}}}}}]}}'


def refusals(
    body: bytes | str, schema: TableSchema, *, primary_key: tuple[str, ...] = ()
) -> list[tuple[object, object, str]]:
    """(index, column, reason) of each problem that the body is refused for."""
    with pytest.raises(InvalidRecord) as caught:
        decode(body, schema, primary_key=primary_key)
    errors = caught.value.context["errors"]
    assert isinstance(errors, list)
    json.dumps(errors, ensure_ascii=False).encode()  # they can be sent
    return [(e["index"], e["column"], str(e["reason"])) for e in errors if isinstance(e, dict)]


def body_error(body: bytes | str, schema: TableSchema) -> str:
    """The message that a body is refused with as a whole."""
    with pytest.raises(Invalid) as caught:
        decode(body, schema)
    assert caught.value.code == "INVALID_REQUEST"
    return caught.value.message
