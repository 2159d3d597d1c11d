"""The body of `POST /v1/query`: read strictly, every wrong member named at once."""

from datetime import UTC, datetime
from typing import Any

import pytest

from duckmesh.kernel.errors import Invalid
from query.body import MAX_ROW_LIMIT, BodyLimits, QueryRequest, parse_body
from query.errors import VisibilityTokenInvalid

LIMITS = BodyLimits(max_sql_bytes=100, max_timeout_ms=300_000, max_consistency_timeout_ms=300_000)


def parsed(**members: Any) -> QueryRequest:
    return parse_body({"sql": "SELECT 1", **members}, limits=LIMITS)


def wrong_members(**members: Any) -> set[str]:
    """The members that the refusal names."""
    with pytest.raises(Invalid) as refused:
        parsed(**members)
    errors = refused.value.context["errors"]
    assert isinstance(errors, dict)
    for name in errors:
        assert name in refused.value.message
    return set(errors)


def test_statement_alone_gets_the_contracts_defaults() -> None:
    request = parsed()
    assert request == QueryRequest(
        sql="SELECT 1",
        params=None,
        snapshot_id=None,
        snapshot_time=None,
        min_visibility_token=None,
        consistency_timeout_ms=5_000,
        timeout_ms=30_000,
        row_limit=None,
    )


def test_null_stands_for_an_absent_member() -> None:
    assert parsed(params=None, snapshot_id=None, snapshot_time=None, timeout_ms=None) == parsed()


def test_every_member_is_taken_as_it_is() -> None:
    request = parsed(
        params={"a": [1, None, "x"]},
        snapshot_id=2**63 - 1,
        min_visibility_token=0,
        consistency_timeout_ms=0,
        timeout_ms=300_000,
        row_limit=1,
    )
    assert request.params == {"a": [1, None, "x"]}
    assert request.snapshot_id == 2**63 - 1
    assert request.min_visibility_token == 0
    assert (request.consistency_timeout_ms, request.timeout_ms, request.row_limit) == (0, 300_000, 1)


@pytest.mark.parametrize(
    ("text", "instant"),
    [
        ("2013-01-01T10:00:00Z", datetime(2013, 1, 1, 10, tzinfo=UTC)),
        ("2013-01-01t10:00:00.25z", datetime(2013, 1, 1, 10, 0, 0, 250_000, tzinfo=UTC)),
        ("2013-01-01T10:00:00.123456789+02:00", datetime(2013, 1, 1, 8, 0, 0, 123_456, tzinfo=UTC)),
    ],
)
def test_time_is_rfc_3339(text: str, instant: datetime) -> None:
    assert parsed(snapshot_time=text).snapshot_time == instant


@pytest.mark.parametrize(
    "text",
    [
        "2013-01-01",
        "2013-01-01T10:00:00",
        "2013-01-01 10:00:00Z",
        "2013-02-30T10:00:00Z",
        "2013-W01-1T10:00:00Z",
        "2013-01-01T10:00:60Z",
        "0001-01-01T00:00:00+01:00",
        "٢٠١٣-01-01T10:00:00Z",
        "now",
        "",
        0,
        True,
    ],
)
def test_other_spellings_of_a_time_are_refused(text: object) -> None:
    assert wrong_members(snapshot_time=text) == {"snapshot_time"}


@pytest.mark.parametrize("token", [-1, 2**63, 10**30, 1.0, "1", True, [], {}])
def test_token_that_cannot_be_one_has_a_code_of_its_own(token: object) -> None:
    with pytest.raises(VisibilityTokenInvalid) as refused:
        parsed(min_visibility_token=token)
    assert refused.value.code == "VISIBILITY_TOKEN_INVALID"


def test_all_wrong_members_are_named_in_one_error() -> None:
    members = {
        "params": "x",
        "snapshot_id": -1,
        "min_visibility_token": -1,
        "consistency_timeout_ms": -1,
        "timeout_ms": 0,
        "row_limit": MAX_ROW_LIMIT + 1,
        "Snapshot_ID": 1,
    }
    assert wrong_members(**members) == set(members)


def test_snapshot_is_named_in_one_way_only() -> None:
    assert wrong_members(snapshot_id=1, snapshot_time="2013-01-01T10:00:00Z") == {"snapshot_time"}


@pytest.mark.parametrize("member", ["snapshot_id", "timeout_ms", "row_limit", "consistency_timeout_ms"])
@pytest.mark.parametrize("value", ["5", 5.0, True, [5], -1, 2**63])
def test_numbers_are_json_integers_within_their_bounds(member: str, value: object) -> None:
    assert wrong_members(**{member: value}) == {member}


@pytest.mark.parametrize("sql", [None, 1, ["SELECT 1"], "é" * 51, "SELECT '\ud800'", "SELECT 1\0"])
def test_statement_is_text_of_a_bounded_size(sql: object) -> None:
    assert wrong_members(sql=sql) == {"sql"}


def test_missing_statement_is_named() -> None:
    with pytest.raises(Invalid) as refused:
        parse_body({}, limits=LIMITS)
    assert refused.value.context["errors"] == {"sql": ["This member is needed."]}
