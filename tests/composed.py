"""The programs of deploy/compose.yaml as processes of this machine: its commands, its environment, its order.

Names of services become ports of the loopback interface, volumes become directories, `python` the one that runs the
tests. PostgreSQL and Valkey are those of every test, Swift stands where MinIO would.
"""

import os
import re
import secrets
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import psycopg2
from psycopg2 import sql

from duckmesh.devstack.credentials import read_credentials
from duckmesh.devstack.programs import LOOPBACK, Program, free_port
from duckmesh.kernel.config import ROOT, Config, load_config
from tests import compose, swift
from tests.balancer import balanced
from tests.stack import Stack

HOME = "/var/lib/duckmesh"  # of the image
PROGRAMS = ("runners", "api", "worker-materialize", "worker-maintenance", "worker-drill", "beat", "flower")
MORE = ("runners-2", "api-2", "worker-materialize-2", "worker-materialize-3")
DATABASE_SECRETS = ("POSTGRES_PASSWORD", "POSTGRES_OWNER_PASSWORD", "POSTGRES_APP_PASSWORD")
PORTS = {"8080": "api", "9464": "metrics", "5555": "flower"}


class ComposeStack(Stack):
    """`Stack`, but every program is started as its service says."""

    names: Sequence[str] = PROGRAMS

    def __init__(self, *, settings: Mapping[str, str] | None = None, exporting: Sequence[str] = ()) -> None:
        assert set(exporting) <= set(self.names)  # all of them do
        super().__init__(programs=self.names, settings=settings)
        self.home.env_file.unlink()  # all that a container knows is in its environment
        self._outside = ExitStack()
        self._ports: dict[tuple[str, str], int] = {("api", "api"): self.port}

    def _begin(self) -> None:
        """Nothing is prepared but what the services prepare."""

    def __enter__(self) -> Self:
        service = self._outside.enter_context(swift.running_swift())
        self._addresses = {
            "postgres:5432": f"{LOOPBACK}:{self.postgres.port}",
            "redis:6379": f"{LOOPBACK}:{self.redis.port}",
            "minio:9000": service.host,
        }
        variables = {
            "DUCKMESH_SECRET_KEY": secrets.token_hex(32),
            **{name: secrets.token_hex(32) for name in DATABASE_SECRETS},
            "REDIS_PASSWORD": self.redis.password,
            "MINIO_ROOT_USER": swift.ACCESS_KEY,
            "MINIO_ROOT_PASSWORD": swift.SECRET_KEY,
            "FLOWER_PASSWORD": secrets.token_hex(32),
            "GRAFANA_PASSWORD": secrets.token_hex(32),
        }
        self._password = variables["POSTGRES_PASSWORD"]
        self.services: dict[str, compose.Service] = compose.read(variables)["services"]
        return super().__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, exc, trace)
        self._outside.close()

    @property
    def config(self) -> Config:
        """What the API's container is told."""
        return load_config(self.environ("api"))

    @property
    def metrics_urls(self) -> dict[str, str]:
        """Where the services show their metrics, as deploy/prometheus/targets says."""
        names = [name for name in self.names if name.startswith(("worker-", "beat"))]
        workers = {name: f"http://{LOOPBACK}:{self._port(name, 'metrics')}/metrics" for name in names}
        return {"api": f"http://{LOOPBACK}:{self.port}/v1/metrics", **workers}

    def prepare(self) -> None:
        """The database is there as the image of PostgreSQL makes it; then what `roles` and `migrate` do."""
        with psycopg2.connect(self.postgres.url("postgres")) as connection, connection.cursor() as cursor:
            statement = sql.SQL("CREATE ROLE duckmesh SUPERUSER LOGIN PASSWORD {}").format(sql.Literal(self._password))
            cursor.execute(statement)
        connection.close()
        connection = psycopg2.connect(self.postgres.url("postgres"))
        connection.autocommit = True
        connection.cursor().execute("CREATE DATABASE duckmesh OWNER duckmesh")
        connection.close()
        for name in ("roles", "migrate"):
            argv = self._argv(name, self._service(name)["command"])
            subprocess.run(argv, env=self.environ(name), cwd=ROOT, check=True, timeout=120)
        command = [sys.executable, "-m", "duckmesh.devstack.bootstrap"]
        subprocess.run(command, env=self._beside(), cwd=ROOT, check=True, timeout=120)
        self.credentials = read_credentials(self.home)

    def manage(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """`docker compose run migrate python manage.py …`."""
        command = [sys.executable, "manage.py", *arguments]
        return subprocess.run(
            command, env=self._beside(), cwd=ROOT, check=False, capture_output=True, text=True, timeout=120
        )

    def healthy(self, name: str) -> bool:
        """What the health check of the service says."""
        kind, *argv = self._service(name)["healthcheck"]["test"]
        assert kind == "CMD"
        return subprocess.run(self._argv(name, argv), env=self.environ(name), cwd=ROOT, check=False).returncode == 0

    def await_healthy(self, name: str, *, seconds: float = 120) -> None:
        """Its health check says so."""
        deadline = time.monotonic() + seconds
        while not self.healthy(name):
            self.check(name)
            assert time.monotonic() < deadline, name
            time.sleep(0.2)

    def environ(self, name: str = "") -> dict[str, str]:
        """The image's environment, the operator's deploy/duckmesh.env, and the service's own."""
        given = self._service(name or "migrate")["environment"]
        image = {"PATH": os.environ["PATH"], "DUCKMESH_HOME": HOME, "DUCKMESH_HOST": "0.0.0.0", "PYTHONUNBUFFERED": "1"}
        failpoints = {"DUCKMESH_FAILPOINTS": self._failpoints[name]} if name in self._failpoints else {}
        found = {**image, **self._settings, **given, **failpoints}
        return {key: self._here(str(value), name) for key, value in found.items()}

    def _beside(self) -> dict[str, str]:
        """Of a command beside the services, in the home where the tests look for what it leaves."""
        port = str(urlsplit(self.base_url).port)
        own = {"DUCKMESH_HOME": str(self.home.root), "DUCKMESH_HOST": LOOPBACK, "DUCKMESH_PORT": port}
        return self.environ("migrate") | own

    def _program(self, name: str) -> Program:
        service = self._service(name)
        return Program(
            name=name,
            argv=tuple(self._argv(name, service["command"])),
            cwd=ROOT,
            stop_seconds=int(service.get("stop_grace_period", "10s").removesuffix("s")),
        )

    def _service(self, name: str) -> dict[str, Any]:
        """One more worker of a queue is what `--scale` makes of its service; only its name must be another here."""
        return self.services.get(name) or self.services[name.rpartition("-")[0]]

    def _argv(self, name: str, command: Sequence[str]) -> list[str]:
        first, *rest = (self._here(word, name) for word in command)
        assert first == "python"
        scaled = name not in self.services and rest[-1] == name.rpartition("-")[0]
        return [sys.executable, *rest[:-1], name] if scaled else [sys.executable, *rest]

    def _here(self, text: str, name: str) -> str:
        for address, place in self._addresses.items():
            text = text.replace(address, place)
        text = text.replace(HOME, str(self._directory(name)))
        return re.sub(rf"\b({'|'.join(PORTS)})\b", lambda found: str(self._port(name, PORTS[found[1]])), text)

    def _directory(self, name: str) -> Path:
        """The volume of a service: the API's and its runners' is one."""
        if name in ("api", "runners"):
            return self.home.root
        return self.directory / name.replace("runners", "api")

    def _port(self, name: str, what: str) -> int:
        return self._ports.setdefault((name, what), free_port())


class ScaledStack(ComposeStack):
    """Two instances of the API and three workers that publish; who connects comes to one or the other in turn."""

    names = (*PROGRAMS, *MORE)

    def _start(self) -> None:
        instances = [(LOOPBACK, self._port(name, "api")) for name in ("api", "api-2")]
        self._front = self._outside.enter_context(balanced(instances))
        super()._start()
        for name in self.names:
            self.await_healthy(name)

    @property
    def base_url(self) -> str:
        """Where the balancer listens."""
        return f"http://{LOOPBACK}:{self._front}"
