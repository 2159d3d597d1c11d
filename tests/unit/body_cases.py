"""Bodies of bare payloads, and shorthands for the tests that decode them."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from catalog.schema import TableSchema, TableShape
from duckmesh.kernel.errors import Invalid
from ingest.decode.batch import DecodedBatch, DecodeLimits
from ingest.decode.bodies import decode_body
from ingest.decode.options import BodyOptions
from ingest.decode.spool import Spool, SpoolPolicy
from ingest.errors import InvalidRecord
from tests.unit.decode_cases import LIMITS

NDJSON = "application/x-ndjson"
CSV = "text/csv"
PLAIN = BodyOptions()


def spool_of(body: bytes) -> Spool:
    """A received body."""
    spool = Spool(SpoolPolicy(directory=Path("/nonexistent"), memory_bytes=2**40))
    spool.write(body)
    return spool


def decode(
    media_type: str,
    body: bytes | str,
    schema: TableSchema,
    *,
    primary_key: tuple[str, ...] = (),
    limits: DecodeLimits = LIMITS,
    request_key: str | None = None,
    options: BodyOptions = PLAIN,
) -> DecodedBatch:
    """The body decoded."""
    return decode_body(
        spool_of(body.encode() if isinstance(body, str) else body),
        media_type=media_type,
        shape=TableShape(schema=schema, primary_key=primary_key),
        options=options,
        limits=limits,
        request_key=request_key,
    )


def lines_of(payloads: Sequence[object]) -> str:
    """The payloads as NDJSON."""
    return "".join(json.dumps(payload) + "\n" for payload in payloads)


def problems(decoding: Callable[[], object]) -> list[tuple[object, object, object, str]]:
    """(index, line, column, reason) of each problem that the body is refused for."""
    with pytest.raises(InvalidRecord) as caught:
        decoding()
    errors = caught.value.context["errors"]
    assert isinstance(errors, list)
    json.dumps(errors, ensure_ascii=False).encode()  # they can be sent
    return [(e["index"], e["line"], e["column"], str(e["reason"])) for e in errors if isinstance(e, dict)]


def refusal(decoding: Callable[[], object]) -> str:
    """The message that a body is refused with as a whole."""
    with pytest.raises(Invalid) as caught:
        decoding()
    assert caught.value.code == "INVALID_REQUEST"
    return caught.value.message
