"""One materialise task in a process of its own, for tests that kill it: `python -m tests.worker TENANT ROOT`."""

import sys
from pathlib import Path

import django

if __name__ == "__main__":
    django.setup()
    from tests.lake import Lake

    tenant_id, root = sys.argv[1:]
    print(Lake(Path(root)).materialize(tenant_id), flush=True)
