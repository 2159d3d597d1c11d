"""A pool's connection to the zygote: asks for runners, hears of their coming and their ends."""

import contextlib
import os
import select
import signal
import socket
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from query.zygote_records import ENDED, FORK, KILL, NONE, RECORD, RUNNER

LEAST_PRIORITY = 19
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


class Runner:
    """One runner as its pool knows it. One thread at a time uses it; whoever takes it out of the pool closes it."""

    def __init__(self, *, pid: int, sock: socket.socket, pidfd: int | None, link: "Link") -> None:
        self.pid, self.sock = pid, sock
        self.tenant: tuple[str, str] | None = None
        self.born = time.monotonic()
        self.queries = 0
        self.greeted = self.sound = False  # it knows its tenant; its last exchange ended as it should
        self.demoted = self.demoted_for_length = False
        self.status: int | None = None
        self.ended = threading.Event()
        self._pidfd, self._link = pidfd, link

    def silent(self) -> bool:
        """It says nothing unasked: it has neither died nor written an answer ahead of its question."""
        poll = select.poll()
        poll.register(self.sock, select.POLLIN)
        return not poll.poll(0)

    def processor_seconds(self) -> float:
        """How much of the processors' time it has had; where the system does not show that, how old it is."""
        try:
            fields = Path(f"/proc/{self.pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        except (OSError, UnicodeError):
            return time.monotonic() - self.born
        return (int(fields[11]) + int(fields[12])) / TICKS_PER_SECOND

    def demote(self) -> None:
        """It gets the processors when others leave them, and does so until it dies."""
        if self.demoted:
            return
        self.demoted = True
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PGRP, self.pid, LEAST_PRIORITY)  # a runner is a group; this reaches its threads

    def stop(self) -> None:
        """The process is dying; whoever reads from it learns so, and gives it back."""
        if self._pidfd is None:
            self._link.kill(self.pid)
        else:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    def kill(self) -> None:
        """The process is dying and nothing of it is left in this one."""
        self.stop()
        if self._pidfd is not None:
            os.close(self._pidfd)
        self.sock.close()


@dataclass(frozen=True, kw_only=True)
class Came:
    """A fork that was asked for: a runner, or none because the zygote could not make one."""

    runner: Runner | None


@dataclass(frozen=True, kw_only=True)
class Ended:
    """A runner's process has ended; `status` as waitpid tells it."""

    pid: int
    status: int


class Link:
    """One connection. It raises `OSError` when the zygote is gone; a new one is then to be made."""

    def __init__(self, path: Path) -> None:
        self._sock = socket.socket(socket.AF_UNIX)
        self._sock.settimeout(5)
        try:
            self._sock.connect(str(path))
        except OSError:
            self._sock.close()
            raise

    def fileno(self) -> int:
        """For select."""
        return self._sock.fileno()

    def ask(self) -> None:
        """One more runner will come."""
        self._sock.sendall(RECORD.pack(FORK, NONE, 0))

    def kill(self, pid: int) -> None:
        """The runner is being killed, if the zygote is still there; else it is dead already."""
        with contextlib.suppress(OSError):
            self._sock.sendall(RECORD.pack(KILL, pid, 0))

    def hear(self) -> Came | Ended | None:
        """The next thing the zygote says, if it is one we know; to be called when there is something to read."""
        data, files, _, _ = socket.recv_fds(self._sock, RECORD.size, 2)
        if len(data) < RECORD.size:
            for file in files:
                os.close(file)
            raise ConnectionResetError("the zygote is gone")
        kind, pid, status = RECORD.unpack(data)
        if kind == RUNNER and pid == NONE:
            return Came(runner=None)
        if kind == RUNNER:
            pidfd = files[1] if len(files) > 1 else None
            return Came(runner=Runner(pid=pid, sock=socket.socket(fileno=files[0]), pidfd=pidfd, link=self))
        if kind == ENDED:
            return Ended(pid=pid, status=status)
        return None

    def close(self) -> None:
        """The zygote kills what it forked for this connection."""
        self._sock.close()
