"""The families of errors. A plane raises a concrete one with a stable code; `api.problems` alone knows HTTP.

`context` is data for the caller. It never holds a path of the server, a DSN, our SQL or anything of another tenant.
"""

from typing import ClassVar

JSON = str | int | float | bool | None | list["JSON"] | dict[str, "JSON"]


class DuckMeshError(Exception):
    """Something the caller can be told about by name."""

    code: ClassVar[str] = "INTERNAL"
    status: ClassVar[int | None] = None  # only where the contract fixes another status than the family's
    retryable: ClassVar[bool] = False

    def __init__(self, message: str, *, retry_after: float | None = None, **context: JSON) -> None:
        super().__init__(message)
        self.message = message
        self.retry_after = retry_after
        self.context: dict[str, JSON] = context


class NotFound(DuckMeshError):
    """The named thing does not exist, or belongs to somebody else."""

    code = "NOT_FOUND"


class Conflict(DuckMeshError):
    """The request disagrees with the present state."""

    code = "CONFLICT"


class Invalid(DuckMeshError):
    """The request can never succeed as it is."""

    code = "INVALID_REQUEST"


class Denied(DuckMeshError):
    """The caller may not do this."""

    code = "FORBIDDEN"


class LimitExceeded(DuckMeshError):
    """A bound was reached; later, or with less, it may succeed."""

    code = "RATE_LIMITED"
    retryable = True


class Unavailable(DuckMeshError):
    """Something we depend on does not answer; nothing was done, try again."""

    code = "DEPENDENCY_UNAVAILABLE"
    retryable = True


class OutcomeUnknown(DuckMeshError):
    """A write may or may not have happened: look before you retry."""

    code = "DEPENDENCY_UNAVAILABLE"
    retryable = True


class Corrupt(DuckMeshError):
    """What is stored contradicts itself; a human must look."""

    code = "CORRUPT"
