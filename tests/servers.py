"""The PostgreSQL and the Redis of a test run: throw-away, on free ports, gone however pytest ends.

Nothing of the caller's environment is used: neither a running stack nor DUCKMESH_* variables.
`tests/conftest.py` starts them before Django's settings are read.
"""

import atexit
import os
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from duckmesh.devstack.errors import StackError
from duckmesh.devstack.postgres import THROW_AWAY, Postgres, data_directory, new_password
from duckmesh.devstack.programs import Program, check_alive, free_port, spawn, stop, write_private
from duckmesh.devstack.redis import Redis

ATTEMPTS = 3  # another process may take a free port before the server does

# Blocks on a pipe that only this process holds; when the process ends, the directories go.
JANITOR = """
import os, shutil, sys, time
os.read(0, 1)
deadline = time.monotonic() + 10
while time.monotonic() < deadline:
    for directory in sys.argv[1:]:
        shutil.rmtree(directory, ignore_errors=True)
    time.sleep(0.2)
    if not any(os.path.exists(directory) for directory in sys.argv[1:]):
        break
"""


def start_servers() -> None:
    """Both servers run, and the environment describes them and nothing else."""
    for name in [name for name in os.environ if name.startswith("DUCKMESH_") or name == "PROMETHEUS_MULTIPROC_DIR"]:
        del os.environ[name]
    home = Path(tempfile.mkdtemp(prefix="duckmesh-test-"))
    home.chmod(0o711)  # for root, PostgreSQL runs as `nobody` and must get through
    data = data_directory(home / "pg")
    start_janitor(home, data)
    closing = ExitStack()
    atexit.register(closing.close)
    postgres = _start_postgres(home, data, closing)
    redis = _start_redis(home, closing)
    os.environ.update(
        {
            "DUCKMESH_HOME": str(home / "home"),
            "DUCKMESH_DATABASE_URL": postgres.url("duckmesh"),
            "DUCKMESH_REDIS_URL": redis.url,
            "DUCKMESH_SECRET_KEY": "only-for-tests-" + new_password(),
            "DUCKMESH_LOG_LEVEL": "WARNING",
            "DJANGO_SETTINGS_MODULE": "duckmesh.settings",
        }
    )
    (home / "home").mkdir()


def _start_postgres(home: Path, data: Path, closing: ExitStack) -> Postgres:
    for attempt in range(ATTEMPTS):
        server = Postgres(data=data, port=free_port(), password=_password(home), settings=THROW_AWAY)
        server.prepare()
        try:
            server.wait(check=_start(server.program(), home, closing))
        except StackError:
            if attempt == ATTEMPTS - 1:
                raise
        else:
            return server
    raise AssertionError


def _start_redis(home: Path, closing: ExitStack) -> Redis:
    for attempt in range(ATTEMPTS):
        server = Redis(data=home / "redis", port=free_port(), password=_password(home), durable=False)
        server.prepare()
        try:
            server.wait(check=_start(server.program(), home, closing))
        except StackError:
            if attempt == ATTEMPTS - 1:
                raise
        else:
            return server
    raise AssertionError


def _password(home: Path) -> str:
    """One password for the run: the data directory keeps the first."""
    path = home / "password"
    if not path.exists():
        write_private(path, new_password())
    return path.read_text(encoding="utf-8")


def _start(program: Program, home: Path, closing: ExitStack) -> Callable[[], None]:
    """The program has been started; the answer checks that it still runs."""
    log = home / f"{program.name}.log"
    process = spawn(program, run=home, log=log)
    closing.callback(stop, process, program)
    return partial(check_alive, process, program, log)


def start_janitor(*directories: Path) -> None:
    """When this process ends, in whatever way, the directories go."""
    reader, writer = os.pipe()
    os.posix_spawn(
        sys.executable,
        [sys.executable, "-I", "-S", "-c", JANITOR, *map(str, directories)],
        os.environ,
        file_actions=[
            (os.POSIX_SPAWN_DUP2, reader, 0),
            (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
            (os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0),
        ],
        setpgroup=0,
    )
    os.close(reader)
    os.set_inheritable(writer, False)  # left open: the janitor waits for its end
