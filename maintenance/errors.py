"""What can go wrong with maintenance."""

from duckmesh.kernel.errors import Conflict, Corrupt, Unavailable


class RewriteUnproven(Corrupt):
    """A rewritten file does not hold exactly the rows of the files it was to replace; it was not published."""

    code = "REWRITE_UNPROVEN"


class RewriteTooSlow(Unavailable):
    """The rewrite took longer than an attempt may; nothing was published, its objects are orphans."""

    code = "REWRITE_TOO_SLOW"


class RunCancelled(Conflict):
    """Somebody asked for the run to stop; what it had finished stays."""

    code = "RUN_CANCELLED"


class RunLost(Conflict):
    """Another process has taken the run over; whatever this one still does must not count."""

    code = "RUN_LOST"


class RunPaused(Conflict):
    """The process must give its time back; the run goes on from its cursor, in any process."""

    code = "RUN_PAUSED"
