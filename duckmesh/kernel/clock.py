"""The one place that asks this machine for the time; contended time is asked of the database instead."""

from datetime import UTC, datetime


def now() -> datetime:
    """The present instant, aware, in UTC."""
    return datetime.now(UTC)


def rfc3339(instant: datetime) -> str:
    """`instant` as RFC 3339 with microseconds where there are any, and `Z`."""
    return instant.astimezone(UTC).isoformat().replace("+00:00", "Z")
