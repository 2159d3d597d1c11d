"""Every kind of body that ingest takes, by its media type."""

from typing import Protocol

from catalog.schema import TableShape
from ingest.decode import lines
from ingest.decode.batch import DecodedBatch, DecodeLimits
from ingest.decode.columnar.body import ARROW_TYPE, PARQUET_TYPE, decode_arrow, decode_parquet
from ingest.decode.csv import body as csv_body
from ingest.decode.csv.body import decode_csv
from ingest.decode.json_body import decode_json
from ingest.decode.lines import decode_lines
from ingest.decode.options import BodyOptions
from ingest.decode.spool import Spool

JSON_TYPE = "application/json"


class Decoder(Protocol):
    """Decodes one kind of body for a table."""

    def __call__(
        self, body: Spool, *, shape: TableShape, options: BodyOptions, limits: DecodeLimits, request_key: str | None
    ) -> DecodedBatch: ...


def _json(
    body: Spool, *, shape: TableShape, options: BodyOptions, limits: DecodeLimits, request_key: str | None
) -> DecodedBatch:
    assert options == BodyOptions(), "a JSON body says itself what its options are"
    return decode_json(body.getvalue(), shape=shape, limits=limits, request_key=request_key)


DECODERS: dict[str, Decoder] = {
    JSON_TYPE: _json,
    lines.MEDIA_TYPE: decode_lines,
    "application/ndjson": decode_lines,
    "application/jsonl": decode_lines,
    csv_body.MEDIA_TYPE: decode_csv,
    ARROW_TYPE: decode_arrow,
    PARQUET_TYPE: decode_parquet,
}
"""The media types that are taken."""


def decode_body(
    body: Spool,
    *,
    media_type: str,
    shape: TableShape,
    options: BodyOptions,
    limits: DecodeLimits,
    request_key: str | None,
) -> DecodedBatch:
    """The body as one request: all of its records, or an error and none of them. The body stays open."""
    decode = DECODERS[media_type]
    return decode(body, shape=shape, options=options, limits=limits, request_key=request_key)
