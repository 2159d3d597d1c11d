"""What a client asks for with `POST /v1/query`, read strictly from its JSON body. Pure."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from duckmesh.kernel.errors import JSON, Invalid
from query.errors import VisibilityTokenInvalid
from query.request import Params

MAX_ROW_LIMIT = 1_000_000
_BIGGEST = 2**63 - 1
_INSTANT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)", re.ASCII | re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class BodyLimits:
    """The bounds that the operator sets."""

    max_sql_bytes: int
    max_timeout_ms: int
    max_consistency_timeout_ms: int


@dataclass(frozen=True, kw_only=True)
class QueryRequest:
    """One statement, the snapshot it is to be read in, and how long and how much the client will take."""

    sql: str
    params: Params | None = None
    snapshot_id: int | None = None
    snapshot_time: datetime | None = None
    min_visibility_token: int | None = None
    consistency_timeout_ms: int = 5_000
    timeout_ms: int = 30_000
    row_limit: int | None = None  # the form of the answer says how many rows that means
    explain: bool = False  # answer the plan, and run nothing


MEMBERS = tuple(QueryRequest.__dataclass_fields__)


class _Wrong(Exception):
    """A member cannot be used; the text says what it must be."""


def parse_body(body: Mapping[str, Any], *, limits: BodyLimits) -> QueryRequest:
    """The request that `body` is; `null` stands for an optional member that is absent.

    Raises `Invalid` that names every wrong member, or `VisibilityTokenInvalid` if the token alone is wrong.
    """
    given = {name: value for name, value in body.items() if value is not None or name == "sql"}
    wrong = {name[:100]: "This member is not known here." for name in given if name not in MEMBERS}
    values: dict[str, Any] = {}
    for name, value in given.items():
        if name in MEMBERS:
            try:
                values[name] = _value(name, value, limits)
            except _Wrong as reason:
                wrong[name] = str(reason)
    if "sql" not in given:
        wrong["sql"] = "This member is needed."
    if "snapshot_id" in given and "snapshot_time" in given:
        wrong["snapshot_time"] = "Name a snapshot by snapshot_id or by snapshot_time, not by both."
    if set(wrong) == {"min_visibility_token"}:
        raise VisibilityTokenInvalid("min_visibility_token: " + wrong["min_visibility_token"])
    if wrong:
        listed: dict[str, JSON] = {name: [reason] for name, reason in sorted(wrong.items())[:100]}
        sentence = "; ".join(f"{name}: {reason}" for name, reason in sorted(wrong.items())[:10])
        raise Invalid(f"The request is not valid: {sentence}", errors=listed)
    return QueryRequest(**values)


def _value(name: str, value: Any, limits: BodyLimits) -> Any:
    match name:
        case "sql":
            return _sql(value, limits.max_sql_bytes)
        case "params":
            if not isinstance(value, list | dict):
                raise _Wrong("Must be an array (for ?) or an object (for $name).")
            return value
        case "snapshot_time":
            return _instant(value)
        case "consistency_timeout_ms":
            return _integer(value, 0, limits.max_consistency_timeout_ms)
        case "timeout_ms":
            return _integer(value, 1, limits.max_timeout_ms)
        case "explain":
            if type(value) is not bool:
                raise _Wrong("Must be true or false.")
            return value
        case "row_limit":
            return _integer(value, 1, MAX_ROW_LIMIT)
    return _integer(value, 0, _BIGGEST)


def _sql(value: Any, max_bytes: int) -> str:
    if not isinstance(value, str):
        raise _Wrong("Must be a string.")
    try:
        size = len(value.encode())
    except UnicodeEncodeError:
        raise _Wrong("Must be Unicode text, without lone surrogates.") from None
    if size > max_bytes:
        raise _Wrong(f"Must be at most {max_bytes} bytes long.")
    if "\0" in value:
        raise _Wrong("Must not hold a zero character.")
    return value


def _integer(value: Any, least: int, most: int) -> int:
    if type(value) is not int or not least <= value <= most:
        raise _Wrong(f"Must be an integer from {least} to {most}.")
    return value


def _instant(value: Any) -> datetime:
    if isinstance(value, str) and _INSTANT.fullmatch(value):
        try:
            return datetime.fromisoformat(value.upper()).astimezone(UTC)
        except (ValueError, OverflowError):
            pass
    raise _Wrong("Must be an RFC 3339 time with an offset, such as 2013-01-01T10:00:00Z.")
