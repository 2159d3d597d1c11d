"""A whole stack for one test module: the programs of `make up` as child processes on free ports, with a temporary home.

    with Stack() as stack:
        stack.api().call("GET", "/v1/tables")
        stack.kill("worker-materialize")

Every program can be stopped, killed, frozen and started again by its name. Nothing is left when the block ends, nor
when pytest is killed. Programs die with the thread that started them, so start them from the test's own thread.
"""

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

from duckmesh.devstack import addresses, processes
from duckmesh.devstack.credentials import Credentials, read_credentials
from duckmesh.devstack.http import Api
from duckmesh.devstack.layout import Home
from duckmesh.devstack.postgres import THROW_AWAY, Postgres, data_directory
from duckmesh.devstack.programs import LOOPBACK, Program, check_alive, free_port, spawn, stop
from duckmesh.devstack.redis import Redis
from duckmesh.devstack.stack import Running, is_ready
from duckmesh.kernel.config import ROOT, Config, load_config
from tests.prepared import prepared
from tests.servers import start_janitor

PROGRAMS = ("runners", "api", "worker-materialize", "beat")
ROLES = ("ingest_writer", "query_reader", "table_admin", "ops_admin")
SERVERS = ("postgres", "redis")
READY_SECONDS = 60


class Stack:
    """PostgreSQL, Redis and the programs named in `programs`, with a tenant `demo` and a key of every role.

    `settings` are DUCKMESH_* variables of all programs, `failpoints` maps a program's name to what DUCKMESH_FAILPOINTS
    says to it; workers and beat named in `exporting` show their metrics (`metrics_urls`). A program named
    `worker-materialize-2` is one more worker of the queue `materialize`.
    """

    def __init__(
        self,
        *,
        programs: Sequence[str] = PROGRAMS,
        settings: Mapping[str, str] | None = None,
        failpoints: Mapping[str, str] | None = None,
        exporting: Sequence[str] = (),
    ) -> None:
        self._names = list(programs)
        self._failpoints = dict(failpoints or {})
        self._settings = {"DUCKMESH_API_PROCESSES": "1", "DUCKMESH_MATERIALIZE_WORKERS": "1", **(settings or {})}
        self._running: dict[str, tuple[Program, subprocess.Popen[bytes]]] = {}
        self._spares: list[tuple[str, str]] = []
        self.directory = Path(tempfile.mkdtemp(prefix="duckmesh-test-"))
        self.directory.chmod(0o711)
        self.home = Home(self.directory / "home")
        self.home.claim()
        self.port = free_port()
        self._begin()
        memory = addresses.remember(self.home)
        self.postgres = Postgres(
            data=data_directory(self.home.root / "postgres"),
            port=memory.postgres_port,
            password=memory.postgres_password,
            settings=THROW_AWAY,
        )
        self.redis = Redis(data=self.home.root / "redis", port=memory.redis_port, password=memory.redis_password)
        start_janitor(self.directory, self.postgres.data)
        self._metrics_ports = {name: memory.metrics_ports[name] for name in exporting}
        chosen = addresses.Servers(postgres=self.postgres, redis=self.redis)
        addresses.write_stack_env(self.home, memory, chosen, {})

    def _begin(self) -> None:
        """The home and its database are as `make up` leaves them."""
        data = data_directory(self.home.root / "postgres")
        prepared().copy_to(self.home, data=data, base_url=self.base_url)
        self._spares = list(prepared().spares.items())

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _start(self) -> None:
        self.start("postgres")
        self.start("redis")
        self.prepare()
        for name in self._names:
            self.start(name)
        self.await_ready()

    def prepare(self) -> None:
        """The database holds the schema, the tenant and its key."""
        self.credentials: Credentials = read_credentials(self.home)

    @property
    def base_url(self) -> str:
        """Where the API listens."""
        return f"http://{LOOPBACK}:{self.port}"

    @property
    def metrics_urls(self) -> dict[str, str]:
        """Where the API and those named in `exporting` show their metrics."""
        workers = {name: f"http://{LOOPBACK}:{port}/metrics" for name, port in self._metrics_ports.items()}
        return {"api": f"{self.base_url}/v1/metrics", **workers}

    @property
    def publishers(self) -> list[str]:
        """The workers that run and publish."""
        return [name for name in self._running if name.startswith("worker-materialize")]

    @property
    def tenant(self) -> str:
        """The first tenant."""
        return self.credentials.tenant_id

    @property
    def key(self) -> str:
        """Its key of every role."""
        return self.credentials.api_key

    @property
    def superusers(self) -> str:
        """The database, as one whom nothing in it binds: what a test does behind the back of the service."""
        return self.postgres.url(addresses.DATABASE)

    @property
    def config(self) -> Config:
        """The configuration that the programs read."""
        return load_config(self.environ())

    def api(self, key: str | None = None, *, timeout: float = 60) -> Api:
        """A connection to the API, with the first tenant's key unless another is given."""
        return Api(self.base_url, key or self.key, timeout=timeout)

    def new_tenant(self) -> tuple[str, str]:
        """A tenant that nobody else has, and its key of every role."""
        if not self._spares:
            self._spares.append(self._make_tenant(f"more{secrets.token_hex(4)}"))
        return self._spares.pop()

    def _make_tenant(self, tenant_id: str) -> tuple[str, str]:
        self.manage("create_tenant", tenant_id).check_returncode()
        roles = [option for role in ROLES for option in ("--role", role)]
        made = self.manage("create_api_key", tenant_id, *roles, "--json")
        made.check_returncode()
        return tenant_id, json.loads(made.stdout)["api_key"]

    def environ(self, name: str = "") -> dict[str, str]:
        """The environment of the program `name`, or of a command beside the stack."""
        own = {key: value for key, value in os.environ.items() if not key.startswith(("DUCKMESH_", "DJANGO_"))}
        own.pop("PROMETHEUS_MULTIPROC_DIR", None)
        own |= {"DUCKMESH_HOME": str(self.home.root), "DUCKMESH_PORT": str(self.port), **self._settings}
        if name in self._failpoints:
            own["DUCKMESH_FAILPOINTS"] = self._failpoints[name]
        return own

    def manage(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """`manage.py` with these arguments, against this stack."""
        return subprocess.run(
            [sys.executable, "manage.py", *arguments],
            env=self.environ(),
            cwd=ROOT,
            check=False,
            capture_output=True,
            text=True,
            timeout=120,
        )

    def start(self, name: str, *, failpoints: str | None = None) -> None:
        """The program runs; a server also answers. Give failpoints to replace the ones it had."""
        if failpoints is not None:
            self._failpoints[name] = failpoints
        if name == "postgres":
            self.postgres.prepare()
            self._spawn(name, self.postgres.program())
            self.postgres.wait(check=lambda: self.check(name))
        elif name == "redis":
            self.redis.prepare()
            self._spawn(name, self.redis.program())
            self.redis.wait(check=lambda: self.check(name))
        else:
            self._spawn(name, self._program(name))

    def _spawn(self, name: str, program: Program) -> None:
        process = spawn(program, run=self.home.run, log=self.log(name), env=self.environ(name))
        self._running[name] = (program, process)

    def check(self, name: str) -> None:
        """Raise `StackError`, with the end of its log, if the program has ended."""
        program, process = self._running[name]
        check_alive(process, program, self.log(name))

    def _program(self, name: str) -> Program:
        own = processes.programs(self.config, self.home, metrics_ports=self._metrics_ports)
        known = {program.name: program for program in own}
        if name not in known:
            queue = name.removeprefix("worker-").rpartition("-")[0]
            return processes.worker(name, self.home, queue=queue, processes=1)
        return known[name]

    def stop(self, name: str) -> None:
        """The program has ended as the supervisor would end it."""
        program, process = self._running.pop(name)
        stop(process, program)

    def kill(self, name: str) -> None:
        """The program and its workers have got SIGKILL and are gone."""
        self.signal(name, signal.SIGKILL)
        _, process = self._running.pop(name)
        process.wait()

    def freeze(self, name: str) -> None:
        """The program and its workers stand still."""
        self.signal(name, signal.SIGSTOP)

    def thaw(self, name: str) -> None:
        """The program and its workers go on."""
        self.signal(name, signal.SIGCONT)

    def signal(self, name: str, number: int) -> None:
        """The program and its workers have got the signal."""
        _, process = self._running[name]
        os.killpg(process.pid, number)

    def tell(self, name: str, number: int) -> None:
        """The program's first process has got the signal, as whoever keeps it running would send it."""
        self._running[name][1].send_signal(number)

    def pid(self, name: str) -> int:
        """The number of the program's first process."""
        return self._running[name][1].pid

    def wait_for_end(self, name: str, *, seconds: float = 30) -> int:
        """The program has ended by itself (a failpoint, say); the answer is its status."""
        _, process = self._running[name]
        status = process.wait(seconds)
        del self._running[name]
        return status

    def pids(self, name: str) -> frozenset[int]:
        """The program and the processes that it has started."""
        _, process = self._running[name]
        program = psutil.Process(process.pid)
        return frozenset({program.pid, *(child.pid for child in program.children())})

    def runs(self, name: str) -> bool:
        """Whether the program was started and has not ended."""
        return name in self._running and self._running[name][1].poll() is None

    def log(self, name: str) -> Path:
        """The file that holds all the program has written."""
        return self.home.log / f"{name}.log"

    def await_ready(self, *, seconds: float = READY_SECONDS) -> None:
        """`/v1/ready` answers 200 and every program still runs."""
        where = Running(base_url=self.base_url, flower_url="")
        deadline = time.monotonic() + seconds
        while (missing := is_ready(where)) is not None:
            for name in self._running:
                self.check(name)
            assert time.monotonic() < deadline, f"not ready: {missing}"
            time.sleep(0.05)

    def close(self) -> None:
        """Nothing of the stack is left. Programs get no time to end what they do; servers end in their own way."""
        for name in [name for name in self._running if name not in SERVERS]:
            self.kill(name)
        for name in reversed(list(self._running)):
            self.thaw(name)
            self.stop(name)
        for directory in (self.postgres.data, self.directory):
            shutil.rmtree(directory, ignore_errors=True)
