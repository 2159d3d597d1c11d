"""`python -m query.zygote --socket PATH`: a clean process that forks warm query runners for the API's processes.

It has imported everything and opened nothing, has one thread that matters, and no secret in its environment, so that
what it forks has none either. API processes connect to its Unix socket; each message names a fork wanted or an end:

    client → zygote   F              fork one
                      K pid          kill one of mine
    zygote → client   R pid, files   a runner: its socket and, on Linux, its pidfd
                      E pid status   one of yours has ended (as waitpid tells it)

A client that goes away has its runners killed; when the zygote goes, the kernel kills them all.
"""

import argparse
import contextlib
import gc
import os
import select
import shutil
import signal
import socket
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NoReturn

import structlog

from duckmesh.kernel.logs import Service, configure_logs, kind_of
from query import limits
from query.engine import EngineSettings
from query.errors import RunnersUnavailable
from query.functions import SCALAR, TABLE, allowed, reviewed
from query.runner import RunnerSettings, close_inherited, serve
from query.wire import WireError
from query.zygote_records import ENDED, EXIT_FAILED, EXIT_MEMORY, FORK, KILL, NONE, RECORD, RUNNER

log = structlog.get_logger(__name__)

LOOK_AROUND_SECONDS = 1.0
WEIGH_SECONDS = 0.1
MAX_RUNNERS = 256
SHARES_OF_DISK = 16

# The addresses and keys of a service live in its environment; nothing of that may be in a runner's memory.
ENVIRONMENT = {
    "PATH": "/usr/bin:/bin",
    "LANG": "C.UTF-8",
    "MALLOC_ARENA_MAX": "2",
    "ARROW_DEFAULT_MEMORY_POOL": "system",
    "OMP_NUM_THREADS": "1",
}


class ZygoteError(Exception):
    """The zygote cannot do its work; the message says why."""


@dataclass(kw_only=True)
class _Client:
    sock: socket.socket
    pids: set[int] = field(default_factory=set)
    received: bytes = b""


class Zygote:
    """Holds the listening socket, the clients and the children. `run` returns only when it should stop."""

    def __init__(self, *, path: Path, settings: RunnerSettings, parent: int | None) -> None:
        self._path, self._settings, self._parent = path, settings, parent
        self._clients: dict[int, _Client] = {}
        self._owners: dict[int, _Client] = {}
        self._rooms: dict[int, int] = {}  # bytes that a runner may spill
        self._listener = _listen(path)
        self._inode = path.stat().st_ino
        self._weighed = 0.0
        self._wake, waker = socket.socketpair()
        self._waker = waker
        for end in (self._wake, waker):
            end.setblocking(False)
        if settings.engine.spill_dir:
            _empty(Path(settings.engine.spill_dir))

    def run(self) -> None:
        """Serves until the process that started it is gone (if it was told to look) or its socket is."""
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._waker.fileno(), warn_on_full_buffer=False)
        while self._wanted():
            waiting = [self._listener, self._wake, *(client.sock for client in self._clients.values())]
            spills = bool(self._settings.engine.spill_dir and self._owners)
            ready, _, _ = select.select(waiting, [], [], WEIGH_SECONDS if spills else LOOK_AROUND_SECONDS)
            for sock in ready:
                if sock is self._listener:
                    self._accept()
                elif sock is self._wake:
                    self._wake.recv(4096)
                elif client := self._clients.get(sock.fileno()):
                    self._hear(client)
            self._reap()
            if spills:
                self._weigh()

    def _weigh(self) -> None:
        """Runners that have spilled more than they may are being killed: DuckDB does not count all that it writes."""
        if time.monotonic() - self._weighed < WEIGH_SECONDS:
            return
        for pid, room in self._rooms.items():
            if _size(_spill_of(self._settings, pid)) > room + room // 8:
                os.kill(pid, signal.SIGKILL)
        self._weighed = time.monotonic()

    def _wanted(self) -> bool:
        if self._parent is not None and os.getppid() != self._parent:
            return False
        try:
            return self._path.stat().st_ino == self._inode
        except OSError:
            return False

    def _accept(self) -> None:
        sock, _ = self._listener.accept()
        sock.setblocking(False)  # a client that does not read must not stop the others
        self._clients[sock.fileno()] = _Client(sock=sock)

    def _hear(self, client: _Client) -> None:
        try:
            data = client.sock.recv(RECORD.size * 64)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._drop(client)
            return
        client.received += data
        while len(client.received) >= RECORD.size and client.sock.fileno() in self._clients:
            kind, pid, _ = RECORD.unpack(client.received[: RECORD.size])
            client.received = client.received[RECORD.size :]
            if kind == FORK:
                self._fork(client)
            elif kind == KILL and pid in client.pids:
                os.kill(pid, signal.SIGKILL)

    def close(self) -> None:
        """Every runner is dead and the socket's name is free."""
        for pid in self._owners:
            os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(OSError):
            if self._path.stat().st_ino == self._inode:
                self._path.unlink()

    def _drop(self, client: _Client) -> None:
        del self._clients[client.sock.fileno()]
        client.sock.close()
        for pid in client.pids:
            os.kill(pid, signal.SIGKILL)

    def _fork(self, client: _Client) -> None:
        if len(self._owners) >= MAX_RUNNERS:
            self._tell(client, RECORD.pack(RUNNER, NONE, 0), [])
            return
        zygote, engine = os.getpid(), self._settings.engine
        if engine.spill_dir:
            # The disk is others' too: all runners together must not fill what is free of it.
            free = shutil.disk_usage(engine.spill_dir).free
            engine = replace(engine, spill_bytes=min(engine.spill_bytes, free // SHARES_OF_DISK))
        ours, theirs = socket.socketpair()
        with ours, theirs:
            try:
                pid = os.fork()
            except OSError as exc:
                log.error("runner_not_forked", error_code=RunnersUnavailable.code, reason=kind_of(exc))
                self._tell(client, RECORD.pack(RUNNER, NONE, 0), [])
                return
            if pid == 0:
                _be_runner(theirs, replace(self._settings, engine=engine), zygote)
            client.pids.add(pid)
            self._owners[pid] = client
            self._rooms[pid] = engine.spill_bytes
            with _pidfd(pid) as handle:
                self._tell(client, RECORD.pack(RUNNER, pid, 0), [ours.fileno(), *handle])

    def _tell(self, client: _Client, record: bytes, files: list[int]) -> None:
        try:
            socket.send_fds(client.sock, [record], files)
        except OSError:
            if client.sock.fileno() in self._clients:
                self._drop(client)

    def _reap(self) -> None:
        while self._owners:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return
            client = self._owners.pop(pid)
            del self._rooms[pid]
            if self._settings.engine.spill_dir:
                shutil.rmtree(_spill_of(self._settings, pid), ignore_errors=True)
            client.pids.discard(pid)
            if client.sock.fileno() >= 0:
                self._tell(client, RECORD.pack(ENDED, pid, status), [])


def _empty(directory: Path) -> None:
    """Nothing is in the directory. The runners of a zygote that was killed may write for a moment yet."""
    for _ in range(100):
        shutil.rmtree(directory, ignore_errors=True)
        if not directory.exists():
            break
        time.sleep(0.01)
    directory.mkdir(parents=True, mode=0o700)


def _spill_of(settings: RunnerSettings, pid: int) -> Path:
    return Path(settings.engine.spill_dir) / str(pid)


def _size(directory: Path) -> int:
    """Bytes on disk of the files in it; a file that goes meanwhile counts nothing."""
    total = 0
    with contextlib.suppress(FileNotFoundError), os.scandir(directory) as entries:
        for entry in entries:
            with contextlib.suppress(FileNotFoundError):
                total += entry.stat(follow_symlinks=False).st_blocks * 512
    return total


@contextlib.contextmanager
def _pidfd(pid: int) -> Iterator[list[int]]:
    """A handle on the child that no reuse of its number can mislead, where the system has such; else nothing."""
    try:
        handle = os.pidfd_open(pid)
    except (AttributeError, OSError):
        yield []
        return
    try:
        yield [handle]
    finally:
        os.close(handle)


def _be_runner(sock: socket.socket, settings: RunnerSettings, zygote: int) -> NoReturn:
    """The child's whole life. It never returns into the zygote's code, whatever happens."""
    status = EXIT_FAILED
    try:
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGCHLD, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        close_inherited(keep=sock.fileno())
        if settings.engine.spill_dir:
            spill = _spill_of(settings, os.getpid())
            spill.mkdir(mode=0o700)
            settings = replace(settings, engine=replace(settings.engine, spill_dir=str(spill)))
        serve(sock, settings=settings, parent=zygote)
    except WireError:
        status = 0
    except MemoryError:
        status = EXIT_MEMORY
    except BaseException:
        log.error("runner_broke", error_code=RunnersUnavailable.code, exc_info=True)
    finally:
        os._exit(status)


def _listen(path: Path) -> socket.socket:
    """The socket at `path`, which must not be another living zygote's."""
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except (FileNotFoundError, ConnectionRefusedError):
            path.unlink(missing_ok=True)
        else:
            raise ZygoteError(f"another process already answers on {path}")
    path.parent.mkdir(parents=True, exist_ok=True)
    listener = socket.socket(socket.AF_UNIX)
    before = os.umask(0o177)  # whoever can connect can have processes forked
    try:
        listener.bind(str(path))
    finally:
        os.umask(before)
    listener.listen(64)
    return listener


def _parsed(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m query.zygote", description=str(__doc__).split("\n", maxsplit=1)[0])
    defaults = EngineSettings()
    parser.add_argument("--socket", type=Path, required=True, help="path of the Unix socket, at most 107 bytes")
    parser.add_argument("--memory-bytes", type=int, default=defaults.memory_bytes, help="DuckDB's memory in a runner")
    parser.add_argument("--threads", type=int, default=defaults.threads, help="DuckDB's threads in a runner")
    parser.add_argument("--spill-dir", default="", help="directory for spilled data; emptied at start")
    parser.add_argument("--spill-bytes", type=int, default=0, help="most bytes a runner may spill; 0: none")
    parser.add_argument("--allow-unsealed", action="store_true", help="run although the kernel cannot seal runners")
    parser.add_argument(
        "--exit-with-parent", action="store_true", help="stop when the process that started this is gone"
    )
    return parser.parse_args(arguments)


def _in_clean_environment() -> None:
    """Begins this program anew if its environment holds anything that a runner should not inherit."""
    clean = {**ENVIRONMENT, **{name: value for name, value in os.environ.items() if name.startswith("PYTHON")}}
    if dict(os.environ) != clean:
        os.execve(sys.executable, [sys.executable, "-m", "query.zygote", *sys.argv[1:]], clean)


def main() -> int:
    """Runs a zygote until it is told to stop; 0, or 1 with a sentence on standard error."""
    options = _parsed()
    Service.name = "runners"
    configure_logs(level="INFO", json=True)
    spills = options.spill_dir if options.spill_bytes > 0 else ""
    engine = EngineSettings(
        memory_bytes=options.memory_bytes,
        threads=options.threads,
        spill_dir=os.path.realpath(spills) if spills else "",
        spill_bytes=options.spill_bytes,
    )
    settings = RunnerSettings(engine=engine, allow_unsealed=options.allow_unsealed)
    parent = os.getppid() if options.exit_with_parent else None
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(0))
    try:
        zygote = Zygote(path=options.socket.absolute(), settings=settings, parent=parent)
    except (ZygoteError, OSError) as exc:
        log.error("runners_not_started", reason=str(exc))
        return 1
    log.info("runners_ready", sealing=limits.sealing().describe())
    for kind in (SCALAR, TABLE):
        allowed(kind), reviewed(kind)  # a sealed runner can read no file of ours any more
    os.chdir("/")
    gc.collect()
    gc.freeze()
    try:
        zygote.run()
    finally:
        zygote.close()
    return 0


if __name__ == "__main__":
    _in_clean_environment()
    sys.exit(main())
