"""What processes have counted goes on counting when they are dead, in files no more than processes at one time."""

import os
import subprocess
import sys
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

ROUNDS = 334

# A service that recycles three children at a time: each counts, and is killed. What it shows never falls.
SERVICE = """
import os, signal, sys
from prometheus_client import generate_latest
from duckmesh.kernel import metrics

ready, tell = os.pipe()

def count_and_wait():
    metrics.ingest_records.inc()
    metrics.claim_batch_size.observe(3)
    metrics.tasks.labels(f"task{os.getpid() % 3}", "failed").inc()
    os.write(tell, b".")
    signal.pause()

def shown():
    return metrics.service_registry().get_sample_value("duckmesh_ingest_records_total")

metrics.ingest_records.inc()
for round in range(int(sys.argv[1])):
    children = []
    for _ in range(3):
        child = os.fork()
        if not child:
            count_and_wait()
        children.append(child)
    for _ in children:
        os.read(ready, 1)
    for child in children:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    if round % 50 == 0:
        assert shown() == 1 + 3 * (round + 1), (round, shown())
print(generate_latest(metrics.service_registry()).decode())
"""


def test_a_thousand_processes_that_were_killed_have_counted_and_left_no_files(tmp_path: Path) -> None:
    service = subprocess.run(
        [sys.executable, "-c", SERVICE, str(ROUNDS)],
        env={**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)},
        check=True,
        capture_output=True,
        text=True,
        timeout=120,
    )
    samples = [sample for family in text_string_to_metric_families(service.stdout) for sample in family.samples]
    totals: dict[str, float] = {}
    for sample in samples:
        totals[sample.name] = totals.get(sample.name, 0) + sample.value
    assert totals["duckmesh_ingest_records_total"] == 1 + 3 * ROUNDS
    assert totals["duckmesh_tasks_total"] == totals["duckmesh_claim_batch_size_count"] == 3 * ROUNDS
    found = {path.name for path in tmp_path.iterdir()}
    assert found == {"slots", *(f"{kind}_{slot}.db" for kind in ("counter", "histogram") for slot in range(4))}
