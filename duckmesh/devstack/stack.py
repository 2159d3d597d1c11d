"""The embedded stack as a whole: up, down, and what runs."""

import fcntl
import http.client
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from duckmesh.devstack import addresses, bootstrap, processes
from duckmesh.devstack.credentials import Credentials, read_credentials
from duckmesh.devstack.errors import StackError
from duckmesh.devstack.http import Api
from duckmesh.devstack.layout import Home
from duckmesh.devstack.postgres import data_directory
from duckmesh.devstack.programs import LOOPBACK, Program, port_is_free
from duckmesh.devstack.prometheus import write_configuration
from duckmesh.devstack.supervision import Supervisor
from duckmesh.kernel.config import Config, load_config

SERVERS = ("postgres", "redis")
READY_SECONDS = 90
PORT_SECONDS = 3  # a server that was just stopped may hold its port for a moment

Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Running:
    """Where the running stack is reached."""

    base_url: str
    flower_url: str
    metrics_urls: Mapping[str, str] = field(default_factory=dict)  # of the workers and beat; the API has /v1/metrics

    @property
    def docs_url(self) -> str:
        """The page that documents the API."""
        return f"{self.base_url}/v1/docs"

    @property
    def admin_url(self) -> str:
        """The operator's pages."""
        return f"{self.base_url}/admin/"


@dataclass(frozen=True, kw_only=True)
class Started:
    """What `up` found or made."""

    running: Running
    credentials: Credentials
    already: bool
    password: str | None  # of the operator, if it was made just now


def up(config: Config, *, say: Say, tied: bool = False) -> Started:
    """The stack runs and `/v1/ready` answers 200. Tied, it ends when this process does.

    Raises `StackError`; then nothing that this call started is left.
    """
    home = Home(config.home)
    home.claim()
    supervisor = Supervisor(home)
    with exclusively(home):
        if supervisor.running():
            if is_ready(found := running(home)) is None:
                credentials = read_credentials(home)
                return Started(running=found, credentials=credentials, already=True, password=None)
            say("An unfinished start was found; it is stopped first.")
            supervisor.stop(servers=SERVERS)
        supervisor.wait_for_end()
        try:
            return _start(home, supervisor, os.environ, say=say, tied=tied)
        except BaseException:
            _stop(home)
            raise


def _start(home: Home, supervisor: Supervisor, environ: Mapping[str, str], *, say: Say, tied: bool) -> Started:
    memory = addresses.remember(home)
    chosen = addresses.servers(home, memory, environ)
    addresses.write_stack_env(home, memory, chosen, environ)
    config = load_config(environ)
    _require_ports(config)
    embedded: list[Program] = []
    for server in (chosen.postgres, chosen.redis):
        if server is not None:
            server.prepare()
            embedded.append(server.program())
    own = processes.programs(config, home, metrics_ports=memory.metrics_ports)
    names = [program.name for program in embedded]
    supervisor.start([*embedded, *own], at_once=names, tied=tied)
    found = Running(
        base_url=f"http://{LOOPBACK}:{config.port}",
        flower_url=f"http://{LOOPBACK}:{config.flower_port}",
        metrics_urls={name: f"http://{LOOPBACK}:{port}/metrics" for name, port in memory.metrics_ports.items()},
    )
    home.running.write_text(json.dumps(asdict(found)), encoding="utf-8")
    write_configuration(home.prometheus, base_url=found.base_url, metrics_urls=found.metrics_urls)
    if chosen.postgres:
        chosen.postgres.wait(check=supervisor.check)
    if chosen.postgres:
        bootstrap.prepare_server(chosen.postgres, memory)
    else:
        bootstrap.create_database(config.database_url)
    say(f"PostgreSQL {'is running' if chosen.postgres else 'answers (yours)'}")
    if chosen.redis:
        chosen.redis.wait(check=supervisor.check)
    else:
        bootstrap.require_redis(config.redis_url)
    say(f"Redis {'is running' if chosen.redis else 'answers (yours)'}")
    credentials, password = bootstrap.prepare_database(home, base_url=found.base_url)
    say("The database schema is current")
    supervisor.launch([program.name for program in own])
    _await_ready(found, supervisor)
    _require_own_api(credentials)
    say("The API is ready, workers and beat are running")
    return Started(running=found, credentials=credentials, already=False, password=password)


def _require_ports(config: Config) -> None:
    """The ports that people know are free."""
    wanted = {"PORT": (config.port, 8081), "FLOWER_PORT": (config.flower_port, 5556)}
    deadline = time.monotonic() + PORT_SECONDS
    for name, (port, other) in wanted.items():
        while not port_is_free(port):
            if time.monotonic() > deadline:
                raise StackError(
                    f"Port {port} on {LOOPBACK} is taken by another program. Choose a free one, "
                    f"for example: make up DUCKMESH_{name}={other}"
                )
            time.sleep(0.1)


def _await_ready(found: Running, supervisor: Supervisor) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while (missing := is_ready(found)) is not None:
        supervisor.check()
        if time.monotonic() > deadline:
            raise StackError(f"The API was not ready within {READY_SECONDS} s: {missing}")
        time.sleep(0.1)


def _require_own_api(credentials: Credentials) -> None:
    """What answers on the port is this stack. The kernel lets two API servers of one user share a port."""
    with Api(credentials.base_url, credentials.api_key) as api:
        if api.call("GET", "/v1/tables").status == 401:
            port = urlsplit(credentials.base_url).port
            raise StackError(f"Another DuckMesh answers on port {port}. Choose a free one: make up DUCKMESH_PORT=…")


def is_ready(found: Running) -> str | None:
    """None if `/v1/ready` answers 200, else what it says."""
    connection = http.client.HTTPConnection(urlsplit(found.base_url).netloc, timeout=10)
    try:
        connection.request("GET", "/v1/ready")
        response = connection.getresponse()
        body = response.read(2_000).decode(errors="replace")
    except (OSError, http.client.HTTPException) as exc:
        return str(exc)
    finally:
        connection.close()
    return None if response.status == 200 else f"{response.status} {body}"


def running(home: Home) -> Running:
    """Where the stack of this home listens, by its own record. Raises `StackError` if there is none."""
    try:
        return Running(**json.loads(home.running.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise StackError("The stack is not running.") from None


def down(config: Config) -> bool:
    """Nothing of the stack runs. The answer says whether anything did."""
    home = Home(config.home)
    if not home.run.exists():
        return False
    with exclusively(home):
        return _stop(home)


def _stop(home: Home) -> bool:
    supervisor = Supervisor(home)
    if not supervisor.running():
        supervisor.wait_for_end()
        return False
    supervisor.stop(servers=SERVERS)
    return True


def reset(config: Config) -> list[Path]:
    """The stack is stopped and its state is gone. The answer names the directories that were deleted."""
    home = Home(config.home)
    if not home.memory.exists():
        return []
    with exclusively(home):
        _stop(home)
        data = data_directory(home.root / "postgres")
        deleted = [home.root] if data.is_relative_to(home.root) or not data.exists() else [data, home.root]
        for path in deleted:
            shutil.rmtree(path)
        for name in ("supervisor", "runners"):
            home.socket(name).unlink(missing_ok=True)
    return deleted


@contextmanager
def exclusively(home: Home) -> Iterator[None]:
    """Nobody else starts, stops or resets this stack meanwhile."""
    with (home.run / "lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StackError("Another make up, down or reset of this stack is at work; wait for it.") from None
        yield
