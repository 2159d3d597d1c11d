"""One stack that is broken in many ways, with a Prometheus in a hurry; both of each process that runs the pages."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from duckmesh.devstack.programs import LOOPBACK, Program, free_port
from duckmesh.devstack.prometheus import write_configuration
from tests.ops.conftest import EXPORTING, Heard, Monitored, answers, running, wait_until, which
from tests.runbooks.operator import SETTLE_SECONDS, Operator
from tests.stack import Stack

SETTINGS = {
    "DUCKMESH_LEASE": "2s",
    "DUCKMESH_RUN_LEASE": "2s",
    "DUCKMESH_FLUSH_INTERVAL": "100ms",
    "DUCKMESH_RETRY_PAUSE": "50ms",
    "DUCKMESH_COMPACTION_MIN_INPUT_FILES": "8",
    "DUCKMESH_MAX_BUS_BYTES": "256KiB",
}
# What a rule waits for and how much it bears is less here; what it looks at is the same.
HURRY = {
    r"for: \d+[mh]\b": "for: 1s",
    r"\[(5m|10m|30m|1h|6h)\]": "[15s]",
    r"duckmesh_visibility_lag_ms\) > 30000": "duckmesh_visibility_lag_ms) > 2000",
    r"duckmesh_compaction_files_waiting\)\) > 1000": "duckmesh_compaction_files_waiting)) > 5",
    r"query_ms:p95_5m > 2000": "query_ms:p95_5m > 300",
    r"write_to_visible_ms:p95_5m > 3000": "write_to_visible_ms:p95_5m > 500",
    r"duckmesh_ingest_lag_events\)\) > 1000000": "duckmesh_ingest_lag_events)) > 5",
    r"duckmesh_queue_oldest_message_seconds(\{.+\})\) > 30": r"duckmesh_queue_oldest_message_seconds\1) > 1",
    r"duckmesh_oldest_queued_run_seconds\) > 4 \* 3600": "duckmesh_oldest_queued_run_seconds) > 1",
    r"duckmesh_database_connections_limit\) > 0.85": "duckmesh_database_connections_limit) > 0.25",
}
RESTART = """#!/bin/sh
: > "{requests}/$1.asked"
while [ -e "{requests}/$1.asked" ]; do sleep 0.05; done
"""


@pytest.fixture(scope="package")
def operator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operator]:
    directory = tmp_path_factory.mktemp("runbooks")
    for deed in ("restart", "stop"):
        requests = directory / f"{deed}-requests"
        requests.mkdir()
        script = directory / deed
        script.write_text(RESTART.format(requests=requests))
        script.chmod(0o755)
    (directory / "backups").mkdir()
    programs = ("runners", "api", *EXPORTING)
    with Stack(programs=programs, settings=SETTINGS, exporting=EXPORTING) as stack, prometheus(directory, stack) as url:
        yield Operator(monitored=Monitored(stack=stack, prometheus=url, heard=Heard()), directory=directory)


@contextmanager
def prometheus(directory: Path, stack: Stack) -> Iterator[str]:
    """A Prometheus with the product's configuration looks at the stack each second; its address."""
    workers = {name: url for name, url in stack.metrics_urls.items() if name != "api"}
    config = write_configuration(directory / "prometheus", base_url=stack.base_url, metrics_urls=workers)
    config.write_text(config.read_text().replace("interval: 15s", "interval: 1s"))
    rules = sorted((config.parent / "rules").iterdir())
    for found, less in HURRY.items():
        changed = [(path, re.subn(found, less, path.read_text())) for path in rules]
        assert any(count for _, (_, count) in changed), found
        for path, (text, _) in changed:
            path.write_text(text)
    address = f"{LOOPBACK}:{free_port()}"
    options = [f"--config.file={config}", f"--storage.tsdb.path={directory}/data", f"--web.listen-address={address}"]
    program = Program(name="prometheus", argv=(which("prometheus"), *options), cwd=directory)
    with running(program, directory):
        wait_until(lambda: answers(f"http://{address}/-/ready"), "Prometheus is ready")
        yield f"http://{address}"


@pytest.fixture(autouse=True)
def whole(operator: Operator) -> Iterator[None]:
    """What a page has not repaired is no trouble of the next one."""
    yield
    if "objects" in operator.aside:
        operator.restart("minio")
    for name in ("postgres", "redis", "runners", "api", *EXPORTING):
        if not operator.stack.runs(name):
            operator.stack.start(name, failpoints="")
    operator.sql("UPDATE service_mode SET mode = 'normal'")
    operator.stack.await_ready(seconds=SETTLE_SECONDS)
