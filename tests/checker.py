"""An integrity run in a process of its own, for tests that kill it: `python -m tests.checker RUN ROOT`."""

import sys
from pathlib import Path
from uuid import UUID

import django

if __name__ == "__main__":
    django.setup()
    from tests.integrity import run_here
    from tests.lake import Lake

    run_id, root = sys.argv[1:]
    run_here(Lake(Path(root)), UUID(run_id))
