"""Bodies read within a bound, and JSON objects read strictly."""

import gzip
import io
import json
import time
import tracemalloc
from pathlib import Path

import pytest
from django.test import RequestFactory
from hypothesis import given
from hypothesis import strategies as st

from api.parsers import MAX_DEPTH, parse_object, read_body, receive_body
from duckmesh.kernel.errors import Invalid
from ingest.decode.spool import Spool, SpoolPolicy
from ingest.errors import PayloadTooLarge
from tests.unit.test_encodings import PACK

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


def received(body: bytes, *, encoding: str = "identity", limit: int, policy: SpoolPolicy, **meta: str) -> Spool:
    request = RequestFactory().generic("POST", "/", body)
    request.META |= meta
    return receive_body(request, encoding=encoding, limit=limit, policy=policy)


def test_a_received_body_lies_in_memory_up_to_its_bound_and_then_in_a_file(tmp_path: Path) -> None:
    policy = SpoolPolicy(directory=tmp_path, memory_bytes=1_000)
    small = received(b"x" * 1_000, limit=2_000, policy=policy)
    assert small.path is None
    large = received(gzip.compress(b"x" * 1_001), encoding="gzip", limit=2_000, policy=policy)
    assert large.path is not None
    assert (small.getvalue(), large.getvalue()) == (b"x" * 1_000, b"x" * 1_001)
    large.close()
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
def test_a_bomb_is_refused_as_soon_as_it_passes_the_bound(encoding: str, tmp_path: Path) -> None:
    bomb = PACK[encoding](bytes(2**28))
    tracemalloc.start()
    with pytest.raises(PayloadTooLarge) as caught:
        received(bomb, encoding=encoding, limit=2**20, policy=SpoolPolicy(directory=tmp_path, memory_bytes=2**18))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert caught.value.context == {"limit_bytes": 2**20}
    assert peak < 2**22
    assert not [*tmp_path.iterdir()]


def test_a_body_of_many_empty_members_comes_to_an_end(tmp_path: Path) -> None:
    with pytest.raises(PayloadTooLarge, match="compressed"):
        received(
            gzip.compress(b"") * 1_000,
            encoding="gzip",
            limit=2_000,
            policy=SpoolPolicy(directory=tmp_path, memory_bytes=100),
        )


@pytest.mark.parametrize("encoding", ["identity", "gzip", "zstd"])
def test_a_body_that_was_cut_short_is_refused(encoding: str, tmp_path: Path) -> None:
    packed = PACK[encoding](b"x" * 1_000)
    with pytest.raises(Invalid, match="Content-Length"):
        received(
            packed,
            encoding=encoding,
            limit=2_000,
            policy=SpoolPolicy(directory=tmp_path, memory_bytes=100),
            CONTENT_LENGTH=str(len(packed) + 1),
        )
    assert not [*tmp_path.iterdir()]
