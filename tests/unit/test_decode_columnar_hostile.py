"""Arrow and Parquet bodies that are damaged, cut off, or made to fill the memory: named errors, and nothing left."""

import random
import struct
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from catalog.schema import TableShape
from duckmesh.kernel.errors import Invalid
from ingest.decode.columnar.body import decode_arrow, decode_parquet
from ingest.decode.options import BodyOptions
from ingest.decode.spool import Spool, SpoolPolicy
from ingest.errors import InvalidRecord, PayloadTooLarge
from tests.unit.columnar_cases import arrow_of, column_of, decode, parquet_of, refusals
from tests.unit.decode_cases import LIMITS, make_schema

SCHEMA = make_schema(
    *("a int64", "b string", "c list<string>", "d json", "e timestamp", "f json", "g string", "h list<float32>"),
    *("i decimal(10,2)", "j uuid", "k list<list<int64>>", "l float32", "m list<string>"),
)
TABLE = pa.table(
    {
        "a": pa.array([*range(50), None]),
        "b": pa.array([f"text {n % 5}" for n in range(51)]).dictionary_encode(),
        "c": pa.array([["x"] * (n % 3) for n in range(50)] + [None]),
        "d": pa.array([{"k": n, "l": [str(n)]} for n in range(51)]),
        "e": pa.array(range(51), pa.timestamp("ns")).cast(pa.timestamp("us"), safe=False),
        "f": pa.array([[("k", n), ("l", None)] for n in range(51)], pa.map_(pa.string(), pa.int8())),
        "g": pa.array([f"longer than twelve bytes {n}" for n in range(51)], pa.string_view()),
        "h": pa.array([[1.0, 2.0] if n % 3 else None for n in range(51)], pa.list_(pa.float32(), 2)),
        "i": pa.array([Decimal("1.50")] * 51, pa.decimal256(50, 2)),
        "j": pa.array([b"0" * 16] * 51, pa.binary(16)),
        "k": pa.array([[[n], None, []] for n in range(51)]),
        "l": pa.array([1.5] * 51, pa.float16()),
        "m": pa.array([["x", "y"]] * 51, pa.list_(pa.dictionary(pa.int8(), pa.string()))),
    }
)
BODIES = {
    "arrow": arrow_of(TABLE, max_chunksize=20),
    "arrow zstd": arrow_of(TABLE, compression="zstd"),
    "arrow lz4": arrow_of(TABLE, compression="lz4"),
    "parquet": parquet_of(TABLE, row_group_size=20),
    "parquet v2": parquet_of(TABLE, compression="zstd", data_page_version="2.0", version="2.6"),
    "parquet plain": parquet_of(TABLE, compression="none", use_dictionary=False),
}


@pytest.mark.parametrize("name", BODIES)
def test_a_body_cut_off_anywhere_is_refused(name: str) -> None:
    body = BODIES[name]
    decode(body, SCHEMA)
    for end in {*range(0, len(body), 37), *range(len(body) - 20, len(body))}:
        with pytest.raises(Invalid):
            (decode_parquet if "parquet" in name else decode_arrow)(
                spooled(body[:end]),
                shape=TableShape(schema=SCHEMA),
                options=BodyOptions(),
                limits=LIMITS,
                request_key=None,
            )


def spooled(body: bytes) -> Spool:
    spool = Spool(LIMITS.spool)
    spool.write(body)
    return spool


@pytest.mark.parametrize("name", BODIES)
def test_a_damaged_body_is_refused_or_read_and_never_more(name: str) -> None:
    chance = random.Random(name)
    body = BODIES[name]
    for _ in range(300):
        damaged = bytearray(body)
        for _ in range(chance.choice([1, 1, 3, 30])):
            damaged[chance.randrange(len(body))] = chance.choice([0, 1, 0x7F, 0x80, 0xFF, chance.randrange(256)])
        with_decoder = decode_parquet if "parquet" in name else decode_arrow
        try:
            decoded = with_decoder(
                spooled(bytes(damaged)),
                shape=TableShape(schema=SCHEMA),
                options=BodyOptions(event_time_column="e"),
                limits=LIMITS,
                request_key=None,
            )
        except Invalid:
            continue
        decoded.payload.close()


@pytest.mark.parametrize(
    "body",
    [b"", b"x", b"PAR1", b"PAR1PAR1", b"\xff" * 100, b'{"records": []}', b"\0" * 64, b"PAR1" + b"\xff" * 60 + b"PAR1"],
)
def test_what_is_neither_is_named(body: bytes) -> None:
    for decoder, what in ((decode_arrow, "Arrow stream"), (decode_parquet, "Parquet file")):
        with pytest.raises(Invalid, match=what):
            decoder(
                spooled(body), shape=TableShape(schema=SCHEMA), options=BodyOptions(), limits=LIMITS, request_key=None
            )


def test_an_encrypted_file_is_named() -> None:
    with pytest.raises(Invalid, match="encrypted"):
        decode(b"PAR1" + b"\0" * 40 + b"PARE", SCHEMA)


def test_bytes_that_are_not_utf8_are_named_by_their_row() -> None:
    bad = pa.array([b"fine", None, b"\xff\xfe"]).view(pa.string())
    assert refusals(arrow_of(column_of(bad)), make_schema("a string")) == [(2, "a", "holds bytes that are not UTF-8")]
    assert refusals(parquet_of(column_of(bad)), make_schema("a string"))[0][1] == "a"


def test_a_stream_without_its_end_is_refused() -> None:
    body = arrow_of(pa.table({"a": [1]}))
    with pytest.raises(Invalid, match="cut off"):
        decode(body[:-8], make_schema("a int64"))
    with pytest.raises(Invalid, match="goes on after"):
        decode(body + b"\0", make_schema("a int64"))


def test_a_batch_that_claims_more_than_there_is_room_for_is_refused_before_it_is_read() -> None:
    table = column_of(pa.array(["x" * 2**20]))
    body = bytearray(arrow_of(table, compression="zstd"))
    at = body.index(struct.pack("<q", 2**20) + b"\x28\xb5\x2f\xfd")  # a buffer's size, then how zstd begins
    body[at : at + 8] = struct.pack("<q", 2**40)
    with pytest.raises(PayloadTooLarge):
        decode(bytes(body), make_schema("a string"))


def test_a_bomb_is_refused_before_it_fills_the_memory() -> None:
    zeros = column_of(pa.array(["\0" * 2**25]))
    wide = column_of(pa.array(["\0" * 2**20]).dictionary_encode().take(pa.array([0] * 5_000)))
    plain = column_of(pa.nulls(600, pa.string()).fill_null("\0" * 2**16))
    bodies = {
        "arrow zstd": arrow_of(pa.concat_tables([zeros] * 3), compression="zstd"),
        "arrow dictionary": arrow_of(wide),
        "parquet dictionary": parquet_of(plain, compression="none"),
        "parquet prefixes": parquet_of(
            plain, compression="zstd", use_dictionary=False, column_encoding={"a": "DELTA_BYTE_ARRAY"}
        ),
        "parquet zstd": parquet_of(plain, compression="zstd", use_dictionary=False),
        "nulls": arrow_of(pa.Table.from_arrays([pa.nulls(2**31 - 1)], names=["a"])),
    }
    limits = replace(LIMITS, max_decoded_bytes=2**25)
    for name, body in bodies.items():
        assert len(body) < 3 * 2**20, name
        before = pa.default_memory_pool().bytes_allocated()
        with pytest.raises(PayloadTooLarge):
            decode(body, make_schema("a string"), limits=limits)
        assert pa.default_memory_pool().bytes_allocated() - before < 2**20, name


def test_a_refused_body_leaves_no_file(tmp_path: Path) -> None:
    limits = replace(LIMITS, spool=SpoolPolicy(directory=tmp_path, memory_bytes=10))
    good = pa.table({"a": pa.array(range(200_000))})
    bad = pa.concat_tables([good, pa.table({"a": pa.array([2**40])})])
    with pytest.raises(InvalidRecord):
        decode(arrow_of(bad), make_schema("a int32"), limits=limits)
    assert list(tmp_path.iterdir()) == []


def test_many_rows_of_one_large_value_are_cut_into_frames(tmp_path: Path) -> None:
    wide = column_of(pa.array(["x" * 2**20, "y"]).dictionary_encode().take(pa.array([0] * 100 + [1] * 1_000)))
    for body in (arrow_of(wide), parquet_of(wide)):
        decoded = decode(body, make_schema("a string"))
        assert decoded.record_count == 1_100


def test_parquet_of_other_writers_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    with pq.ParquetWriter(path, TABLE.schema, write_page_index=True, bloom_filter_options=None) as writer:
        writer.write_table(TABLE, row_group_size=7)
    assert decode(path.read_bytes(), SCHEMA).record_count == len(TABLE)
