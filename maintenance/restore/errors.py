"""What can go wrong when a catalog is adopted."""

from duckmesh.kernel.errors import Conflict


class ServerIsStandby(Conflict):
    """The PostgreSQL that answers is a standby, which takes no writes."""

    code = "SERVER_IS_STANDBY"
