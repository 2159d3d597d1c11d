"""A full compaction in a process of its own, for tests that kill it: `python -m tests.compactor TENANT ROOT`."""

import sys
from pathlib import Path

import django

if __name__ == "__main__":
    django.setup()
    from tests.lake import Lake
    from tests.tables import compact

    tenant_id, root = sys.argv[1:]
    print(len(compact(Lake(Path(root)), tenant_id).slices), flush=True)
