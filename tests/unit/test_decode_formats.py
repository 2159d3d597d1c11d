"""The same records come to the same batches, whatever the format; and what query strings may say of them."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime

import pytest
from hypothesis import assume, given, settings

from catalog.schema import TableSchema, TableShape, parse_type
from duckmesh.kernel.errors import Invalid
from ingest.decode.bodies import DECODERS
from ingest.decode.hashing import record_key_hashes
from ingest.decode.options import BodyOptions, bind_options, read_options
from tests.unit import decode_cases
from tests.unit.body_cases import CSV, NDJSON, decode, lines_of
from tests.unit.decode_cases import batch_of, body_of, make_schema
from tests.unit.test_decode_properties import tables

Table = tuple[TableSchema, list[dict[str, object]], list[dict[str, object]]]


def csv_of(schema: TableSchema, payloads: Sequence[dict[str, object]]) -> str:
    """The payloads as CSV."""

    def cell(type_: str, value: object) -> str:
        if value is None:
            return ""
        is_text = isinstance(value, str) and parse_type(type_).kind not in ("json", "list")
        text = str(value) if is_text else json.dumps(value)
        return '"' + text.replace('"', '""') + '"'

    names = [column.name for column in schema.columns]
    rows = [",".join(cell(c.type, payload.get(c.name)) for c in schema.columns) for payload in payloads]
    return "\n".join([",".join(names), *(row or '""' for row in rows)])


@given(tables())
@settings(max_examples=150, deadline=None)
def test_json_ndjson_and_csv_come_to_the_same_batches(table: Table) -> None:
    schema, payloads, _ = table
    asked = batch_of(decode_cases.decode(body_of(*payloads), schema))
    assert batch_of(decode(NDJSON, lines_of(payloads), schema)).equals(asked, check_metadata=True)
    text = csv_of(schema, payloads)
    # CSV has no NUL, and cannot tell a record that is one null from an empty line.
    assume("\0" not in text and not (len(schema.columns) == 1 and asked.column(0).null_count))
    assert batch_of(decode(CSV, text, schema)).equals(asked, check_metadata=True)


@given(tables())
@settings(max_examples=100, deadline=None)
def test_a_payload_has_one_hash_in_json_and_ndjson(table: Table) -> None:
    schema, payloads, _ = table
    keyed = make_schema("k string", *(f"{c.name} {c.type}" for c in schema.columns))
    named = [{"k": str(index), **payload} for index, payload in enumerate(payloads)]
    records = [{"payload": payload, "idempotency_key": payload["k"]} for payload in named]
    asked = decode_cases.decode(json.dumps({"records": records}), keyed)
    lines = decode(NDJSON, lines_of(named), keyed, options=BodyOptions(key_column="k"))
    assert (lines.key_hashes, lines.payload_hashes) == (asked.key_hashes, asked.payload_hashes)


@given(tables())
@settings(max_examples=100, deadline=None)
def test_a_payload_hashes_alike_by_the_fast_and_the_exact_way_of_csv(table: Table) -> None:
    schema, payloads, _ = table
    keyed = make_schema("k string", *(f"{c.name} {c.type}" for c in schema.columns), "zz string")
    named: list[dict[str, object]] = [{"k": str(index), **payload} for index, payload in enumerate(payloads)]
    text = csv_of(keyed, named)
    assume("\0" not in text)
    fast = decode(CSV, text, keyed, options=BodyOptions(key_column="k"))
    # A carriage return within quotes is nothing wrong, and only the exact way is sure of that.
    doubted = text.rsplit("\n", 1)[0] + "\n" + csv_of(keyed, named[-1:]).split("\n", 1)[1]
    exact = decode(
        CSV, doubted + '\n"\r"' + "," * len(schema.columns) + ",", keyed, options=BodyOptions(key_column="k")
    )
    assert exact.payload_hashes.startswith(fast.payload_hashes)


@pytest.mark.parametrize(
    ("type_", "text", "key"),
    [
        ("string", "x", "x"),
        ("int64", "7.0", "7"),
        ("float64", "7.0", "7"),
        ("float64", "0.5", "0.5"),
        ("bool", "true", "true"),
        ("decimal(9,2)", "1.5", "1.50"),
        ("date", "2013-01-31", "2013-01-31"),
        ("timestamp", "2013-01-01T10:00:00+01:00", "2013-01-01T09:00:00Z"),
        ("timestamp", "2013-01-01T10:00:00.25", "2013-01-01T10:00:00.250000Z"),
        ("uuid", "123E4567-E89B-12D3-A456-426614174000", "123e4567-e89b-12d3-a456-426614174000"),
        ("binary", "AP8=", "AP8="),
        ("json", '"""x"""', "x"),
        ("json", "[1]", "[1]"),
    ],
)
def test_a_key_is_the_text_of_the_stored_value(type_: str, text: str, key: str) -> None:
    schema = make_schema(f"a {type_}", "b string")
    for body in (f"b,a\nu,{text}\n", f'b,a\n"\r",{text}\n'):
        decoded = decode(CSV, body, schema, options=BodyOptions(key_column="a"))
        assert decoded.key_hashes == record_key_hashes([key])[0], body


@pytest.mark.parametrize("type_", ["timestamp", "string"])
def test_a_time_is_read_from_its_column_by_both_ways(type_: str) -> None:
    for other in ("u", '"\r"'):
        body = f"b,a\n{other},2013-01-01T10:00:00+01:00\nu,\nu,2014-01-01T00:00:00Z\n"
        decoded = decode(CSV, body, make_schema(f"a {type_}", "b string"), options=BodyOptions(event_time_column="a"))
        assert decoded.min_event_time == datetime(2013, 1, 1, 9, tzinfo=UTC)
        assert decoded.max_event_time == datetime(2014, 1, 1, tzinfo=UTC)


def test_options_are_read_from_the_query_string() -> None:
    assert read_options({}) == BodyOptions()
    assert read_options(
        {"op": ["upsert"], "key_column": ["k"], "wait_for_visibility": ["true"], "visibility_timeout_ms": ["5"]}
    ) == BodyOptions(op="upsert", key_column="k", wait_for_visibility=True, visibility_timeout_ms=5)


@pytest.mark.parametrize(
    ("given_", "named"),
    [
        ({"ops": ["insert"]}, "'ops'"),
        ({"op": ["merge"]}, "op must be insert or upsert or delete"),
        ({"op": ["insert", "insert"]}, "'op'"),
        ({"key_column": [""]}, "'key_column'"),
        ({"wait_for_visibility": ["1"]}, "wait_for_visibility must be true or false"),
        ({"visibility_timeout_ms": ["-1"]}, "visibility_timeout_ms"),
        ({"visibility_timeout_ms": ["9" * 30]}, "visibility_timeout_ms"),
        ({"\ud800": ["1"]}, "Unknown"),
    ],
)
def test_what_a_query_string_may_not_say_is_named(given_: dict[str, list[str]], named: str) -> None:
    with pytest.raises(Invalid) as caught:
        read_options(given_)
    assert named in caught.value.message
    caught.value.message.encode()


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (BodyOptions(op="upsert"), "op=upsert needs a table with primary_key_cols"),
        (BodyOptions(op="delete"), "op=delete needs a table with primary_key_cols"),
        (BodyOptions(key_column="nope"), "no column 'nope'"),
        (BodyOptions(key_column="l"), "must not be a list"),
        (BodyOptions(event_time_column="n"), "'n' is int64"),
    ],
)
def test_options_that_do_not_fit_the_table_are_named(options: BodyOptions, named: str) -> None:
    with pytest.raises(Invalid) as caught:
        bind_options(options, TableShape(schema=make_schema("n int64", "l list<string>")))
    assert named in caught.value.message


def test_a_wait_that_is_too_long_is_refused_before_anything_is_decoded() -> None:
    options = BodyOptions(wait_for_visibility=True, visibility_timeout_ms=10**9)
    for kind in (NDJSON, CSV):
        with pytest.raises(Invalid, match="visibility_timeout_ms"):
            decode(kind, "neither the one nor the other", make_schema("n int64"), options=options)


def test_every_media_type_is_in_lower_case() -> None:
    assert all(kind == kind.lower() for kind in DECODERS)
