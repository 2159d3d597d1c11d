"""`RateLimit-Policy` and `RateLimit`, as draft-ietf-httpapi-ratelimit-headers-11 has them, from a tenant's rates.

A policy is named for its unit. Its quota is what a quiet tenant may write at once, and its window the time in which
that much is earned. `t` says when the whole quota is there again, or, in a refusal, when this request would pass.
"""

import math
from collections.abc import Iterable
from datetime import timedelta

from ingest.errors import RateLimited
from ingest.publishing import Rate


def rate_headers(rates: Iterable[Rate], *, burst: timedelta) -> dict[str, str]:
    """The two fields, with an item for each rate; nothing without a rate."""
    seconds = burst.total_seconds()
    policies, limits = [], []
    for rate in rates:
        left = math.floor(rate.per_second * max(0.0, seconds - rate.owed))
        policies.append(_policy(rate.unit, rate.per_second, burst))
        limits.append(_limit(rate.unit, left=left, after=rate.owed))
    return _fields(policies, limits)


def refusal_headers(refusal: RateLimited, *, burst: timedelta) -> dict[str, str]:
    """The two fields for the rate that refused the request: nothing is left of it that would do."""
    unit, per_second = str(refusal.context["unit"]), int(str(refusal.context["limit"]))
    policy = _policy(unit, per_second, burst)
    return _fields([policy], [_limit(unit, left=0, after=refusal.retry_after or 1)])


def _policy(unit: str, per_second: int, burst: timedelta) -> str:
    window = max(1, math.ceil(burst.total_seconds()))
    # Without its unit a quota would be of requests.
    return f'"{unit}";q={per_second * window};w={window};qu="{unit}"'


def _limit(unit: str, *, left: int, after: float) -> str:
    return f'"{unit}";r={left};t={math.ceil(after)}'


def _fields(policies: list[str], limits: list[str]) -> dict[str, str]:
    return {"RateLimit-Policy": ", ".join(policies), "RateLimit": ", ".join(limits)} if policies else {}
