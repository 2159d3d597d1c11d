"""Envelopes carry a batch whole or not at all."""

import pyarrow as pa
import pytest

from duckmesh.kernel.errors import Corrupt
from ingest.decode.envelope import decode_envelope, encode_envelope
from tests.unit.decode_cases import body_of, decode, make_schema

SCHEMA = make_schema("s string", "l list<int64>", "d decimal(9,2)", "t timestamp")
PAYLOAD = {"s": "a\0b", "l": [1, None], "d": "1.25", "t": "2013-01-01T00:00:00Z"}


def make_batch() -> pa.RecordBatch:
    return decode(body_of(*[PAYLOAD] * 100, {}), SCHEMA).batch


def test_a_batch_comes_back_with_its_schema_and_field_ids() -> None:
    batch = make_batch()
    back = decode_envelope(encode_envelope(batch))
    assert back.equals(batch, check_metadata=True)
    assert back.schema.field("d").metadata[b"PARQUET:field_id"] == b"3"


def test_an_envelope_is_compressed() -> None:
    batch = make_batch()
    assert len(encode_envelope(batch)) < batch.nbytes


@pytest.mark.parametrize("cut", [0, 3, 4, 11, 12, 40, -1])
def test_a_cut_envelope_is_corrupt(cut: int) -> None:
    with pytest.raises(Corrupt):
        decode_envelope(encode_envelope(make_batch())[:cut])


@pytest.mark.parametrize("position", [0, 4, 9, 12, 16])
def test_a_changed_head_is_corrupt(position: int) -> None:
    envelope = bytearray(encode_envelope(make_batch()))
    envelope[position] ^= 0xFF
    with pytest.raises(Corrupt):
        decode_envelope(bytes(envelope))
