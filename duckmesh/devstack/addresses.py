"""Which servers the stack uses and where they listen: the embedded ones, unless the environment names others."""

import json
import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace

from duckmesh.devstack.layout import Home
from duckmesh.devstack.postgres import Postgres, data_directory, new_password
from duckmesh.devstack.programs import free_port, port_is_free, write_private
from duckmesh.devstack.redis import Redis
from duckmesh.devstack.roles import APP, OWNER

DATABASE = "duckmesh"
WITH_METRICS = ("worker-materialize", "worker-maintenance", "worker-drill", "beat")
DATABASE_URL, REDIS_URL = "DUCKMESH_DATABASE_URL", "DUCKMESH_REDIS_URL"
OWNER_DATABASE_URL = "DUCKMESH_OWNER_DATABASE_URL"


@dataclass(frozen=True, kw_only=True)
class Memory:
    """The ports and secrets that stay the same from one start to the next."""

    postgres_port: int = field(default_factory=free_port)
    postgres_password: str = field(default_factory=new_password)
    owner_password: str = field(default_factory=new_password)
    app_password: str = field(default_factory=new_password)
    redis_port: int = field(default_factory=free_port)
    redis_password: str = field(default_factory=new_password)
    flower_port: int = field(default_factory=free_port)
    metrics_ports: Mapping[str, int] = field(default_factory=lambda: {name: free_port() for name in WITH_METRICS})
    secret_key: str = field(default_factory=lambda: secrets.token_urlsafe(48))


@dataclass(frozen=True, kw_only=True)
class Servers:
    """The embedded servers of a stack; None where the environment names one of the user's."""

    postgres: Postgres | None
    redis: Redis | None


def remember(home: Home) -> Memory:
    """What the home remembers, with another port in place of each that somebody has taken meanwhile."""
    try:
        memory = Memory(**json.loads(home.memory.read_text(encoding="utf-8")))
    except FileNotFoundError:
        memory = Memory()
    memory = replace(
        memory,
        postgres_port=_still_free(memory.postgres_port),
        redis_port=_still_free(memory.redis_port),
        flower_port=_still_free(memory.flower_port),
        metrics_ports={name: _still_free(port) for name, port in memory.metrics_ports.items()},
    )
    write_private(home.memory, json.dumps(asdict(memory), indent=2))
    return memory


def _still_free(port: int) -> int:
    return port if port_is_free(port) else free_port()


def servers(home: Home, memory: Memory, environ: Mapping[str, str]) -> Servers:
    """The embedded servers that `environ` leaves to us."""
    postgres = Postgres(
        data=data_directory(home.root / "postgres"), port=memory.postgres_port, password=memory.postgres_password
    )
    redis = Redis(data=home.root / "redis", port=memory.redis_port, password=memory.redis_password)
    return Servers(
        postgres=None if environ.get(DATABASE_URL) else postgres,
        redis=None if environ.get(REDIS_URL) else redis,
    )


def write_stack_env(home: Home, memory: Memory, chosen: Servers, environ: Mapping[str, str]) -> None:
    """`stack.env` tells every program what the environment does not."""
    postgres = chosen.postgres
    values = {
        DATABASE_URL: postgres.url(DATABASE, role=APP, password=memory.app_password) if postgres else None,
        OWNER_DATABASE_URL: postgres.url(DATABASE, role=OWNER, password=memory.owner_password) if postgres else None,
        REDIS_URL: chosen.redis.url if chosen.redis else None,
        "DUCKMESH_SECRET_KEY": memory.secret_key,
        "DUCKMESH_FLOWER_PORT": str(memory.flower_port),
        "DUCKMESH_RUNNER_SOCKET": str(home.socket("runners")),
    }
    lines = [f"{name}={value}" for name, value in values.items() if value and not environ.get(name)]
    write_private(home.env_file, "# Written by `make up`; the environment wins over it.\n" + "\n".join(lines) + "\n")
