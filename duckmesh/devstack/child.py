"""Become one program of the stack, so that nothing outlives whoever started it: `python -I -S child.py SPEC`.

SPEC is a JSON file: argv, env (added), cwd, user, death_signal, wipe (directories emptied before the start).
The process that runs this becomes the program. A small watcher stays beside it: when the program ends, in
whatever way, the rest of its process group goes too (a killed server's workers would keep its port); where
the kernel cannot signal a child at its parent's death, the watcher does that as well. Standard library only.
"""

import ctypes
import json
import os
import pwd
import resource
import select
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any

PR_SET_PDEATHSIG = 1
OPEN_FILES = 65_536
POLL_SECONDS = 0.2


def main() -> None:
    spec: dict[str, Any] = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    parent = os.getppid()
    if os.getpgrp() != os.getpid():
        os.setpgid(0, 0)
    death_signal = signal.Signals[spec["death_signal"]]
    _leave_watcher(program=os.getpid(), parent=parent, death_signal=death_signal)
    for directory in spec["wipe"]:
        shutil.rmtree(directory, ignore_errors=True)
        Path(directory).mkdir(parents=True)
    _raise_open_files()
    if spec["user"]:
        account = pwd.getpwnam(spec["user"])
        os.setgroups([])
        os.setgid(account.pw_gid)
        os.setuid(account.pw_uid)
    _die_with_parent(parent, death_signal)
    os.chdir(spec["cwd"])
    os.execve(spec["argv"][0], spec["argv"], {**os.environ, **spec["env"]})


def _raise_open_files() -> None:
    """A server's connections and files must not stop at the usual 1,024."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, OPEN_FILES)
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _die_with_parent(parent: int, death_signal: int) -> None:
    """Linux will send `death_signal` when the parent dies. setuid would clear that; exec keeps it."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(death_signal), 0, 0, 0)
    if os.getppid() != parent:
        sys.exit("the process that started this one has died")


def _leave_watcher(*, program: int, parent: int, death_signal: int) -> None:
    """A watcher runs that is no child of the program, which may wait for any child of its own."""
    middle = os.fork()
    if middle:
        os.waitpid(middle, 0)
        return
    if os.fork() == 0:
        _watch(program=program, parent=parent, death_signal=death_signal)
    os._exit(0)


def _watch(*, program: int, parent: int, death_signal: int) -> None:
    """Wait for the program's end, then kill what is left of its group."""
    os.setpgid(0, 0)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)
    if sys.platform == "linux":
        _await_end(program)
    else:
        _poll_end(program=program, parent=parent, death_signal=death_signal)
    try:
        os.killpg(program, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return


def _await_end(program: int) -> None:
    try:
        waited = os.pidfd_open(program)
    except ProcessLookupError:
        return
    os.closerange(0, waited)
    select.select([waited], [], [])


def _poll_end(*, program: int, parent: int, death_signal: int) -> None:
    os.closerange(0, 256)
    told = False
    while _lives(program):
        if not told and not _lives(parent):
            os.kill(program, death_signal)
            told = True
        time.sleep(POLL_SECONDS)


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


main()
