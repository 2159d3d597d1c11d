"""Where the embedded stack keeps its state: the home directory and what is in it."""

import hashlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path

from duckmesh.devstack.errors import StackError

# A Unix socket's path may have 107 bytes (103 on macOS), and supervisord first binds a name ten bytes longer.
LONGEST_SOCKET_PATH = 90
README = "This directory is the state of a DuckMesh stack. `make reset` deletes all of it.\n"
# What may already lie in a home that no stack has used yet: the benchmarks, the tests and manage.py write there too.
HARMLESS = {"README", "bench", "cache", "log", "metrics", "objects", "run", "s3test", "scratch", "static", ".DS_Store"}


@dataclass(frozen=True)
class Home:
    """The home directory of one stack."""

    root: Path

    @property
    def run(self) -> Path:
        """Generated files and the lock of the stack."""
        return self.root / "run"

    @property
    def log(self) -> Path:
        """The logs of all programs."""
        return self.root / "log"

    @property
    def env_file(self) -> Path:
        """The settings that `manage.py` and every program of the stack read."""
        return self.root / "stack.env"

    @property
    def memory(self) -> Path:
        """The ports and secrets of the embedded servers, kept between runs."""
        return self.root / "embedded.json"

    @property
    def credentials(self) -> Path:
        """The address and key of the first tenant."""
        return self.root / "credentials.json"

    @property
    def operator(self) -> Path:
        """The name and password of the admin pages' first user."""
        return self.root / "operator.json"

    @property
    def running(self) -> Path:
        """Where the running stack listens."""
        return self.run / "running.json"

    @property
    def prometheus(self) -> Path:
        """A configuration of Prometheus for the running stack."""
        return self.run / "prometheus"

    def metrics(self, service: str) -> Path:
        """Where the processes of `service` share their metrics."""
        return self.root / "metrics" / service

    def socket(self, name: str) -> Path:
        """The path of a Unix socket: in the home, or in a short directory of this user's if that would be too long."""
        path = self.run / f"{name}.sock"
        if len(os.fsencode(path)) <= LONGEST_SOCKET_PATH:
            return path
        digest = hashlib.sha256(os.fsencode(self.root)).hexdigest()[:12]
        return _short_directory() / f"{digest}-{name}.sock"

    def claim(self) -> None:
        """The home exists and is this stack's. Raises `StackError` if it holds anything else."""
        self.root.mkdir(parents=True, exist_ok=True)
        if not os.access(self.root, os.W_OK | os.X_OK):
            raise StackError(f"{self.root} belongs to somebody else. Set DUCKMESH_HOME to a directory of yours.")
        if not self.memory.exists():
            strange = sorted({entry.name for entry in self.root.iterdir()} - HARMLESS - {"stack.env"})
            if strange:
                raise StackError(
                    f"{self.root} holds other things ({', '.join(strange[:3])}). "
                    "Set DUCKMESH_HOME to a directory that does not exist yet or is empty."
                )
        for directory in (self.run, self.log):
            directory.mkdir(exist_ok=True)
        self.run.chmod(0o700)
        (self.root / "README").write_text(README, encoding="utf-8")


def _short_directory() -> Path:
    """A directory of this user's alone with a short name."""
    directory = Path(f"/tmp/duckmesh-{os.getuid()}")  # noqa: S108 - checked below to belong to this user alone
    directory.mkdir(mode=0o700, exist_ok=True)
    found = directory.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise StackError(
            f"{directory} does not belong to this user alone; remove it, or choose a shorter DUCKMESH_HOME."
        )
    return directory
