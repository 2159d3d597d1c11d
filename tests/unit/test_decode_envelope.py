"""Envelopes carry batches whole or not at all, whether they lie in memory or in a file."""

import io
import random
from pathlib import Path

import pyarrow as pa
import pytest

from duckmesh.kernel.errors import Corrupt
from ingest.decode.envelope import EnvelopeWriter, read_envelope
from ingest.decode.spool import Spool, SpoolPolicy
from tests.unit.decode_cases import SPOOL, batch_of, body_of, decode, make_schema

SCHEMA = make_schema("s string", "l list<int64>", "d decimal(9,2)", "t timestamp")
PAYLOAD = {"s": "a\0b", "l": [1, None], "d": "1.25", "t": "2013-01-01T00:00:00Z"}


def make_batch() -> pa.RecordBatch:
    return batch_of(decode(body_of(*[PAYLOAD] * 100, {}), SCHEMA))


def encoded(*batches: pa.RecordBatch, policy: SpoolPolicy = SPOOL) -> Spool:
    spool = Spool(policy)
    writer = EnvelopeWriter(spool)
    for batch in batches:
        writer.write(batch)
    return spool


def decoded(envelope: bytes) -> list[pa.RecordBatch]:
    return [*read_envelope(io.BytesIO(envelope))]


def test_a_batch_comes_back_with_its_schema_and_field_ids() -> None:
    batch = make_batch()
    (back,) = decoded(encoded(batch).getvalue())
    assert back.equals(batch, check_metadata=True)
    assert back.schema.field("d").metadata[b"PARQUET:field_id"] == b"3"


def test_batches_of_different_columns_come_back_in_their_order() -> None:
    batches = [make_batch(), make_batch().select(["s"]), make_batch().slice(3, 4)]
    assert [back.schema.names for back in decoded(encoded(*batches).getvalue())] == [b.schema.names for b in batches]


def test_what_is_larger_than_the_memory_lies_in_a_file_until_it_is_closed(tmp_path: Path) -> None:
    batch = make_batch()
    spool = encoded(*[batch] * 20, policy=SpoolPolicy(directory=tmp_path / "scratch", memory_bytes=2_000))
    assert spool.path is not None
    assert spool.path.parent == tmp_path / "scratch"
    with spool.open() as source:
        assert sum(back.num_rows for back in read_envelope(source)) == 20 * batch.num_rows
    assert len(spool.getvalue()) == spool.size_bytes
    spool.close()
    assert list((tmp_path / "scratch").iterdir()) == []


def test_an_envelope_is_compressed() -> None:
    batch = make_batch()
    assert encoded(batch).size_bytes < batch.nbytes


@pytest.mark.parametrize("size", [1, 40_000])
def test_what_compression_does_not_shorten_comes_back_too(size: int) -> None:
    noise = random.Random(7).randbytes(size)
    batch = pa.RecordBatch.from_pydict({"noise": pa.array([noise], pa.binary())})
    spool = encoded(batch)
    assert decoded(spool.getvalue()) == [batch]
    assert size < spool.size_bytes < size + 1_000


@pytest.mark.parametrize("cut", [0, 3, 11, 12, 40, -1])
def test_a_cut_envelope_is_corrupt(cut: int) -> None:
    with pytest.raises(Corrupt):
        decoded(encoded(make_batch()).getvalue()[:cut])


@pytest.mark.parametrize("position", [0, 4, 9, 12, 16, 20])
def test_a_changed_head_is_corrupt(position: int) -> None:
    envelope = bytearray(encoded(make_batch()).getvalue())
    envelope[position] ^= 0xFF
    with pytest.raises(Corrupt):
        decoded(bytes(envelope))
