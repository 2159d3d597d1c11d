"""What a program of the stack is, and how one is started so that it cannot outlive its starter."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from duckmesh.devstack.errors import StackError

CHILD = Path(__file__).with_name("child.py")
LOOPBACK = "127.0.0.1"


@dataclass(frozen=True, kw_only=True)
class Program:
    """One process of the stack (with the workers it forks)."""

    name: str
    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: Path
    user: str | None = None
    stop_signal: str = "TERM"
    stop_seconds: int = 10
    death_signal: str = "SIGKILL"  # what it receives when its starter dies
    wipe: tuple[Path, ...] = ()

    def command(self, run: Path) -> list[str]:
        """The command line that becomes this program; its description is left in `run`, mode 0600."""
        spec = run / f"{self.name}.json"
        text = json.dumps(
            {
                "argv": self.argv,
                "env": dict(self.env),
                "cwd": str(self.cwd),
                "user": self.user,
                "death_signal": self.death_signal,
                "wipe": [str(path) for path in self.wipe],
            }
        )
        write_private(spec, text)
        return [sys.executable, "-I", "-S", str(CHILD), str(spec)]


def spawn(program: Program, *, run: Path, log: Path, env: Mapping[str, str] | None = None) -> subprocess.Popen[bytes]:
    """The started program, its output appended to `log`. It dies with the thread that calls this."""
    with log.open("ab") as output:
        return subprocess.Popen(
            program.command(run),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=env,
            process_group=0,
        )


def check_alive(process: subprocess.Popen[bytes], program: Program, log: Path) -> None:
    """Raise `StackError`, with the end of its log, if the program has ended."""
    if process.poll() is not None:
        raise StackError(f"{program.name} ended with status {process.returncode}. Its log ends with:\n{tail(log)}")


def stop(process: subprocess.Popen[bytes], program: Program) -> None:
    """The program has ended, by its own stop signal or, after its grace, by force."""
    if process.poll() is None:
        process.send_signal(signal.Signals[f"SIG{program.stop_signal}"])
        try:
            process.wait(program.stop_seconds)
        except subprocess.TimeoutExpired:
            process.kill()
    process.wait()


def free_port() -> int:
    """A port of the loopback interface that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        port: int = probe.getsockname()[1]
        return port


def port_is_free(port: int) -> bool:
    """Whether a server could listen on `port` of the loopback interface now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
        return True


def write_private(path: Path, text: str) -> None:
    """`path` holds `text`, whole, and only this user can read it."""
    draft = path.with_name(path.name + ".new")
    draft.unlink(missing_ok=True)
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(text)
    draft.replace(path)


def tail(log: Path, *, lines: int = 12) -> str:
    """The last lines of `log`, for a message about a program that did not start."""
    try:
        text = log.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return "(no log)"
    return "\n".join(text.splitlines()[-lines:]) or "(empty log)"


def require(path: Path, *, what: str) -> Path:
    """`path`, which must exist."""
    if not path.exists():
        raise StackError(f"{what} is missing ({path}). Install the packages again: make clean, then make up.")
    return path
