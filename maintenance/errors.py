"""What can go wrong with maintenance."""

from duckmesh.kernel.errors import Corrupt, Unavailable


class RewriteUnproven(Corrupt):
    """A rewritten file does not hold exactly the rows of the files it was to replace; it was not published."""

    code = "REWRITE_UNPROVEN"


class RewriteTooSlow(Unavailable):
    """The rewrite took longer than an attempt may; nothing was published, its objects are orphans."""

    code = "REWRITE_TOO_SLOW"
