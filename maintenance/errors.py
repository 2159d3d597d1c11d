"""What can go wrong with maintenance."""

from collections.abc import Mapping

from duckmesh.kernel.errors import JSON, Conflict, Corrupt, Invalid, LimitExceeded, NotFound, Unavailable


class RewriteUnproven(Corrupt):
    """A rewritten file does not hold exactly the rows of the files it was to replace; it was not published."""

    code = "REWRITE_UNPROVEN"


class RewriteTooSlow(Unavailable):
    """The rewrite took longer than an attempt may; nothing was published, its objects are orphans."""

    code = "REWRITE_TOO_SLOW"


class RewriteNeedsRoom(Unavailable):
    """The disk has too little room for the rewrite; nothing was done."""

    code = "REWRITE_NEEDS_ROOM"


class RunCancelled(Conflict):
    """Somebody asked for the run to stop; what it had finished stays."""

    code = "RUN_CANCELLED"


class RunLost(Conflict):
    """Another process has taken the run over; whatever this one still does must not count."""

    code = "RUN_LOST"


class RunPaused(Conflict):
    """The process must give its time back; the run goes on from its cursor, in any process."""

    code = "RUN_PAUSED"


class RunNotFound(NotFound):
    """The tenant has no run with this id: there never was one, or its history is past its time."""

    code = "RUN_NOT_FOUND"


class RunEnded(Conflict):
    """The run cannot be cancelled because it has ended."""

    code = "RUN_ENDED"


class TooManyRuns(LimitExceeded):
    """As many runs of the tenant wait for their turn as may."""

    code = "BACKPRESSURE"


class RunWorkerLost(Unavailable):
    """The run was begun several times and came no further: its workers died, ran out of time or lost the database."""

    code = "RUN_WORKER_LOST"


class FoundProblems(Conflict):
    """A job came to its end and found what must not be. The run is failed, and keeps the summary."""

    code = "RUN_FOUND_PROBLEMS"

    def __init__(self, message: str, *, summary: Mapping[str, JSON]) -> None:
        super().__init__(message)
        self.summary = dict(summary)


class IntegrityCheckFailed(FoundProblems):
    """Catalog and object store disagree; the findings of the run say where."""

    code = "INTEGRITY_CHECK_FAILED"


class SafetyAgeTooShort(Invalid):
    """Files would be deleted while a query or an attempt to write may still read them."""

    code = "SAFETY_AGE_TOO_SHORT"


class IntegrityUnfinished(FoundProblems):
    """The object store refused or was not reachable for some of what was to be checked; the rest is as it should be."""

    code = "INTEGRITY_UNFINISHED"
    status = 503
    retryable = True
