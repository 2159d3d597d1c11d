"""A batch as bytes for the bus: an Arrow IPC stream, compressed with zstd as a whole.

Compressing the stream once was 2.6 times faster than Arrow's own compression of each buffer, with files as small. The
mark at the front names the format, so that a later one can stand beside it.
"""

import pyarrow as pa

from duckmesh.kernel.errors import Corrupt

_MARK = b"DME1"
_SIZE_BYTES = 8
_LEVEL = 1
_OPTIONS = pa.ipc.IpcWriteOptions(use_threads=False)


def encode_envelope(batch: pa.RecordBatch) -> bytes:
    """The batch, its schema and metadata as bytes."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema, options=_OPTIONS) as writer:
        writer.write_batch(batch)
    plain = sink.getvalue()
    packed: bytes = pa.Codec("zstd", _LEVEL).compress(plain, asbytes=True)
    return b"".join((_MARK, plain.size.to_bytes(_SIZE_BYTES, "little"), packed))


def decode_envelope(envelope: bytes) -> pa.RecordBatch:
    """The batch that `encode_envelope` was given; Corrupt if these are not its bytes."""
    start = len(_MARK) + _SIZE_BYTES
    if envelope[: len(_MARK)] != _MARK:
        raise Corrupt("An envelope does not begin with the mark of its format")
    size = int.from_bytes(envelope[len(_MARK) : start], "little")
    try:
        plain = pa.Codec("zstd").decompress(memoryview(envelope)[start:], decompressed_size=size)
        batch = pa.ipc.open_stream(plain).read_next_batch()
        batch.validate()
    except (pa.ArrowException, OSError, StopIteration, MemoryError) as error:
        raise Corrupt("An envelope cannot be read back") from error
    return batch
