"""The RateLimit fields of an answer."""

from datetime import timedelta

from api.throttles import rate_headers, refusal_headers
from ingest.errors import RateLimited
from ingest.publishing import Rate

BURST = timedelta(seconds=2)


def test_without_a_rate_there_are_no_fields() -> None:
    assert rate_headers((), burst=BURST) == {}


def test_each_rate_is_an_item_of_its_own() -> None:
    records = Rate(unit="records", per_second=100, owed=0.5)
    size = Rate(unit="bytes", per_second=1_000, owed=0.0)
    assert rate_headers((records, size), burst=BURST) == {
        "RateLimit-Policy": '"records";q=200;w=2;qu="records", "bytes";q=2000;w=2;qu="bytes"',
        "RateLimit": '"records";r=150;t=1, "bytes";r=2000;t=0',
    }


def test_who_owes_more_than_the_burst_has_nothing_left() -> None:
    headers = rate_headers((Rate(unit="records", per_second=100, owed=7.2),), burst=BURST)
    assert headers["RateLimit"] == '"records";r=0;t=8'


def test_windows_are_whole_seconds() -> None:
    for burst, policy in (
        (timedelta(milliseconds=200), '"records";q=10;w=1;qu="records"'),
        (timedelta(milliseconds=2_500), '"records";q=30;w=3;qu="records"'),
    ):
        rate = Rate(unit="records", per_second=10, owed=0.0)
        assert rate_headers((rate,), burst=burst)["RateLimit-Policy"] == policy


def test_a_refusal_says_when_the_request_would_pass() -> None:
    refusal = RateLimited("Too fast.", retry_after=3, unit="bytes", limit=50)
    assert refusal_headers(refusal, burst=BURST) == {
        "RateLimit-Policy": '"bytes";q=100;w=2;qu="bytes"',
        "RateLimit": '"bytes";r=0;t=3',
    }
