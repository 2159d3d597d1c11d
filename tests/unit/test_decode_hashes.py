"""A retry is recognised whatever its layout; another content never passes for it."""

import json
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from catalog.schema import TableSchema
from tests.unit.decode_cases import decode, make_schema

FLIGHTS = make_schema("carrier string", "distance int64", "note json", "fare decimal(9,2)", "speed float64")
PAYLOAD = {"carrier": "UA", "distance": 1400, "note": {"b": [1, None], "a": "x"}, "fare": 99.5, "speed": 0.1}


def payload_hash(payload: str, schema: TableSchema = FLIGHTS, *, op: str = "insert", keyed: str = "") -> bytes:
    text = f'{{"records":[{{"payload":{payload},"idempotency_key":"k","op":"{op}"}}]}}'
    return decode(text, schema, primary_key=(keyed,) if keyed else ()).payload_hashes


@pytest.mark.parametrize(
    "payload",
    [
        '{"speed":0.1,"note":{"a":"x","b":[1,null]},"fare":99.5,"distance":1400,"carrier":"UA"}',
        '{ "carrier" : "UA",\n"distance":1400,"note":{"b":[1, null],"a":"x"},"fare":99.50,"speed":1e-1 }',
        '{"carrier":"\\u0055A","distance":1400,"note":{"b":[1,null],"a":"x"},"fare":995e-1,"speed":0.10}',
        '{"CARRIER":"UA","Distance":1400,"note":{"b":[1,null],"a":"x"},"fare":99.5,"speed":0.1}',
        '{"carrier":"UA","distance":14e2,"note":{"b":[1,null],"a":"x"},"fare":"99.50","speed":0.1}',
    ],
)
def test_layout_does_not_matter(payload: str) -> None:
    assert payload_hash(payload) == payload_hash(json.dumps(PAYLOAD))


@pytest.mark.parametrize(
    "change",
    [
        {"carrier": "UB"},
        {"carrier": None},
        {"distance": 1401},
        {"note": {"b": [1], "a": "x"}},
        {"note": {"b": [None, 1], "a": "x"}},
        {"note": '{"b":[1,null],"a":"x"}'},
        {"fare": 99.51},
        {"fare": "99.05"},
        {"speed": 0.2},
    ],
)
def test_any_other_content_has_another_hash(change: dict[str, object]) -> None:
    assert payload_hash(json.dumps({**PAYLOAD, **change})) != payload_hash(json.dumps(PAYLOAD))


def test_null_and_missing_are_one() -> None:
    assert payload_hash('{"carrier":"UA","distance":null}') == payload_hash('{"carrier":"UA"}')


def test_decimals_that_a_float_cannot_tell_apart_differ() -> None:
    schema = make_schema("a decimal(38,2)", "j json")
    assert payload_hash('{"a":12345678901234567890.12}', schema) != payload_hash(
        '{"a":12345678901234567890.13}', schema
    )
    assert payload_hash('{"j":12345678901234567890.12}', schema) != payload_hash(
        '{"j":12345678901234567890.13}', schema
    )


@pytest.mark.parametrize(
    ("literal", "types"),
    [
        ("5", ["int32", "int64", "float64", "decimal(9,2)"]),
        ("5.0", ["int32", "int64", "float64", "decimal(9,2)"]),
        ("5e0", ["int64", "decimal(9,2)", "float64"]),
        ("0.50", ["float32", "float64", "decimal(9,2)"]),
        ("-0", ["int32", "int64", "float64"]),
    ],
)
def test_widening_a_column_changes_no_hash(literal: str, types: list[str]) -> None:
    hashes = {payload_hash(f'{{"a":{literal}}}', make_schema(f"a {type_}")) for type_ in types}
    assert len(hashes) == 1


def test_adding_or_dropping_other_columns_changes_no_hash() -> None:
    narrow, wide = make_schema("b int64"), make_schema("a json", "b int64", "c list<json>")
    assert payload_hash('{"b":1}', narrow) == payload_hash('{"b":1}', wide)


def test_insert_is_upsert_on_a_keyed_table_and_delete_is_not() -> None:
    schema = make_schema("id int64")
    insert, upsert, delete = (
        payload_hash('{"id":1}', schema, op=op, keyed="id") for op in ("insert", "upsert", "delete")
    )
    assert insert == upsert != delete


@given(st.dictionaries(st.sampled_from(["a", "b", "c"]), st.integers(-3, 3), min_size=1), st.randoms())
@settings(max_examples=80, deadline=None)
def test_the_order_of_fields_never_matters(payload: dict[str, int], shuffler: random.Random) -> None:
    schema = make_schema("c int64", "a float64", "b decimal(5,0)")
    items = list(payload.items())
    shuffler.shuffle(items)
    assert payload_hash(json.dumps(dict(items)), schema) == payload_hash(json.dumps(payload), schema)


def request(*payloads: object, key: str = "r", **options: object) -> tuple[bytes | None, bytes | None]:
    records = [{"payload": payload} for payload in payloads]
    decoded = decode(json.dumps({"records": records, **options}), FLIGHTS, request_key=key)
    assert not decoded.key_hashes
    return decoded.request_key_hash, decoded.request_hash


def test_a_request_is_recognised_by_what_it_writes() -> None:
    one, two = {"carrier": "UA"}, {"distance": 2, "carrier": "AA"}
    assert request(one, two) == request(one, {"carrier": "AA", "distance": 2}, wait_for_visibility=True)
    assert request(one, two)[1] != request(two, one)[1]
    assert request(one, two)[1] != request(one)[1]
    assert request(one, key="r")[0] != request(one, key="s")[0]
    assert request(one, key="r")[1] == request(one, key="s")[1]


def test_without_a_request_key_there_is_no_request_hash() -> None:
    decoded = decode('{"records":[{"payload":{}}]}', FLIGHTS)
    assert (decoded.request_key_hash, decoded.request_hash) == (None, None)


def test_event_times_are_part_of_a_request() -> None:
    def hashed(event_time: str) -> bytes | None:
        text = f'{{"records":[{{"payload":{{}},"event_time":"{event_time}"}}]}}'
        return decode(text, FLIGHTS, request_key="k").request_hash

    assert hashed("2013-01-01T10:00:00Z") != hashed("2013-01-01T11:00:00Z")


def test_a_record_key_never_meets_a_request_key() -> None:
    decoded = decode('{"records":[{"payload":{},"idempotency_key":"k"}]}', FLIGHTS, request_key="k")
    assert decoded.key_hashes != decoded.request_key_hash


def test_hashes_stay_what_they_are() -> None:
    """They are stored for days: a release that changed them would turn retries into conflicts."""
    decoded = decode(
        json.dumps({"records": [{"payload": PAYLOAD, "idempotency_key": "UA1545-20130101"}]}),
        FLIGHTS,
        request_key="batch-1",
    )
    assert decoded.key_hashes.hex() == "f3819b62e6c0daedf2b37b6bfe542ebe"
    assert decoded.payload_hashes.hex() == "2fb9a6b3da871aeea6414f8e2cbb3e85"
    assert decoded.request_key_hash is not None
    assert decoded.request_key_hash.hex() == "ff4586092375e53ca3a7da01fe3e2df6"
    assert decoded.request_hash is not None
    assert decoded.request_hash.hex() == "e8c3c55432b1d46ef9a7a44782a367ca"
