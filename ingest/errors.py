"""What ingest can refuse or lose, by name."""

from duckmesh.kernel.errors import Conflict, Invalid, LimitExceeded, NotFound


class InvalidRecord(Invalid):
    """At least one record cannot be taken as it is, so none was; `context.errors` says which, where and why."""

    code = "INVALID_RECORD"


class PayloadTooLarge(Invalid):
    """The request is larger than this server takes at once; send it in parts."""

    code = "PAYLOAD_TOO_LARGE"
    status = 413


class IdempotencyConflict(Conflict):
    """The key was used before for something else; nothing was written."""

    code = "IDEMPOTENCY_CONFLICT"


class Backpressure(LimitExceeded):
    """Too much is accepted and not yet visible; wait, then send again."""

    code = "BACKPRESSURE"


class RateLimited(LimitExceeded):
    """The tenant writes faster than it may; wait, then send again."""

    code = "RATE_LIMITED"


class QuotaExceeded(LimitExceeded):
    """The tenant stores as much as it may; nothing more is taken until there is room."""

    code = "QUOTA_EXCEEDED"


class LeaseLost(Conflict):
    """Another worker has taken this batch over; drop the work, it is not yours."""

    code = "LEASE_LOST"


class FailedEventNotFound(NotFound):
    """No write of the tenant with this id has ever failed, or it is forgotten."""

    code = "FAILED_EVENT_NOT_FOUND"


class EventNotFailed(Conflict):
    """The write is not failed, or not any more: `context.state` says what it is."""

    code = "EVENT_NOT_FAILED"
