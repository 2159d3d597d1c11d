"""The maintenance plane in a process of its own, for tests that kill it: `python -m tests.maintenance tick | run ID`.

The job of `run` saves its cursor, says one step and ends.
"""

import sys
import uuid
from collections.abc import Mapping

import django

if __name__ == "__main__":
    django.setup()
    from duckmesh.kernel.errors import JSON
    from duckmesh.kernel.failpoints import failpoint
    from maintenance.job import Kind, Progress
    from maintenance.schedule import request_due
    from tests.runs import job, run_here

    def work(progress: Progress) -> Mapping[str, JSON]:
        progress.save({"half": True})
        progress.step("half")
        failpoint("test.half")
        return {"whole": True}

    if sys.argv[1] == "tick":
        request_due({kind: job(kind=kind) for kind in Kind})
    else:
        run_here(uuid.UUID(sys.argv[2]), work)
