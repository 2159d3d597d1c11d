"""A drill in a process of its own, for tests that kill it: `python -m tests.driller LAKE`."""

import sys
from pathlib import Path

import django

if __name__ == "__main__":
    django.setup()
    from maintenance.drill.job import DrillOptions, DrillPolicy, perform
    from maintenance.job import Scope
    from tests.backups import PROGRAMS, workplace
    from tests.lake import Lake
    from tests.progress import Recorder

    place = workplace(Lake(Path(sys.argv[1])))
    policy = DrillPolicy(programs=PROGRAMS)
    perform(scope=Scope(), options=DrillOptions(), place=place, policy=policy, progress=Recorder())
