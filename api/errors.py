"""What the HTTP edge itself refuses, by name."""

from duckmesh.kernel.errors import Denied, DuckMeshError, Invalid, NotFound


class Unauthenticated(Denied):
    """No key came with the request, or it opens nothing: unknown, revoked, expired, or its tenant is suspended."""

    code = "UNAUTHENTICATED"
    status = 401


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


class UnexpectedError(DuckMeshError):
    """A fault of ours. The log has the details under the answer's trace_id."""

    code = "INTERNAL_ERROR"
    status = 500
