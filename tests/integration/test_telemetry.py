"""Spans reach a collector, in the trace of the logs, without what errors say; and nothing is loaded without one."""

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from duckmesh.kernel.config import ROOT
from tests.environments import environment

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = "00f067aa0ba902b7"

# Runs with what requirements/otel.txt names beside the packages of the tests.
PROGRAM = f"""
import sys
from duckmesh.kernel import traces, telemetry
telemetry.export_spans(endpoint=sys.argv[1])
with traces.working_for(["{TRACE}"]):
    with telemetry.traced("request", parent="00-{TRACE}-{PARENT}-01"):
        with telemetry.timed("runner", tenant_id="demo"):
            pass
    try:
        with telemetry.traced("materialise"):
            raise ValueError("canary")
    except ValueError:
        pass
telemetry._State.tracer.span_processor.force_flush()
"""


@contextmanager
def collector() -> Iterator[tuple[str, list[bytes]]]:
    """An address that takes what is posted to it, and what was."""
    taken: list[bytes] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            taken.append(self.path.encode() + b"\n" + self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Quiet."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", taken
        finally:
            server.shutdown()
            thread.join()


def test_without_an_endpoint_nothing_of_opentelemetry_is_loaded() -> None:
    program = (
        "import sys, json, django; django.setup(); import duckmesh.celery, duckmesh.urls, duckmesh.wsgi\n"
        "from duckmesh.kernel.telemetry import traced\n"
        "with traced('request'): pass\n"
        "print(json.dumps([name for name in sys.modules if name.startswith('opentelemetry')]))"
    )
    ran = subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, capture_output=True, text=True)
    assert json.loads(ran.stdout) == []


def test_an_endpoint_without_the_packages_is_told_before_anything_starts(tmp_path: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", "import django; django.setup()"],
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
        env={
            "DJANGO_SETTINGS_MODULE": "duckmesh.settings",
            "DUCKMESH_HOME": str(tmp_path),
            "DUCKMESH_OTLP_ENDPOINT": "http://127.0.0.1:4318",
        },
    )
    assert ran.returncode == 1
    assert "requirements/otel.txt" in ran.stderr


@pytest.mark.long
def test_spans_reach_a_collector_in_the_trace_of_the_logs() -> None:
    made = environment("otel", requirements=ROOT / "requirements" / "otel.txt")
    (packages,) = made.glob("lib/python3*/site-packages")
    with collector() as (address, taken):
        subprocess.run(
            [sys.executable, "-c", PROGRAM, address],
            cwd=ROOT,
            check=True,
            timeout=60,
            env={"PYTHONPATH": str(packages)},
        )
    everything = b"".join(taken)
    assert everything.startswith(b"/v1/traces\n")
    for wanted in (b"request", b"runner", b"materialise", b"ValueError", bytes.fromhex(TRACE), bytes.fromhex(PARENT)):
        assert wanted in everything, wanted
    assert b"canary" not in everything
