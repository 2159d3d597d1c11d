"""What can go wrong between a statement and its answer, each with the code that CONTRACT.md fixes."""

from duckmesh.kernel.errors import Conflict, Denied, DuckMeshError, Invalid, LimitExceeded, NotFound, Unavailable


class QueryInvalid(Invalid):
    """The statement cannot be understood or computed: a mistake in it, or a value it cannot convert."""

    code = "QUERY_INVALID"


class QueryForbidden(Denied):
    """The statement asks for something that a tenant's SQL may not do, whoever sends it."""

    code = "QUERY_FORBIDDEN"


class QueryResourcesExceeded(LimitExceeded):
    """The statement needs more memory, disk or result bytes than one query may have."""

    code = "QUERY_RESOURCES_EXCEEDED"
    status = 422
    retryable = False


class QueryTimeout(LimitExceeded):
    """The statement was still running at its deadline and was stopped."""

    code = "QUERY_TIMEOUT"
    status = 504


class ClientGone(LimitExceeded):
    """The client hung up before its answer was whole; the statement was stopped. Nobody reads this."""

    code = "CLIENT_GONE"
    status = 499
    retryable = False


class QueryCancelled(Conflict):
    """Somebody has called the query off; its answer, or the rest of it, does not come."""

    code = "CANCELLED"


class QueryNotFound(NotFound):
    """No query with this id is running for the tenant (any more)."""

    code = "QUERY_NOT_FOUND"


class PoolBusy(LimitExceeded):
    """Every runner was taken for as long as this query could wait; it never ran."""

    code = "BACKPRESSURE"


class RunnersUnavailable(Unavailable):
    """No runner can be had, or the one that held the query died of itself."""


class SqlUnsealed(Unavailable):
    """This system cannot seal the processes that would run tenants' SQL, and the operator has not opted out."""

    retryable = False


class VisibilityTokenInvalid(Invalid):
    """No write of the tenant was ever acknowledged with this token."""

    code = "VISIBILITY_TOKEN_INVALID"


class TokenScopeMismatch(Conflict):
    """The snapshot that was asked for is older than the token: waiting cannot bring the two together."""

    code = "TOKEN_SCOPE_MISMATCH"


class ConsistencyTimeout(LimitExceeded):
    """The token was not visible when the wait for it ran out; nothing was read."""

    code = "CONSISTENCY_TIMEOUT"
    status = 504


class TooManyWaiters(Unavailable):
    """As many requests wait for visibility in this process as its threads can bear."""


_BY_CODE: dict[str, type[DuckMeshError]] = {
    error.code: error for error in (QueryInvalid, QueryForbidden, QueryResourcesExceeded, QueryTimeout)
}


def error_of(code: str, message: str) -> DuckMeshError:
    """The error a runner reported as `code`; a code that is not a runner's to report means it cannot be trusted."""
    family = _BY_CODE.get(code)
    if family is None:
        return RunnersUnavailable("The query's runner failed; try again.", retry_after=1)
    return family(message)
