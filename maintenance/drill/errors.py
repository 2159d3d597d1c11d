"""What can go wrong with a drill."""

from maintenance.errors import FoundProblems


class DrillFailed(FoundProblems):
    """The restored catalog is not the one that was dumped, or does not fit the object store."""

    code = "RESTORE_DRILL_FAILED"
