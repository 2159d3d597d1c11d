"""A full compaction in a process of its own, for tests that kill it or measure it: `-m tests.compactor TENANT ROOT`."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import django
from django.conf import settings
from django.db import connection

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True, kw_only=True)
class Apart:
    """What the process says of itself: the most memory that it held, and how long it worked."""

    slices: int
    peak_bytes: int
    seconds: float


def run_compactor(tenant_id: str, root: Path, *, failpoints: str = "", timeout: float = 60) -> tuple[int, str]:
    """Exit status and output of a full compaction, on the database of this test."""
    address, _ = settings.DUCKMESH.database_url.rsplit("/", 1)
    environment = {
        **os.environ,
        "DUCKMESH_DATABASE_URL": f"{address}/{connection.settings_dict['NAME']}",
        "DUCKMESH_FAILPOINTS": failpoints,
    }
    command = [sys.executable, "-m", "tests.compactor", tenant_id, str(root)]
    done = subprocess.run(
        command, cwd=ROOT, env=environment, timeout=timeout, check=False, stdout=subprocess.PIPE, text=True
    )
    return done.returncode, done.stdout


def compacted_apart(root: Path, tenant_id: str) -> Apart:
    """The tenant's table is compacted as far as it can be, within the memory that is configured."""
    status, told = run_compactor(tenant_id, root, timeout=7_000)
    assert status == 0, signal.strsignal(-status) if status < 0 else status
    return Apart(**json.loads(told.splitlines()[-1]))


def main() -> None:
    """The table `events` is compacted."""
    django.setup()
    from maintenance.compaction import CompactionOptions, CompactionSettings, perform
    from maintenance.job import Scope, Workplace
    from tests.lake import Lake
    from tests.progress import Recorder

    tenant_id, root = sys.argv[1:]
    lake, started = Lake(Path(root)), time.monotonic()
    summary = perform(
        scope=Scope(tenant_id=tenant_id),
        options=CompactionOptions(full=True),
        place=Workplace(store=lake.store, scratch=lake.root / "scratch"),
        settings=CompactionSettings.of(settings.DUCKMESH),
        progress=Recorder(),
    )
    slices = summary["slices"]
    assert isinstance(slices, int)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    done = Apart(slices=slices, peak_bytes=peak, seconds=time.monotonic() - started)
    print(json.dumps(asdict(done)), flush=True)


if __name__ == "__main__":
    main()
