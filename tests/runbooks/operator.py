"""An operator who follows the pages on a stack, and what they can do to it, for good and ill."""

import os
import secrets
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg2

from duckmesh.devstack.http import Answer
from duckmesh.kernel.config import ROOT
from tests.clusters import query
from tests.ops.conftest import Monitored, wait_until
from tests.runbooks.pages import Block, Page, read_page
from tests.stack import Stack

BLOCK_SECONDS = 180
SETTLE_SECONDS = 120


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
            "DB": self.stack.config.owner_database_url or "",
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

    def restart(self, name: str, *, failpoints: str = "") -> None:
        """The program has been started anew, with these failpoints; of the object store, it answers again."""
        if name == "minio":
            self.objects.unlink()
            self.aside.pop("objects").rename(self.objects)
            return
        self.stop(name)
        self.stack.start(name, failpoints=failpoints)
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
        return query(self.stack.superusers, statement, values)

    def file_of(self, table: str) -> str:
        """The key of the table's one data file."""
        files = "SELECT path FROM data_file JOIN table_def USING (table_id) WHERE name = %s"
        ((path,),) = self.sql(files, table)
        return str(path)

    def write(self, table: str, *identities: str, wait: bool = False) -> int:
        """One request is accepted, later if it is told so; its token."""
        records = [{"idempotency_key": identity, "payload": {"id": identity}} for identity in identities]
        with self.stack.api() as api:
            answer = api.call("POST", f"/v1/ingest/{table}", {"records": records, "wait_for_visibility": wait})
            if answer.status == 503:  # what was short before this page, the API knows for some seconds yet
                time.sleep(float(answer.headers["retry-after"]))
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

    def slow_write(self, table: str) -> None:
        """One request is acknowledged late, because another session keeps PostgreSQL from committing it."""
        holding = psycopg2.connect(self.stack.superusers)
        with closing(holding), ThreadPoolExecutor(1) as aside:
            with holding, holding.cursor() as cursor:
                cursor.execute("LOCK TABLE ingest_event IN SHARE MODE")
                waiting = aside.submit(self.write, table, secrets.token_hex(8))
                time.sleep(0.4)
            waiting.result()

    def write_much(self, table: str) -> None:
        """More is accepted than the bus may hold."""
        records = [{"payload": {"id": secrets.token_hex(2_000)}} for _ in range(200)]
        with self.stack.api() as api:
            assert api.call("POST", f"/v1/ingest/{table}", {"records": records}).status == 200

    @contextmanager
    def crowd(self, size: int) -> Iterator[None]:
        """So many sessions are open, which do nothing."""
        with ExitStack() as sessions:
            for _ in range(size):
                sessions.enter_context(closing(psycopg2.connect(self.stack.superusers)))
            yield

    def fail_over(self) -> None:
        """PostgreSQL runs, on a new timeline: as one that has recovered to the end of its archive."""
        data = self.stack.postgres.data
        with (data / "postgresql.auto.conf").open("a") as file:
            file.write("restore_command = 'false'\n")
        signal = data / "recovery.signal"
        signal.touch()
        os.chown(signal, data.stat().st_uid, data.stat().st_gid)
        self.stack.start("postgres")

    def wait_to_find(self, statement: str) -> None:
        """The statement finds something."""
        wait_until(lambda: bool(self.sql(statement)), statement, seconds=SETTLE_SECONDS)

    def wait_for(self, *alerts: str) -> None:
        """These alerts fire."""
        for alert in alerts:
            wait_until(lambda: alert in self.monitored.firing(), f"{alert} fires", seconds=SETTLE_SECONDS)  # noqa: B023

    def keep(self, alert: str, deed: Callable[[], object]) -> None:
        """The deed has been done, once a scrape, until the alert fires: a rate is known of what goes on only."""

        def fires() -> bool:
            deed()
            time.sleep(0.5)
            return alert in self.monitored.firing()

        wait_until(fires, f"{alert} fires", seconds=SETTLE_SECONDS)

    def wait_for_quiet(self, name: str) -> None:
        """None of the page's alerts fires any more."""
        page = read_page(name)
        wait_until(lambda: not page.alerts & self.monitored.firing(), f"{name} is over", seconds=SETTLE_SECONDS)
