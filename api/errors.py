"""What the HTTP edge itself refuses, by name."""

from duckmesh.kernel.errors import Denied, Invalid, NotFound
from query.errors import ConsistencyTimeout


class Unauthenticated(Denied):
    """No key came with the request, or it opens nothing: unknown, revoked or expired."""

    code = "UNAUTHENTICATED"
    status = 401


class TenantSuspended(Denied):
    """An operator has suspended the key's tenant: none of its requests is served. What it has written is kept."""

    code = "TENANT_SUSPENDED"


class ApiKeyNotFound(NotFound):
    """There is no API key of this id."""

    code = "API_KEY_NOT_FOUND"


class MethodNotAllowed(Invalid):
    """The address exists, but not for this method; the `Allow` header lists those it has."""

    code = "METHOD_NOT_ALLOWED"
    status = 405


class NotAcceptable(Invalid):
    """The answer does not exist in any media type that the `Accept` header allows."""

    code = "NOT_ACCEPTABLE"
    status = 406


class UnsupportedMediaType(Invalid):
    """The body's `Content-Type` or `Content-Encoding` is not one that this address takes."""

    code = "UNSUPPORTED_MEDIA_TYPE"
    status = 415


class AcceptedNotVisible(ConsistencyTimeout):
    """The records of this request are durable, but the wait for them ran out: they need not be sent again."""

    retryable = False
