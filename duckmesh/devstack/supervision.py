"""supervisord keeps the programs running; its configuration is generated, and it is spoken to over a Unix socket."""

import http.client
import os
import shlex
import subprocess
import sys
import time
import xmlrpc.client
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from supervisor.xmlrpc import SupervisorTransport

from duckmesh.devstack.errors import StackError
from duckmesh.devstack.layout import Home
from duckmesh.devstack.programs import Program, spawn, tail, write_private

CONFIG = "supervisord.conf"
LAUNCH = "launch"
STOP_SECONDS = 40  # above the longest grace of a program
END_SECONDS = 60
ENDED = {"EXITED", "FATAL", "STOPPED", "UNKNOWN"}


@dataclass(frozen=True, kw_only=True)
class ProcessState:
    """What the supervisor says of one program."""

    name: str
    state: str
    pid: int
    description: str


class Supervisor:
    """The supervisor of one home, running or not."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._socket = home.socket("supervisor")

    def start(self, programs: Sequence[Program], *, at_once: Sequence[str], tied: bool) -> None:
        """supervisord runs and has started the programs named in `at_once`. Tied, it stops when this process ends."""
        write_files(self._home, programs, at_once=at_once)
        program = Program(
            name="supervisord",
            argv=(sys.executable, "-m", "supervisor.supervisord", "-n", "-c", CONFIG),
            cwd=self._home.run,
        )
        if tied:
            process = spawn(program, run=self._home.run, log=self._log)
        else:
            with self._log.open("ab") as output:
                process = subprocess.Popen(
                    program.argv,
                    cwd=program.cwd,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    start_new_session=True,
                )
        deadline = time.monotonic() + 20
        while not self.running():
            if process.poll() is not None or time.monotonic() > deadline:
                raise StackError(f"The supervisor did not start. Its log ends with:\n{tail(self._log)}")
            time.sleep(0.05)
        # It is a daemon from here on: nobody waits for it, and this object's end must not complain about that.
        process.returncode = 0

    @property
    def _log(self) -> Path:
        return self._home.log / "supervisord.out"

    def running(self) -> bool:
        """Whether supervisord answers."""
        try:
            self._call("getState")
        except StackError:
            return False
        return True

    def states(self) -> list[ProcessState]:
        """What runs and what does not, in the order of starting."""
        found: list[dict[str, Any]] = self._call("getAllProcessInfo")  # the XML-RPC of supervisord is untyped
        return [
            ProcessState(name=row["name"], state=row["statename"], pid=row["pid"], description=row["description"])
            for row in sorted(found, key=lambda row: row["start"])
        ]

    def launch(self, names: Sequence[str]) -> None:
        """The named programs have been told to start."""
        for name in names:
            self._call("startProcess", name, False)

    def check(self) -> None:
        """Raise `StackError` if a program has ended that should run."""
        for process in self.states():
            if process.state in {"FATAL", "BACKOFF"}:
                log = self._home.log / f"{process.name}.log"
                raise StackError(f"{process.name} does not start. Its log ({log}) ends with:\n{tail(log)}")

    def stop(self, *, servers: Sequence[str]) -> None:
        """Every program has ended, `servers` last, and then supervisord."""
        names = [process.name for process in self.states()]
        self._stop_programs([name for name in names if name not in servers])
        self._stop_programs([name for name in names if name in servers])
        self._forget("shutdown")
        self.wait_for_end()

    def wait_for_end(self) -> None:
        """No supervisord of this home is left; one that is stopping gets the time it needs."""
        deadline = time.monotonic() + END_SECONDS
        while (process := self._process()) is not None:
            if time.monotonic() > deadline:
                raise StackError(f"The supervisor (process {process.pid}) does not stop.")
            time.sleep(0.05)

    def _process(self) -> psutil.Process | None:
        """The supervisord that its pid file names, if it is one, of this home, and alive."""
        try:
            process = psutil.Process(int((self._home.run / "supervisord.pid").read_text(encoding="utf-8")))
            own = CONFIG in process.cmdline() and Path(process.cwd()) == self._home.run.resolve()
            return process if own and process.status() != psutil.STATUS_ZOMBIE else None
        except (FileNotFoundError, ValueError, psutil.Error):
            return None

    def _stop_programs(self, names: Sequence[str]) -> None:
        """The named programs have ended, all told at once: supervisord's own shutdown would take them one by one."""
        for name in names:
            self._forget("stopProcess", name, False)
        deadline = time.monotonic() + STOP_SECONDS
        while any(process.name in names and process.state not in ENDED for process in self.states()):
            if time.monotonic() > deadline:
                return  # supervisord's shutdown kills what is left
            time.sleep(0.05)

    def _forget(self, method: str, *arguments: object) -> None:
        """Ask for something that may have happened by itself meanwhile."""
        try:
            self._call(method, *arguments)
        except StackError:
            return

    def _call(self, method: str, *arguments: object) -> Any:
        transport = SupervisorTransport(None, None, serverurl=f"unix://{self._socket}")
        proxy = xmlrpc.client.ServerProxy("http://127.0.0.1", transport=transport)
        try:
            return getattr(proxy.supervisor, method)(*arguments)
        except (OSError, http.client.HTTPException) as exc:
            raise StackError(f"The supervisor does not answer: {exc}") from None
        except xmlrpc.client.Fault as exc:
            raise StackError(f"The supervisor refused {method}: {exc.faultString}") from None
        finally:
            transport.close()


def write_files(home: Home, programs: Sequence[Program], *, at_once: Sequence[str]) -> None:
    """The run directory holds what supervisord needs to start `programs`."""
    for program in programs:
        *launcher, _ = program.command(home.run)
    # supervisord's own syntax gives `%`, `;` and `#` a meaning, so no path of ours appears in it: it runs in the
    # run directory, and this script holds the paths, quoted for the shell.
    write_private(home.run / LAUNCH, f'exec {shlex.join(launcher)} "$1.json"\n')
    write_private(home.run / CONFIG, configuration(programs, socket=home.socket("supervisor"), at_once=at_once))


def configuration(programs: Sequence[Program], *, socket: Path, at_once: Sequence[str]) -> str:
    """supervisord's configuration for `programs`."""
    sections = [
        "[supervisord]",
        "nodaemon = true",
        "logfile = ../log/supervisord.log",
        "pidfile = supervisord.pid",
        "childlogdir = ../log",
        *(["user = root"] if os.geteuid() == 0 else []),
        "[unix_http_server]",
        f"file = {_relative(socket)}",
        "chmod = 0600",
        "[rpcinterface:supervisor]",
        "supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface",
    ]
    for priority, program in enumerate(programs):
        sections += [
            f"[program:{program.name}]",
            f"command = /bin/sh {LAUNCH} {program.name}",
            f"priority = {priority + 1}",
            f"autostart = {str(program.name in at_once).lower()}",
            "autorestart = true",
            "startsecs = 2",
            "startretries = 5",
            f"stopsignal = {program.stop_signal}",
            f"stopwaitsecs = {program.stop_seconds}",
            "killasgroup = true",
            "redirect_stderr = true",
            f"stdout_logfile = ../log/{program.name}.log",
            "stdout_logfile_maxbytes = 20MB",
            "stdout_logfile_backups = 3",
        ]
    return "\n".join(sections) + "\n"


def _relative(socket: Path) -> str:
    """The socket as supervisord sees it from the run directory; a path outside the home is short and plain."""
    return socket.name if socket.parent.name == "run" else str(socket)
