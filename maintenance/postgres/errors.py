"""What can go wrong with PostgreSQL's programs and with databases beside the catalog's."""

from duckmesh.kernel.errors import Conflict, Denied, Unavailable


class PostgresProgramMissing(Unavailable):
    """A program of PostgreSQL's that this needs is not on this machine."""

    code = "POSTGRES_PROGRAM_MISSING"


class PostgresProgramTooOld(Conflict):
    """A program of PostgreSQL's is older than the server: what it does not know would be missing from a dump."""

    code = "POSTGRES_PROGRAM_TOO_OLD"


class PostgresProgramFailed(Unavailable):
    """pg_dump or pg_restore has failed; what it made is not used."""

    code = "POSTGRES_PROGRAM_FAILED"


class DatabaseRefused(Denied):
    """The database role may not do what this needs."""

    code = "DATABASE_REFUSED"


class DatabaseInUse(Conflict):
    """Others keep using a database that must be theirs no more."""

    code = "DATABASE_IN_USE"
