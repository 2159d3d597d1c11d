"""Values from a request's bytes to a query's bytes: every digit, or a refusal by name, and nothing of the request."""

import json
from typing import Any

import pytest

from tests.client import Client
from tests.faults.load import settle
from tests.history import Recorder

COLUMNS: list[dict[str, object]] = [
    {"name": "id", "type": "string"},
    {"name": "i", "type": "int64"},
    {"name": "d", "type": "decimal(38,10)"},
    {"name": "f", "type": "float64"},
    {"name": "s", "type": "string"},
    {"name": "t", "type": "timestamp"},
    {"name": "must", "type": "int32", "nullable": False},
]


@pytest.fixture
def values(client: Client) -> str:
    """A table with a column of each type that JSON could harm."""
    name = "exact_values"
    if client.call("GET", f"/v1/tables/{name}").status == 404:
        client.create_table(name, columns=COLUMNS)
    return name


def send(client: Client, table: str, payload: str) -> Any:
    """The answer to one record, whose payload is JSON as it stands, waited for."""
    body = f'{{"records": [{{"payload": {payload}}}], "wait_for_visibility": true, "visibility_timeout_ms": 20000}}'
    reply = client.call("POST", f"/v1/ingest/{table}", body.encode())
    return reply.status, reply.json()


def stored(client: Client, table: str, column: str, identity: str, *, token: int) -> bytes:
    """The value as the bytes of the query's answer spell it."""
    query = {"sql": f"SELECT {column} FROM {table} WHERE id = ?", "params": [identity], "min_visibility_token": token}
    reply = client.call("POST", "/v1/query", query)
    assert reply.status == 200, reply.body
    _, _, rest = reply.body.partition(b'"rows":')
    return rest.strip().removeprefix(b"[[").split(b"]]")[0].strip()


@pytest.mark.parametrize(
    ("column", "sent", "answered"),
    [
        ("i", "9007199254740993", "9007199254740993"),
        ("i", "-9223372036854775808", "-9223372036854775808"),
        ("i", "9223372036854775807", "9223372036854775807"),
        ("d", "12345678901234567890123456.0123456789", '"12345678901234567890123456.0123456789"'),
        ("d", '"-0.0000000001"', '"-0.0000000001"'),
        ("d", "9007199254740993", '"9007199254740993.0000000000"'),
        ("f", "0.1", "0.1"),
        ("f", "1e308", "1e308"),
        ("f", "9007199254740992", "9007199254740992.0"),
        ("s", r'"a\u0000b"', '"a\\u0000b"'),
        ("s", r'"\u0000"', '"\\u0000"'),
        ("s", r'"\ud83e\udd86 ü"', '"🦆 ü"'),
        ("t", '"2013-01-01T10:00:00.123456+02:00"', '"2013-01-01T08:00:00.123456Z"'),
    ],
)
def test_value_survives_exactly(client: Client, values: str, column: str, sent: str, answered: str) -> None:
    identity = f"{column} {sent}"
    status, document = send(client, values, f'{{"id": {json.dumps(identity)}, "must": 1, "{column}": {sent}}}')
    assert status == 200, document
    found = stored(client, values, column, identity, token=document["max_visibility_token"])
    assert json.loads(found) == json.loads(answered)
    if column in ("i", "d"):
        assert found.decode() == answered


@pytest.mark.parametrize(
    ("payload", "column"),
    [
        ('{"id": "x", "must": 1, "f": 1e400}', "f"),
        ('{"id": "x", "must": 1, "f": -1e400}', "f"),
        ('{"id": "x", "must": 1, "f": 9007199254740993}', "f"),
        ('{"id": "x", "must": 1, "f": NaN}', None),
        ('{"id": "x", "must": 1, "f": Infinity}', None),
        ('{"id": "x", "must": 1, "i": 9223372036854775808}', "i"),
        ('{"id": "x", "must": 1, "i": 18446744073709551616}', "i"),
        ('{"id": "x", "must": 1, "i": 1.5}', "i"),
        ('{"id": "x", "must": 1, "i": "1"}', "i"),
        ('{"id": "x", "must": 1, "i": true}', "i"),
        ('{"id": "x", "must": 1, "d": 0.12345678901}', "d"),
        ('{"id": "x", "must": 1, "d": 1e30}', "d"),
        (r'{"id": "x", "must": 1, "s": "\ud800"}', "s"),
        (r'{"id": "x", "must": 1, "s": "\udd86\ud83e"}', "s"),
        ('{"id": "x", "must": 1, "id": "y"}', "id"),
        ('{"id": "x", "must": 2147483648}', "must"),
        ('{"id": "x", "must": null}', "must"),
        ('{"id": "x"}', "must"),
        ('{"id": "x", "must": 1, "other": 1}', "other"),
        ('{"id": "x", "must": 1, "t": "2013-02-30T00:00:00Z"}', "t"),
    ],
)
def test_value_that_would_be_harmed_is_refused_by_name(
    client: Client, values: str, payload: str, column: str | None
) -> None:
    before = client.get("/v1/lag")["latest_issued_token"]
    status, document = send(client, values, payload)
    assert status == 400, document
    if column is None:  # not JSON at all
        assert document["error_code"] in ("INVALID_RECORD", "INVALID_REQUEST")
    else:
        assert document["error_code"] == "INVALID_RECORD"
        assert [(error["index"], error["column"]) for error in document["context"]["errors"]] == [(0, column)]
        assert document["context"]["errors"][0]["reason"]
    assert client.get("/v1/lag")["latest_issued_token"] == before, "a refusal uses no token"


def test_body_that_is_not_utf8_is_refused(client: Client, values: str) -> None:
    body = b'{"records": [{"payload": {"id": "\xff\xfe", "must": 1}}]}'
    reply = client.call("POST", f"/v1/ingest/{values}", body)
    assert reply.status == 400
    assert reply.json()["error_code"] in ("INVALID_RECORD", "INVALID_REQUEST")


def test_one_bad_record_in_a_thousand_refuses_them_all(client: Client, recorder: Recorder, table: str) -> None:
    records = [{"payload": {"id": f"r{n}", "n": n}, "idempotency_key": f"r{n}"} for n in range(1_000)]
    bad = [dict(record) for record in records]
    bad[737] = {"payload": {"id": "r737", "n": "seven"}, "idempotency_key": "r737"}
    reply = client.call("POST", f"/v1/ingest/{table}", {"records": bad})
    assert (reply.status, reply.json()["error_code"]) == (400, "INVALID_RECORD")
    (error,) = reply.json()["context"]["errors"]
    assert (error["index"], error["column"]) == (737, "n")
    ack = client.ingest(table, *[f"r{n}" for n in range(1_000)])
    assert (ack.accepted, ack.duplicates) == (1_000, 0), "no key was used by the refused request"
    assert len(settle(client, recorder, table)) == 1_000


def test_all_bad_records_are_named_up_to_a_hundred(client: Client, table: str) -> None:
    records = [{"payload": {"id": f"r{n}", "n": "x" if n % 2 else n}} for n in range(1_000)]
    reply = client.call("POST", f"/v1/ingest/{table}", {"records": records})
    errors = reply.json()["context"]["errors"]
    assert [error["index"] for error in errors] == list(range(1, 200, 2))
