"""Records and requests: what they may say, what is refused, and that one bad record refuses all."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from duckmesh.kernel.errors import Invalid
from ingest.decode.batch import HASH_BYTES
from ingest.decode.hashing import record_key_hashes
from ingest.errors import IdempotencyConflict, InvalidRecord, PayloadTooLarge
from tests.unit.decode_cases import LIMITS, batch_of, body_error, body_of, decode, make_schema, refusals

FLIGHTS = make_schema("carrier string!", "distance int64", "note json")
KEYED = make_schema("id int64", "name string!", "score float64")


def record(key: str | None = None, **payload: object) -> dict[str, object]:
    return {"payload": payload, **({} if key is None else {"idempotency_key": key})}


def body(*records: object, **options: object) -> str:
    return json.dumps({"records": records, **options})


def test_a_batch_has_the_tables_columns_in_their_order() -> None:
    batch = batch_of(decode(body(record(distance=1, carrier="UA"), record(carrier="AA")), FLIGHTS))
    assert batch.schema.names == ["carrier", "distance", "note"]
    assert batch.to_pydict() == {"carrier": ["UA", "AA"], "distance": [1, None], "note": [None, None]}
    assert batch.schema.field("distance").metadata[b"PARQUET:field_id"] == b"2"


def test_columns_are_named_without_case() -> None:
    assert batch_of(decode(body(record(CARRIER="UA", Distance=3)), FLIGHTS)).column("distance").to_pylist() == [3]


def test_one_field_in_two_spellings_is_a_duplicate() -> None:
    assert refusals(body(record(carrier="UA", Carrier="UA")), FLIGHTS)[0][:2] == (0, "Carrier")


def test_one_bad_record_in_a_thousand_is_named_and_refuses_all() -> None:
    records = [record(f"k{i}", carrier="UA", distance=i) for i in range(1_000)]
    records[617] = record("k617", carrier="UA", distance=1.5)
    with pytest.raises(InvalidRecord) as caught:
        decode(body(*records), FLIGHTS)
    assert caught.value.code == "INVALID_RECORD"
    assert caught.value.context["errors"] == [
        {"index": 617, "column": "distance", "reason": "is not a whole number and would lose precision in int64"}
    ]
    assert caught.value.message.startswith("1 problem, nothing was written. Record 617, column distance: ")


def test_all_problems_are_counted_and_a_hundred_are_named() -> None:
    with pytest.raises(InvalidRecord) as caught:
        decode(body(*[record(carrier=None, distance="x", nope=1) for _ in range(200)]), FLIGHTS)
    errors = caught.value.context["errors"]
    assert isinstance(errors, list)
    assert len(errors) == 100
    assert caught.value.context["error_count"] == 600
    assert "600 problems" in caught.value.message


@pytest.mark.parametrize(
    ("text", "column", "words"),
    [
        ('{"payload":{"carrier":"UA","speed":1}}', "speed", "unknown field"),
        ('{"payload":{"distance":1}}', "carrier", "missing and may not be null"),
        ('{"payload":{"carrier":null}}', "carrier", "may not be null"),
        ('{"payload":{"carrier":"UA","carrier":"UA"}}', "carrier", "repeated JSON key"),
        ('{"payload":{"carrier":"UA","c\\u0061rrier":"AA"}}', "carrier", "repeated JSON key"),
        ('{"payload":{"carrier":"UA"},"payload":{"carrier":"UA"}}', None, "repeats the JSON key 'payload'"),
        ('{"payload":{"carrier":"UA"},"idempotency_key":"a","idempotency_key":"b"}', None, "'idempotency_key'"),
        ('{"payload":{"carrier":"UA"},"when":1}', None, "unknown member 'when'"),
        ('{"payload":{"carrier":"UA"},"\\ud800":1}', None, "unknown member"),
        ('{"payload":{"carrier":"UA","\\ud800":1}}', "?", "unknown field"),
        ('{"payload":null}', None, "payload must be an object, not null"),
        ('{"payload":[]}', None, "payload must be an object, not a list"),
        ("{}", None, "needs a payload"),
        ("[]", None, "must be an object, not a list"),
        ("null", None, "must be an object, not null"),
        ("[" * 50_000 + "]" * 50_000, None, "nests deeper than 64"),
        ('{"payload":{"carrier":"UA"},"op":"merge"}', None, "op must be insert, upsert or delete"),
        ('{"payload":{"carrier":"UA"},"op":null}', None, "op must be insert, upsert or delete"),
        ('{"payload":{"carrier":"UA"},"op":"upsert"}', None, "upsert needs a table with primary_key_cols"),
        ('{"payload":{"carrier":"UA"},"op":"delete"}', None, "delete needs a table with primary_key_cols"),
        ('{"payload":{"carrier":"UA"},"idempotency_key":""}', None, "1 to 512 characters long, not 0"),
        ('{"payload":{"carrier":"UA"},"idempotency_key":7}', None, "idempotency_key needs a string"),
        ('{"payload":{"carrier":"UA"},"idempotency_key":"\\udfff"}', None, "lone surrogate"),
        ('{"payload":{"carrier":"UA"},"event_time":1357034400}', None, "event_time needs a string"),
        ('{"payload":{"carrier":"UA"},"event_time":"noon"}', None, "event_time is not an RFC 3339 time"),
    ],
)
@pytest.mark.parametrize("before", [0, 3])
def test_a_wrong_record_is_refused_by_name(text: str, column: str | None, words: str, before: int) -> None:
    good = ['{"payload":{"carrier":"UA"}}'] * before
    (problem,) = refusals('{"records":[' + ",".join([*good, text, '{"payload":{"carrier":"B6"}}']) + "]}", FLIGHTS)
    assert problem[:2] == (before, column)
    assert words in problem[2]


def test_a_repeated_key_among_very_many_is_found_at_once() -> None:
    members = ",".join([*(f'"k{i}":0' for i in range(100_000)), '"k7":1'])
    ((_, column, reason),) = refusals(f'{{"records":[{{"payload":{{"carrier":"UA","note":{{{members}}}}}}}]}}', FLIGHTS)
    assert (column, reason) == ("note", "repeats the key 'k7'")


def test_reading_stops_after_a_hundred_records_that_nest_too_deep() -> None:
    deep = '{"payload":{"note":' + "[" * 2_000 + "]" * 2_000 + "}}"
    found = refusals('{"records":[' + ",".join([deep] * 150) + "]}", FLIGHTS)
    assert [(index, column) for index, column, _ in found] == [(i, "note") for i in range(100)]


def test_a_key_is_at_most_512_characters() -> None:
    assert decode(body(record("é" * 512, carrier="UA")), FLIGHTS).key_hashes == record_key_hashes(["é" * 512])[0]
    assert "not 513" in refusals(body(record("k" * 513, carrier="UA")), FLIGHTS)[0][2]


@pytest.mark.parametrize("space", ["", " ", "\n\t \r"])
def test_repeated_keys_are_found_whatever_the_white_space(space: str) -> None:
    text = f'{{"records":[{{"payload":{{"carrier"{space}:"UA","carrier"{space}{space}:{space}"UA"}}}}]}}'
    assert refusals(text, FLIGHTS)[0][1] == "carrier"


def test_strings_that_look_like_keys_do_not_hide_a_repeated_key() -> None:
    tricky = r'{"payload":{"carrier":"\":\": \\","note":{"a\":":"x\" :"}}}'
    repeated = r'{"payload":{"carrier":"\":","note":{"a":1,"b":{"c":1,"c":2}}}}'
    assert batch_of(decode(f'{{"records":[{tricky}]}}', FLIGHTS)).column("carrier").to_pylist() == ['":": \\']
    assert refusals(f'{{"records":[{tricky},{repeated}]}}', FLIGHTS)[0][:2] == (1, "note")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "not JSON"),
        ("{", "not JSON"),
        ("nope", "not JSON"),
        ("\ufeff{}", "not JSON"),
        ("[]", "must be a JSON object, not a list"),
        ('"x"', "must be a JSON object, not a string"),
        ("{}", "needs a list of records"),
        ('{"records":[]}', "empty"),
        ('{"records":null}', "must be a list, not null"),
        ('{"records":{}}', "must be a list, not an object"),
        ('{"records":[{"payload":{"carrier":"UA"}}],"dry_run":true}', "unknown member 'dry_run'"),
        ('{"records":[{"payload":{"carrier":"UA"}}],"records":[]}', "'records' more than once"),
        ('{"records":[{"payload":{"carrier":"UA"}}]} x', "more follows"),
        ('{"records":[{"payload":{"carrier":"UA"}},]}', "not JSON"),
        ('{"records":[{"payload":{"carrier":"UA"}} {}]}', "not JSON"),
        ('{"records":[{"payload":{"carrier":"U\nA"}}]}', "not JSON"),
        ('{"records":[{"payload":{"carrier":"UA","distance":01}}]}', "not JSON"),
        ('{"records":[{"payload":{"carrier":"UA","distance":+1}}]}', "not JSON"),
        ('{"records":[{"payload":{"carrier":"UA"}', "not JSON"),
        ('{"records":[{"payload":' + "[" * 50_000, "not JSON"),
        ("[" * 50_000, "nests deeper"),
        ('{"x":' * 50_000, "unknown member"),
        ('{"records":[{"payload":{"carrier":"UA"}}],"wait_for_visibility":"yes"}', "true or false, not a string"),
        ('{"records":[{"payload":{"carrier":"UA"}}],"wait_for_visibility":null}', "true or false, not null"),
        ('{"records":[{"payload":{"carrier":"UA"}}],"visibility_timeout_ms":"5"}', "whole number of milliseconds"),
        ('{"records":[{"payload":{"carrier":"UA"}}],"visibility_timeout_ms":1.5}', "whole number of milliseconds"),
        ('{"records":[{"payload":{"carrier":"UA"}}],"visibility_timeout_ms":true}', "whole number of milliseconds"),
        ('{"records":[{"payload":{"carrier":"UA"}}],"visibility_timeout_ms":-1}', "between 0 and 300000"),
        ('{"records":[{"payload":{"carrier":"UA"}}],"visibility_timeout_ms":300001}', "between 0 and 300000"),
    ],
)
def test_a_wrong_body_is_refused_as_a_whole(text: str, words: str) -> None:
    assert words in body_error(text, FLIGHTS)


def test_bytes_that_are_no_text_are_refused_as_a_whole() -> None:
    assert "not JSON" in body_error(b"\xff\xfe{\x00", FLIGHTS)


def test_waiting_is_off_and_five_seconds_long_unless_said() -> None:
    plain = decode(body(record(carrier="UA")), FLIGHTS)
    asked = decode(body(record(carrier="UA"), wait_for_visibility=True, visibility_timeout_ms=250), FLIGHTS)
    assert (plain.wait_for_visibility, plain.visibility_timeout) == (False, timedelta(seconds=5))
    assert (asked.wait_for_visibility, asked.visibility_timeout) == (True, timedelta(milliseconds=250))


def test_options_may_come_before_the_records() -> None:
    decoded = decode('{"wait_for_visibility":true,"records":[{"payload":{"CARRIER":"UA"}}]}', FLIGHTS)
    assert decoded.wait_for_visibility


@pytest.mark.parametrize("payload", ['{"carrier":"UA"}', '{"CARRIER":"UA"}', "{}"])
def test_too_many_records_are_too_large_a_payload(payload: str) -> None:
    limits = replace(LIMITS, max_records=3)
    text = '{"records":[' + ",".join([f'{{"payload":{payload}}}'] * 4) + "]}"
    with pytest.raises(PayloadTooLarge) as caught:
        decode(text, FLIGHTS, limits=limits)
    assert (caught.value.code, caught.value.status) == ("PAYLOAD_TOO_LARGE", 413)


def test_a_table_without_columns_says_so() -> None:
    assert "no columns" in refusals(body_of({}), make_schema())[0][2]


def test_event_times_give_the_span_of_the_batch() -> None:
    decoded = decode(
        body(
            {**record(carrier="UA"), "event_time": "2013-01-01T10:00:00Z"},
            {**record(carrier="UA"), "event_time": None},
            {**record(carrier="UA"), "event_time": "2013-01-01T10:00:00+02:00"},
        ),
        FLIGHTS,
    )
    assert decoded.min_event_time == datetime(2013, 1, 1, 8, tzinfo=UTC)
    assert decoded.max_event_time == datetime(2013, 1, 1, 10, tzinfo=UTC)
    assert decode(body(record(carrier="UA")), FLIGHTS).min_event_time is None


def test_keys_are_listed_once_and_repeats_are_excluded() -> None:
    decoded = decode(
        body(record("a", carrier="UA"), record(carrier="UA"), record("b", carrier="B6"), record("a", carrier="UA")),
        FLIGHTS,
    )
    assert decoded.record_count == batch_of(decoded).num_rows == 4
    assert list(decoded.key_ordinals) == [0, 2]
    assert decoded.key_hashes == b"".join(record_key_hashes(["a", "b"]))
    assert decoded.excluded == [3]
    assert len(decoded.key_hashes) == len(decoded.payload_hashes) == 2 * HASH_BYTES


def test_a_null_key_is_no_key() -> None:
    decoded = decode(body({**record(carrier="UA"), "idempotency_key": None}, record("k", carrier="UA")), FLIGHTS)
    assert list(decoded.key_ordinals) == [1]


def test_one_key_for_two_contents_in_one_request_is_a_conflict() -> None:
    with pytest.raises(IdempotencyConflict) as caught:
        decode(body(record("a", carrier="UA"), record("a", carrier="AA")), FLIGHTS)
    assert caught.value.context == {"idempotency_key": "a", "index": 1}


def test_operations_of_a_keyed_table_are_a_column() -> None:
    decoded = decode(
        body(
            record(id=1, name="a", score=1),
            {**record(id=2, name="b"), "op": "upsert"},
            {**record(id=3), "op": "delete"},
            {**record(id=4, score=0.5), "op": "delete"},
        ),
        KEYED,
        primary_key=("ID",),
    )
    batch = batch_of(decoded)
    assert batch.schema.names == ["id", "name", "score", "_duckmesh_op"]
    assert batch.column("_duckmesh_op").to_pylist() == [0, 0, 1, 1]
    assert batch.column("name").to_pylist() == ["a", "b", None, None]
    assert batch.column("score").to_pylist() == [1.0, None, None, 0.5]


@pytest.mark.parametrize(
    ("item", "column", "words"),
    [
        ({"payload": {"name": "a"}}, "id", "missing"),
        ({"payload": {"id": None, "name": "a"}}, "id", "may not be null"),
        ({"payload": {"name": "a"}, "op": "delete"}, "id", "missing"),
        ({"payload": {"id": 1}, "op": "upsert"}, "name", "missing"),
        ({"payload": {"id": 1}}, "name", "missing"),
        ({"payload": {"id": 1, "score": "x"}, "op": "delete"}, "score", "not a string"),
    ],
)
def test_keyed_tables_demand_their_key_and_rows_their_columns(item: object, column: str, words: str) -> None:
    good = {"payload": {"id": 9}, "op": "delete"}
    (problem,) = refusals(body(good, item), KEYED, primary_key=("id",))
    assert problem[:2] == (1, column)
    assert words in problem[2]


@pytest.mark.parametrize("key", ["", "k" * 513])
def test_a_request_key_has_a_length(key: str) -> None:
    with pytest.raises(Invalid):
        decode(body(record(carrier="UA")), FLIGHTS, request_key=key)


def test_limits_are_those_of_the_caller() -> None:
    assert decode(body(*[record(carrier="UA")] * LIMITS.max_records), FLIGHTS).record_count == LIMITS.max_records
