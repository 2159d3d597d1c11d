"""What the errors of an S3 service, and of the way to it, mean to a caller."""

from collections.abc import Iterator
from contextlib import contextmanager

from minio.error import InvalidResponseError, MinioException, S3Error, ServerError
from urllib3.exceptions import ConnectTimeoutError, HTTPError, MaxRetryError, NewConnectionError

from duckmesh.kernel.errors import DuckMeshError
from storage.errors import ObjectExists, ObjectNotFound, StoreDenied, StoreOutcomeUnknown, StoreUnavailable

_NOT_FOUND = {"NoSuchKey", "ResourceNotFound", "NoSuchVersion"}
_DENIED = {"AccessDenied", "SignatureDoesNotMatch", "InvalidAccessKeyId", "ExpiredToken", "InvalidToken"}
_TAKEN = {"PreconditionFailed"}
_NOTHING_DONE = {"NoSuchBucket", "SlowDown", "ServiceUnavailable", "ConditionalRequestConflict", "OperationAborted"}


@contextmanager
def translated(key: str, *, writing: bool = False) -> Iterator[None]:
    """Errors of MinIO's client and of urllib3 become the store's; `writing` tells that bytes may have been kept."""
    try:
        yield
    except (MinioException, HTTPError, OSError) as exc:
        raise _meaning(exc, key, writing=writing) from exc


def has_code(exc: BaseException, *codes: str) -> bool:
    """Whether the service answered with one of these codes."""
    return isinstance(exc, S3Error) and exc.code in codes


def _meaning(exc: Exception, key: str, *, writing: bool) -> DuckMeshError:
    if isinstance(exc, S3Error) and (meant := _coded(exc, key)):
        return meant
    if _status(exc) in (401, 403):
        return StoreDenied("The object store refuses our credentials", key=key)
    if _status(exc) == 412:
        return ObjectExists("An object of this key exists", key=key)
    if not writing or _status(exc) in (400, 404, 405, 411, 429, 503) or _never_connected(exc):
        return StoreUnavailable("The object store does not answer as it should", key=key)
    return StoreOutcomeUnknown("The object may or may not have been written", key=key)


def _coded(exc: S3Error, key: str) -> DuckMeshError | None:
    if exc.code in _NOT_FOUND:
        return ObjectNotFound("There is no object of this key", key=key)
    if exc.code in _DENIED:
        return StoreDenied("The object store refuses our credentials", key=key)
    if exc.code in _TAKEN:
        return ObjectExists("An object of this key exists", key=key)
    if exc.code == "NoSuchBucket":
        return StoreUnavailable("The bucket of the object store does not exist")
    if exc.code in _NOTHING_DONE:
        return StoreUnavailable("The object store asks us to come back later", key=key)
    return None


def _status(exc: BaseException) -> int:
    if isinstance(exc, S3Error):
        return int(exc.response.status)
    if isinstance(exc, ServerError):
        return int(exc.status_code)
    # MinIO's client keeps the status of an answer that is no XML to itself, except in its text.
    return int(getattr(exc, "_code", 0)) if isinstance(exc, InvalidResponseError) else 0


def _never_connected(exc: BaseException) -> bool:
    """Whether every failure behind `exc` was one to connect. Clearing up after a broken write fails in its own way."""
    seen: list[BaseException] = []
    waiting: list[BaseException | None] = [exc]
    while waiting:
        one = waiting.pop()
        if one is not None and one not in seen:
            seen.append(one)
            waiting += [one.__cause__, one.__context__, getattr(one, "reason", None)]
    ours = [one for one in seen if isinstance(one, HTTPError | MinioException) and not isinstance(one, MaxRetryError)]
    return bool(ours) and all(isinstance(one, NewConnectionError | ConnectTimeoutError) for one in ours)
