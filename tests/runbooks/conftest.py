"""One stack that is broken in many ways, with a Prometheus in a hurry, and an operator who follows the pages."""

import os
import re
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg2
import pytest

from duckmesh.devstack.http import Answer
from duckmesh.devstack.programs import LOOPBACK, Program, free_port
from duckmesh.devstack.prometheus import write_configuration
from duckmesh.kernel.config import ROOT
from tests.ops.conftest import EXPORTING, Heard, Monitored, answers, running, wait_until, which
from tests.runbooks.pages import Block, Page, read_page
from tests.stack import Stack

SETTINGS = {
    "DUCKMESH_LEASE": "2s",
    "DUCKMESH_RUN_LEASE": "2s",
    "DUCKMESH_FLUSH_INTERVAL": "100ms",
    "DUCKMESH_RETRY_PAUSE": "50ms",
    "DUCKMESH_COMPACTION_MIN_INPUT_FILES": "8",
}
# What a rule waits for and how much it bears is less here; what it looks at is the same.
HURRY = {
    r"for: \d+[mh]\b": "for: 1s",
    r"\[(5m|10m|30m|1h|6h)\]": "[15s]",
    r"duckmesh_visibility_lag_ms\) > 30000": "duckmesh_visibility_lag_ms) > 2000",
    r"duckmesh_compaction_files_waiting\)\) > 1000": "duckmesh_compaction_files_waiting)) > 5",
    r"query_ms:p95_5m > 2000": "query_ms:p95_5m > 300",
}
BLOCK_SECONDS = 180
SETTLE_SECONDS = 120

RESTART = """#!/bin/sh
: > "{requests}/$1.asked"
while [ -e "{requests}/$1.asked" ]; do sleep 0.05; done
"""


@dataclass
class Operator:
    """Follows pages on the stack. `$RESTART PROGRAM` and `$STOP PROGRAM` of the pages come back to this thread."""

    monitored: Monitored
    directory: Path
    aside: dict[str, Path] = field(default_factory=dict)

    @property
    def stack(self) -> Stack:
        """What the pages are followed on."""
        return self.monitored.stack

    def follow(self, name: str, *, meanwhile: Callable[[], None] | None = None, **variables: str) -> None:
        """Every command of the page has run in its order and shown what the page says it shows.

        `meanwhile` happens between what is done and the proof that it has helped.
        """
        page = read_page(name)
        for heading, again in (("Check", True), ("Act", False), ("Confirm", True)):
            if heading == "Confirm" and meanwhile is not None:
                meanwhile()
            for block in page.blocks(heading):
                self._do(page, block, variables, again=again)

    def _do(self, page: Page, block: Block, variables: Mapping[str, str], *, again: bool) -> None:
        deadline = time.monotonic() + SETTLE_SECONDS
        while True:
            status, output = self._run(block.commands, variables)
            if status == 0 and block.agrees(output):
                return
            told = f"{page.name}: status {status} of\n{block.commands}\nprinted\n{output}\nnot\n{block.expected}"
            assert again, told
            assert time.monotonic() < deadline, told
            time.sleep(0.5)

    def _run(self, commands: str, variables: Mapping[str, str]) -> tuple[int, str]:
        output = self.directory / "output"
        with output.open("wb") as file:
            shell = subprocess.Popen(
                ["bash", "-euo", "pipefail", "-c", commands],
                cwd=ROOT,
                env=self.environ() | variables,
                stdout=file,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
            )
            deadline = time.monotonic() + BLOCK_SECONDS
            while shell.poll() is None:
                self._obey()
                if time.monotonic() > deadline:
                    shell.kill()
                time.sleep(0.02)
            self._obey()
        return shell.returncode, output.read_text("utf-8", "replace")

    def environ(self) -> dict[str, str]:
        """What runbooks/README.md tells the operator to set, for this stack."""
        return self.stack.environ() | {
            "API": self.stack.base_url,
            "KEY": self.stack.key,
            "TENANT": self.stack.tenant,
            "DB": self.stack.config.database_url,
            "BACKUPS": str(self.directory / "backups"),
            "RESTART": str(self.directory / "restart"),
            "STOP": str(self.directory / "stop"),
            "PATH": os.environ["PATH"],
        }

    def _obey(self) -> None:
        for deed in ("restart", "stop"):
            for asked in (self.directory / f"{deed}-requests").iterdir():
                getattr(self, deed)(asked.stem)
                asked.unlink()

    def restart(self, name: str) -> None:
        """The program has been started anew, without failpoints; of the object store, it answers again."""
        if name == "minio":
            self.objects.unlink()
            self.aside.pop("objects").rename(self.objects)
            return
        self.stop(name)
        self.stack.start(name, failpoints="")
        if name == "api":
            self.stack.await_ready(seconds=SETTLE_SECONDS)

    def stop(self, name: str) -> None:
        """The program does not run."""
        if self.stack.runs(name):
            self.stack.thaw(name)
            self.stack.stop(name)

    @property
    def objects(self) -> Path:
        """Where the store keeps its objects."""
        return self.stack.home.root / "objects"

    def take_store_away(self) -> None:
        """The object store does not answer until `$RESTART minio`."""
        self.aside["objects"] = self.objects.rename(self.objects.with_name("objects-aside"))
        self.objects.touch()  # no directory any more

    def sql(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        """What the statement gives, behind the back of the service."""
        server = psycopg2.connect(self.stack.config.database_url)
        with closing(server), server, server.cursor() as cursor:
            cursor.execute(statement, values)
            return cursor.fetchall() if cursor.description else []

    def file_of(self, table: str) -> str:
        """The key of the table's one data file."""
        files = "SELECT path FROM data_file JOIN table_def USING (table_id) WHERE name = %s"
        ((path,),) = self.sql(files, table)
        return str(path)

    def write(self, table: str, *identities: str, wait: bool = False) -> int:
        """One request is accepted; its token."""
        records = [{"idempotency_key": identity, "payload": {"id": identity}} for identity in identities]
        with self.stack.api() as api:
            answer = api.call("POST", f"/v1/ingest/{table}", {"records": records, "wait_for_visibility": wait})
        assert answer.status == 200, answer.json()
        token: int = answer.json()["max_visibility_token"]
        return token

    def table(self, name: str) -> str:
        """An empty table of this name."""
        schema = {"columns": [{"name": "id", "type": "string"}]}
        with self.stack.api() as api:
            assert api.call("POST", "/v1/tables", {"table_name": name, "schema_json": schema}).status == 201
        return name

    def query(self, asked: dict[str, object]) -> Answer:
        """The answer to the query, over a connection of its own."""
        with self.stack.api() as api:
            return api.call("POST", "/v1/query", asked)

    def ids(self, table: str) -> list[str]:
        """What a query of the table's latest snapshot shows."""
        answer = self.query({"sql": f"SELECT id FROM {table} ORDER BY id"})
        assert answer.status == 200, answer.body
        return [row[0] for row in answer.json()["rows"]]

    def ask(self, address: str, **body: object) -> None:
        """A run is asked for, and not waited for."""
        with self.stack.api() as api:
            answer = api.call("POST", address, {"wait_seconds": 0, **body})
        assert answer.status == 202, answer.body

    def exchange_payload(self, token: int, payload: bytes) -> bytes:
        """The waiting write with this token has another payload; what it was."""
        one = "(SELECT event_id FROM ingest_event WHERE tenant_id = %s AND last_token = %s)"
        where = (self.stack.tenant, token)
        ((before,),) = self.sql(f"SELECT payload FROM ingest_payload WHERE event_id = {one}", *where)
        self.sql(f"UPDATE ingest_payload SET payload = %s WHERE event_id = {one}", psycopg2.Binary(payload), *where)
        return bytes(before)

    def die_at(self, name: str, failpoint: str) -> None:
        """The program runs anew, and what comes to this place stands still there."""
        self.stop(name)
        self.stack.start(name, failpoints=f"{failpoint}=stop")

    def wait_to_find(self, statement: str) -> None:
        """The statement finds something."""
        wait_until(lambda: bool(self.sql(statement)), statement, seconds=SETTLE_SECONDS)

    def wait_for(self, *alerts: str) -> None:
        """These alerts fire."""
        for alert in alerts:
            wait_until(lambda: alert in self.monitored.firing(), f"{alert} fires", seconds=SETTLE_SECONDS)  # noqa: B023

    def wait_for_quiet(self, name: str) -> None:
        """None of the page's alerts fires any more."""
        page = read_page(name)
        wait_until(lambda: not page.alerts & self.monitored.firing(), f"{name} is over", seconds=SETTLE_SECONDS)


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
