"""PostgreSQL clusters beside the test's own: standbys, copies and empty ones, on free ports, gone after their block."""

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg2
from django.conf import settings
from django.db import connection

from duckmesh.devstack.postgres import THROW_AWAY, UNPRIVILEGED, Postgres, binaries, data_directory
from duckmesh.devstack.programs import check_alive, free_port, spawn, stop
from tests.servers import start_janitor

PASSWORD = urlsplit(settings.DUCKMESH.database_url).password or ""


@dataclass
class Cluster:
    """A cluster of its own home. `settings` are added to those of throw-away servers when it starts."""

    home: Path
    port: int = field(default_factory=free_port)
    settings: Mapping[str, str] = field(default_factory=dict)
    _running: ExitStack = field(default_factory=ExitStack)

    @property
    def data(self) -> Path:
        return data_directory(self.home / "pg")

    @property
    def server(self) -> Postgres:
        return Postgres(data=self.data, port=self.port, password=PASSWORD, settings={**THROW_AWAY, **self.settings})

    def start(self) -> None:
        """It answers."""
        program, log = self.server.program(), self.home / "postgres.log"
        process = spawn(program, run=self.home, log=log)
        self._running.callback(stop, process, program)
        self.server.wait(check=partial(check_alive, process, program, log))

    def stop(self) -> None:
        """It is shut down cleanly."""
        self._running.close()

    def run(self, statement: str) -> list[tuple[object, ...]]:
        """A statement in its database `postgres`."""
        return query(self.server.url("postgres"), statement)

    def promote(self) -> None:
        """It is a standby no more."""
        self.run("SELECT pg_promote(true, 60)")

    @contextmanager
    def serving(self) -> Iterator[None]:
        """What Django's connections reach under the same name is the database of this cluster."""
        former = connection.settings_dict["PORT"]
        connection.close()
        connection.settings_dict["PORT"] = str(self.port)
        try:
            yield
        finally:
            connection.close()
            connection.settings_dict["PORT"] = former


@contextmanager
def cluster(**given: str) -> Iterator[Cluster]:
    """A cluster that has no data yet and does not run; it is gone after the block."""
    home = Path(tempfile.mkdtemp(prefix="duckmesh-cluster-"))
    home.chmod(0o711)
    made = Cluster(home=home, settings=given)
    start_janitor(home, made.data)
    try:
        yield made
    finally:
        made.stop()
        shutil.rmtree(made.data, ignore_errors=True)
        shutil.rmtree(home, ignore_errors=True)


def copy_of(source: str, target: Cluster, *options: str) -> None:
    """The target's data are a base backup of the server at `source`."""
    target.data.mkdir(mode=0o700, parents=True)
    if os.geteuid() == 0:
        shutil.chown(target.data, UNPRIVILEGED)
    program("pg_basebackup", f"--dbname={source}", "-D", str(target.data), "--checkpoint=fast", "--no-sync", *options)


def program(name: str, *arguments: str) -> None:
    """One of PostgreSQL's programs has succeeded, as the user that servers run as."""
    user = UNPRIVILEGED if os.geteuid() == 0 else None
    done = subprocess.run(
        [str(binaries() / name), *arguments],
        check=False,
        capture_output=True,
        text=True,
        cwd="/",
        stdin=subprocess.DEVNULL,
        user=user,
        extra_groups=None if user is None else [],
    )
    assert done.returncode == 0, done.stderr


Given = Sequence[object] | Mapping[str, object] | None


# `Any`: the driver's values.
def query(url: str, statement: str, given: Given = None) -> list[tuple[Any, ...]]:
    """The rows of a statement, if it has any, on a session of its own that commits it at once."""
    session = psycopg2.connect(url)
    session.autocommit = True
    try:
        with session.cursor() as cursor:
            cursor.execute(statement, given)
            return cursor.fetchall() if cursor.description else []
    finally:
        session.close()


def eventually(url: str, statement: str, *, seconds: float = 60) -> None:
    """The statement answers true."""
    deadline = time.monotonic() + seconds
    while not query(url, statement)[0][0]:
        assert time.monotonic() < deadline, statement
        time.sleep(0.05)
