"""Arrow and Parquet bodies of a gigabyte are decoded in bounded memory."""

import subprocess
import sys

import pytest

_PROGRAM = """
import sys, random, resource, tempfile
from dataclasses import replace
from pathlib import Path
import pyarrow as pa, pyarrow.parquet as pq
from catalog.schema import TableShape
from ingest.decode.columnar.body import decode_arrow, decode_parquet
from ingest.decode.options import BodyOptions
from ingest.decode.spool import Spool, SpoolPolicy
from tests.unit.decode_cases import LIMITS, make_schema

name, batches = sys.argv[1], int(sys.argv[2])
chance = random.Random(1)
rows = 500_000
numbers = pa.array(range(rows))
noise = pa.Array.from_buffers(pa.float64(), rows, [None, pa.py_buffer(chance.randbytes(8 * rows))])
noise = pa.compute.if_else(pa.compute.is_finite(noise), noise, 0.0)
texts = pa.array([chance.randbytes(8).hex() for _ in range(rows)])
batch = pa.record_batch({"a": numbers, "b": noise, "c": texts})
with tempfile.TemporaryDirectory(dir="/var/tmp") as directory:
    limits = replace(
        LIMITS, spool=SpoolPolicy(directory=Path(directory), memory_bytes=8 * 2**20), max_decoded_bytes=2**35
    )
    path = Path(directory, "body")
    if name == "arrow":
        with pa.ipc.new_stream(str(path), batch.schema) as writer:
            for _ in range(batches):
                writer.write_batch(batch)
    else:
        with pq.ParquetWriter(path, batch.schema, compression="none") as writer:
            for _ in range(batches):
                writer.write_batch(batch)
    body = Spool(limits.spool)
    with path.open("rb") as file:
        while chunk := file.read(2**20):
            body.write(chunk)
    del numbers, noise, texts, batch
    pa.default_memory_pool().release_unused()

    def rss():
        return int(Path("/proc/self/status").read_text().split("VmRSS:")[1].split()[0]) * 1024

    before = rss()
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    decode = decode_arrow if name == "arrow" else decode_parquet
    decoded = decode(
        body,
        shape=TableShape(schema=make_schema("a int64", "b float64", "c string")),
        options=BodyOptions(),
        limits=limits,
        request_key="k",
    )
    peak = int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) * 1024
    assert decoded.record_count == rows * batches
    print(body.size_bytes, peak - before, decoded.payload.size_bytes)
    decoded.payload.close()
    body.close()
"""


@pytest.mark.long
@pytest.mark.parametrize("name", ["arrow", "parquet"])
def test_a_body_of_a_gigabyte_takes_less_than_400_mib(name: str) -> None:
    done = subprocess.run([sys.executable, "-c", _PROGRAM, name, "60"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    body, grown, _ = map(int, done.stdout.split())
    assert body > 2**30
    assert grown < 400 * 2**20, f"{grown / 2**20:.0f} MiB"
