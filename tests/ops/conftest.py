"""A stack of all programs under traffic, with a real Prometheus and a real Alertmanager that look at it."""

import json
import re
import shutil
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from duckmesh.devstack.programs import LOOPBACK, Program, check_alive, free_port, spawn, stop
from duckmesh.devstack.prometheus import write_configuration
from duckmesh.kernel.config import ROOT
from tests.stack import Stack

EXPORTING = ("worker-materialize", "worker-maintenance", "worker-drill", "beat")
SECONDS = 40


@dataclass
class Heard:
    """What a receiver of Alertmanager's has been sent, by the last part of its address."""

    alerts: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)

    def of(self, alert: str) -> set[tuple[str, str]]:
        """The receivers that heard of the alert, and in which states."""
        return {(receiver, status) for receiver, status, labels in self.alerts if labels["alertname"] == alert}


@dataclass(frozen=True)
class Monitored:
    """The stack, its Prometheus, and who is told of alerts."""

    stack: Stack
    prometheus: str
    heard: Heard

    def query(self, expr: str) -> list[dict[str, Any]]:
        """What the expression gives now; a wrong one raises."""
        path = "/api/v1/query?" + urllib.parse.urlencode({"query": expr})
        result: list[dict[str, Any]] = fetch_json(self.prometheus + path)["data"]["result"]
        return result

    def firing(self) -> set[str]:
        """The names of the alerts that fire now."""
        alerts = fetch_json(self.prometheus + "/api/v1/alerts")["data"]["alerts"]
        return {alert["labels"]["alertname"] for alert in alerts if alert["state"] == "firing"}


def fetch_json(url: str) -> dict[str, Any]:
    """The document at this address."""
    with urllib.request.urlopen(url, timeout=10) as answer:
        found: dict[str, Any] = json.load(answer)
        return found


def wait_until(true: Callable[[], bool], what: str, *, seconds: float = SECONDS) -> None:
    """It has become true."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, what
        time.sleep(0.2)


@pytest.fixture(scope="package")
def monitored(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Monitored]:
    directory = tmp_path_factory.mktemp("monitoring")
    heard = Heard()
    with Stack(programs=("runners", "api", *EXPORTING), exporting=EXPORTING) as stack, receiver(heard) as told:
        alertmanager = f"{LOOPBACK}:{free_port()}"
        with running(alertmanager_program(directory, alertmanager, told), directory):
            prometheus = f"{LOOPBACK}:{free_port()}"
            with running(prometheus_program(directory, stack, prometheus, alertmanager), directory):
                found = Monitored(stack=stack, prometheus=f"http://{prometheus}", heard=heard)
                wait_until(lambda: answers(f"{found.prometheus}/-/ready"), "Prometheus is ready")
                cause_traffic(stack)
                wait_until(lambda: len(found.query("up == 1")) == 1 + len(EXPORTING), "all targets are scraped")
                cause_traffic(stack)
                cause_run(stack)
                wait_until(lambda: bool(found.query("duckmesh:errors:ratio_6h")), "rules are evaluated")
                yield found


def cause_traffic(stack: Stack) -> None:
    """Writes and queries, some of which go wrong, so that every metric has something to show."""
    with stack.api() as api:
        columns = {"columns": [{"name": "a", "type": "int64"}]}
        api.call("POST", "/v1/tables", {"table_name": "t", "schema_json": columns})
        records = [{"idempotency_key": str(number), "payload": {"a": number}} for number in range(10)]
        assert api.call("POST", "/v1/ingest/t", {"records": records, "wait_for_visibility": True}).status == 200
        assert api.call("POST", "/v1/query", {"sql": "FROM t", "min_visibility_token": 1}).status == 200
        assert api.call("POST", "/v1/query", {"sql": "nonsense"}).status == 400


def cause_run(stack: Stack) -> None:
    """A run succeeds, so that there is a last one."""
    run = stack.manage("retention")
    assert run.returncode == 0, run.stderr


def answers(url: str) -> bool:
    """Whether somebody answers 200 there."""
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def prometheus_program(directory: Path, stack: Stack, address: str, alertmanager: str) -> Program:
    """Prometheus with the product's configuration, only in a greater hurry."""
    workers = {name: url for name, url in stack.metrics_urls.items() if name != "api"}
    config = write_configuration(
        directory / "prometheus", base_url=stack.base_url, metrics_urls=workers, alertmanagers=(alertmanager,)
    )
    config.write_text(config.read_text().replace("interval: 15s", "interval: 1s"))
    for rules in (config.parent / "rules").iterdir():
        rules.write_text(re.sub(r"for: \d+m\b", "for: 1s", rules.read_text()))
    options = [f"--config.file={config}", f"--storage.tsdb.path={directory}/data", f"--web.listen-address={address}"]
    return Program(name="prometheus", argv=(which("prometheus"), *options), cwd=directory)


def alertmanager_program(directory: Path, address: str, told: str) -> Program:
    """Alertmanager with the product's configuration, its receivers at the test's address, and no patience."""
    text = (ROOT / "deploy" / "alertmanager" / "alertmanager.yml").read_text()
    text = text.replace("alert-receiver:8081", told)
    config = directory / "alertmanager.yml"
    config.write_text(re.sub(r"(group_wait|group_interval): \w+", r"\1: 1s", text))
    options = [f"--config.file={config}", f"--storage.path={directory}/alertmanager"]
    options += [f"--web.listen-address={address}", "--cluster.listen-address="]
    return Program(name="alertmanager", argv=(which("prometheus-alertmanager"), *options), cwd=directory)


def which(program: str) -> str:
    """Where the program is; `make test-ops` has seen to it that it is there."""
    found = shutil.which(program)
    assert found is not None, f"{program} is missing: run these tests by `make test-ops`"
    return found


@contextmanager
def running(program: Program, directory: Path) -> Iterator[None]:
    """The program runs during the block."""
    log = directory / f"{program.name}.log"
    process = spawn(program, run=directory, log=log)
    try:
        time.sleep(0.5)
        check_alive(process, program, log)
        yield
    finally:
        stop(process, program)


@contextmanager
def receiver(heard: Heard) -> Iterator[str]:
    """An HTTP server that Alertmanager tells of alerts; its host and port."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            name = self.path.rpartition("/")[2]
            heard.alerts.extend((name, alert["status"], alert["labels"]) for alert in body["alerts"])
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Nothing."""

    server = ThreadingHTTPServer((LOOPBACK, 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"{LOOPBACK}:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
