"""NDJSON bodies: one request of many lines, refused by the number of the line."""

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from ingest.decode import streamed
from ingest.decode.envelope import read_envelope
from ingest.decode.hashing import record_key_hashes
from ingest.decode.options import BodyOptions
from ingest.decode.spool import SpoolPolicy
from ingest.errors import InvalidRecord
from tests.unit import decode_cases
from tests.unit.body_cases import NDJSON, decode, lines_of, problems, refusal
from tests.unit.decode_cases import LIMITS, batch_of, make_schema

FLIGHTS = make_schema("carrier string!", "distance int64", "note json", "time timestamp")
UA = '{"carrier":"UA"}'


@pytest.mark.parametrize(
    "body",
    [
        f"{UA}\n{UA}\n",
        f"{UA}\n{UA}",
        f"{UA}\r\n{UA}\r\n",
        f"\n\n  \n{UA}\n\t\r\n{UA}\n\n",
        f"\ufeff{UA}\n{UA}",
        f"  {UA}  \n {UA}",
    ],
)
def test_lines_end_and_begin_as_they_like(body: str) -> None:
    assert batch_of(decode(NDJSON, body, FLIGHTS)).column("carrier").to_pylist() == ["UA", "UA"]


@pytest.mark.parametrize("body", ["", "\n", "\r\n \n\t", "\ufeff", "\ufeff\n"])
def test_a_body_without_a_record_is_refused(body: str) -> None:
    assert "no records" in refusal(lambda: decode(NDJSON, body, FLIGHTS))


@pytest.mark.parametrize(
    ("line", "column", "reason"),
    [
        (b"{", None, "The line is not JSON"),
        (b"{}{}", None, "more follows after its end"),
        (b'{"carrier":"UA"},{"carrier":"UA"}', None, "more follows"),
        (b'{"carrier":"UA"}],[{"carrier":"UA"}', None, "more follows"),
        (b'[{"carrier":"UA"}]', None, "a payload must be an object, not a list"),
        (b"null", None, "not null"),
        (b'{"carrier":"UA","carrier":"UA"}', "carrier", "repeated JSON key"),
        (b'{"carrier":"U\xff"}', "carrier", "not UTF-8"),
        (b'{"carrier":"\\ud800"}', "carrier", "lone surrogate"),
        (b'{"carrier":"UA","n\xff":1}', "n?", "unknown field"),
        (b'{"carrier":"UA\x00"}', None, "not JSON"),
        (b'{"carrier":"UA","distance":1.5}', "distance", "precision"),
        (b'{"carrier":"UA","distance":NaN}', "distance", "NaN"),
        (b'{"carrier":null}', "carrier", "may not be null"),
        (b'{"carrier":"UA","note":' + b"[" * 5_000 + b"]" * 5_000 + b"}", "note", "nests deeper"),
        (b'{"carrier":"UA",', None, "not JSON"),
        (b"\xef\xbb\xbf{}", None, "not JSON"),
        (b"\x0b", None, "not JSON"),
    ],
)
def test_a_wrong_line_is_named_by_its_number(line: bytes, column: str | None, reason: str) -> None:
    body = UA.encode() + b"\n\n" + line + b"\n" + UA.encode() + b"\n{}\n"
    found = problems(lambda: decode(NDJSON, body, FLIGHTS))
    assert found[0][:3] == (1, 3, column)
    assert reason in found[0][3]
    assert found[-1] == (3, 5, "carrier", "is missing and may not be null")


def test_a_value_does_not_go_on_in_the_next_line() -> None:
    split = problems(lambda: decode(NDJSON, '{"carrier":\n"UA"}\n', FLIGHTS))
    assert [(index, line) for index, line, _, _ in split] == [(0, 1), (1, 2)]
    made_even = problems(lambda: decode(NDJSON, '{"carrier":"U\nA"},{"carrier":"B6"}\n', FLIGHTS))
    assert [line for _, line, _, _ in made_even] == [1, 2]


def test_a_hundred_problems_are_named_and_reading_stops() -> None:
    found = problems(lambda: decode(NDJSON, "{}\n" * 300, FLIGHTS))
    assert [index for index, _, _, _ in found] == [*range(100)]


def test_many_chunks_are_one_request() -> None:
    count = 2 * streamed.CHUNK_BYTES // len(UA)
    decoded = decode(NDJSON, f"{UA}\n" * count, FLIGHTS)
    assert decoded.record_count == count
    with decoded.payload.open() as source:
        assert [batch.num_rows for batch in read_envelope(source)].count(0) == 0
        source.seek(0)
        assert sum(batch.num_rows for batch in read_envelope(source)) == count
        source.seek(0)
        assert len([*read_envelope(source)]) > 2


def test_numbers_of_lines_go_on_from_chunk_to_chunk() -> None:
    count = 2 * streamed.CHUNK_BYTES // len(UA)
    found = problems(lambda: decode(NDJSON, f"{UA}\n\n" * count + "{}\n", FLIGHTS))
    assert found == [(count, 2 * count + 1, "carrier", "is missing and may not be null")]


def test_a_line_beyond_the_bound_is_named_and_not_held() -> None:
    limits = replace(LIMITS, max_line_bytes=1_000)
    long = json.dumps({"carrier": "x" * 1_000})
    assert problems(lambda: decode(NDJSON, f"{UA}\n{long}\n{{}}\n", FLIGHTS, limits=limits)) == [
        (1, 2, None, "the line is longer than 1000 bytes"),
        (2, 3, "carrier", "is missing and may not be null"),
    ]


def test_a_line_longer_than_many_chunks_is_named_and_the_next_ones_are_read() -> None:
    long = '{"carrier":"' + "x" * (6 * streamed.CHUNK_BYTES)
    found = problems(lambda: decode(NDJSON, f'{UA}\n{long}"}}\n\n{{}}\n{long}', FLIGHTS))
    assert [(index, line, column) for index, line, column, _ in found] == [
        (1, 2, None),
        (2, 4, "carrier"),
        (3, 5, None),
    ]


def test_records_that_leave_out_most_of_many_columns_are_taken_in_small_batches() -> None:
    wide = make_schema(*(f"c{i} int64" for i in range(1_000)))
    decoded = decode(NDJSON, "{}\n" * 10_000, wide)
    with decoded.payload.open() as source:
        assert [batch.num_rows for batch in read_envelope(source)] == [4_000, 4_000, 2_000]


def test_a_column_is_the_key_and_another_the_time() -> None:
    payloads = [
        {"carrier": "a", "distance": 7, "time": "2013-01-01T10:00:00+01:00"},
        {"carrier": "b", "time": None},
        {"carrier": "a", "distance": 7, "time": "2013-01-01T10:00:00+01:00"},
    ]
    options = BodyOptions(key_column="CARRIER", event_time_column="time")
    decoded = decode(NDJSON, lines_of(payloads), FLIGHTS, options=options)
    assert decoded.key_hashes == b"".join(record_key_hashes(["a", "b"]))
    assert decoded.excluded == [2]
    assert decoded.min_event_time == decoded.max_event_time == datetime(2013, 1, 1, 9, tzinfo=UTC)
    assert batch_of(decoded).column("carrier").to_pylist() == ["a", "b", "a"]


def test_a_payload_with_a_key_hashes_as_in_a_json_request() -> None:
    payloads = [{"carrier": "a", "distance": 1.0, "note": {"b": 1, "a": None}}, {"distance": None, "carrier": "b"}]
    records = [{"payload": payload, "idempotency_key": payload["carrier"]} for payload in payloads]
    asked = decode_cases.decode(json.dumps({"records": records}), FLIGHTS)
    lines = decode(NDJSON, lines_of(payloads), FLIGHTS, options=BodyOptions(key_column="carrier"))
    assert (asked.key_hashes, asked.payload_hashes) == (lines.key_hashes, lines.payload_hashes)


def test_keys_that_are_too_long_or_empty_are_named() -> None:
    body = lines_of([{"carrier": "k" * 513}, {"carrier": "k"}, {"carrier": ""}])
    found = problems(lambda: decode(NDJSON, body, FLIGHTS, options=BodyOptions(key_column="carrier")))
    assert [(index, column) for index, _, column, _ in found] == [(0, "carrier"), (2, "carrier")]


def test_times_that_are_no_times_are_named() -> None:
    options = BodyOptions(event_time_column="carrier")
    found = problems(
        lambda: decode(
            NDJSON, lines_of([{"carrier": "2013-01-01T00:00:00Z"}, {"carrier": "x"}]), FLIGHTS, options=options
        )
    )
    assert found == [(1, 2, "carrier", "is not an RFC 3339 time such as 2013-01-01T10:00:00Z")]


def test_deletes_need_the_key_only() -> None:
    schema = make_schema("id int64", "name string!")
    body = '{"id":1}\n{"id":2,"name":"b"}\n'
    delete = BodyOptions(op="delete")
    decoded = decode(NDJSON, body, schema, primary_key=("id",), options=delete)
    assert batch_of(decoded).to_pydict() == {"id": [1, 2], "name": [None, "b"], "_duckmesh_op": [1, 1]}
    assert problems(lambda: decode(NDJSON, body, schema, primary_key=("id",), options=BodyOptions(op="upsert"))) == [
        (0, 1, "name", "is missing and may not be null")
    ]
    found = problems(
        lambda: decode(NDJSON, '{"id":null}\n', schema, primary_key=("id",), options=BodyOptions(op="delete"))
    )
    assert found == [(0, 1, "id", "may not be null")]


def test_a_refused_body_leaves_no_file_behind(tmp_path: Path) -> None:
    limits = replace(LIMITS, spool=SpoolPolicy(directory=tmp_path / "scratch", memory_bytes=10))
    with pytest.raises(InvalidRecord):
        decode(NDJSON, f"{UA}\n" * (streamed.CHUNK_BYTES // 8) + "{}\n", FLIGHTS, limits=limits)
    assert not [*(tmp_path / "scratch").iterdir()]


def test_the_hash_of_a_request_is_of_its_bytes_and_its_options() -> None:
    def hash_of(body: str, **options: str) -> bytes | None:
        return decode(NDJSON, body, FLIGHTS, request_key="r", options=BodyOptions(**options)).request_hash  # type: ignore[arg-type]

    assert hash_of(UA) == hash_of(UA) != hash_of(UA + "\n")
    assert hash_of(UA) != hash_of(UA, key_column="carrier") == hash_of(UA, key_column="CARRIER")
    assert decode(NDJSON, UA, FLIGHTS).request_hash is None
