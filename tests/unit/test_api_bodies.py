"""Bodies read within a bound, and JSON objects read strictly."""

import io
import json
import time

import pytest
from django.test import RequestFactory
from hypothesis import given
from hypothesis import strategies as st

from api.parsers import MAX_DEPTH, parse_object, read_body
from duckmesh.kernel.errors import Invalid
from ingest.errors import PayloadTooLarge

scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
values = st.recursive(scalars, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=20)


@given(value=st.dictionaries(st.text(), values), escape=st.booleans())
def test_any_json_object_is_read_as_it_was_written(value: dict[str, object], escape: bool) -> None:
    body = json.dumps(value, ensure_ascii=escape).encode()
    assert parse_object(body) == value


@given(body=st.binary(max_size=200))
def test_any_bytes_are_an_object_or_refused(body: bytes) -> None:
    try:
        assert isinstance(parse_object(body), dict)
    except Invalid as refusal:
        assert refusal.message.encode()


def test_nesting_is_counted_outside_strings_only() -> None:
    deep = b'{"a": ' + b"[" * (MAX_DEPTH - 1) + b"]" * (MAX_DEPTH - 1) + b"}"
    assert parse_object(deep)
    assert parse_object(b'{"a": "' + b"[{" * 1_000 + rb"\"[" + b'"}')
    with pytest.raises(Invalid, match="nests deeper"):
        parse_object(deep.replace(b"[", b"[[").replace(b"]", b"]]"))


@pytest.mark.parametrize("unit", [b'"', b'\\"', b'"\\', b"[", b"]", b'{"', b'["\\u'])
def test_no_input_of_a_control_request_takes_long(unit: bytes) -> None:
    began = time.perf_counter()
    with pytest.raises(Invalid):
        parse_object(b'{"a": ' + unit * (2**20 // len(unit)))
    assert time.perf_counter() - began < 5


def test_a_body_is_read_whole_up_to_its_bound() -> None:
    body = b"x" * 200_000
    request = RequestFactory().generic("POST", "/", body)
    assert read_body(request, limit=200_000) == body
    with pytest.raises(PayloadTooLarge):
        read_body(RequestFactory().generic("POST", "/", body), limit=199_999)


def test_a_body_of_unknown_length_is_read_to_its_end() -> None:
    request = RequestFactory().generic("POST", "/", HTTP_TRANSFER_ENCODING="chunked")
    request.META["wsgi.input"] = io.BytesIO(b"x" * 200_000)
    assert read_body(request, limit=200_000) == b"x" * 200_000


def test_what_is_too_much_is_taken_in_so_that_the_sender_reads_the_answer() -> None:
    request = RequestFactory().generic("POST", "/", HTTP_TRANSFER_ENCODING="chunked")
    stream = request.META["wsgi.input"] = io.BytesIO(b"x" * 2_000_000)
    with pytest.raises(PayloadTooLarge):
        read_body(request, limit=1_000)
    assert stream.tell() == 2_000_000
