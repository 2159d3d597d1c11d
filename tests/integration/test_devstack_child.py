"""The wrapper around every program: nothing outlives whoever started it."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from duckmesh.devstack.errors import StackError
from duckmesh.devstack.programs import Program, check_alive, spawn, stop

# A server with one worker, whose process ids it leaves in a file.
SERVER = """
import os, sys, time
child = os.fork()
if child:
    open(sys.argv[1] + ".new", "w").write(f"{os.getpid()} {child}")
    os.rename(sys.argv[1] + ".new", sys.argv[1])
time.sleep(60)
"""
# Starts the server as the test would, and is killed in its place.
STARTER = """
import sys, time
from pathlib import Path
from tests.integration.test_devstack_child import server
from duckmesh.devstack.programs import spawn
directory = Path(sys.argv[1])
spawn(server(directory), run=directory, log=directory / "server.log")
time.sleep(60)
"""


def server(directory: Path) -> Program:
    argv = (sys.executable, "-I", "-S", "-c", SERVER, str(directory / "pids"))
    return Program(name="server", argv=argv, cwd=directory)


def _pids(directory: Path) -> list[int]:
    _until((directory / "pids").exists)
    return [int(pid) for pid in (directory / "pids").read_text(encoding="utf-8").split()]


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def _gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_the_workers_of_a_killed_program_are_gone(tmp_path: Path) -> None:
    process = spawn(server(tmp_path), run=tmp_path, log=tmp_path / "server.log")
    main, worker = _pids(tmp_path)
    os.kill(main, signal.SIGKILL)
    process.wait()
    _until(lambda: _gone(worker))


def test_a_program_dies_with_the_one_that_started_it(tmp_path: Path) -> None:
    starter = subprocess.Popen([sys.executable, "-c", STARTER, str(tmp_path)])
    main, worker = _pids(tmp_path)
    starter.kill()
    starter.wait()
    _until(lambda: _gone(main) and _gone(worker))


def test_a_stopped_program_leaves_no_worker(tmp_path: Path) -> None:
    program = server(tmp_path)
    process = spawn(program, run=tmp_path, log=tmp_path / "server.log")
    _, worker = _pids(tmp_path)
    stop(process, program)
    _until(lambda: _gone(worker))


def test_a_program_starts_with_empty_directories_and_its_own_environment(tmp_path: Path) -> None:
    metrics = tmp_path / "metrics"
    metrics.mkdir()
    (metrics / "old.db").touch()
    script = 'import os; print(os.listdir("metrics"), os.environ["GREETING"])'
    argv = (sys.executable, "-I", "-S", "-c", script)
    program = Program(name="lister", argv=argv, cwd=tmp_path, env={"GREETING": "good day"}, wipe=(metrics,))
    process = spawn(program, run=tmp_path, log=tmp_path / "log")
    assert process.wait(10) == 0
    assert (tmp_path / "log").read_text(encoding="utf-8") == "[] good day\n"


def test_a_program_that_ended_is_named_with_the_end_of_its_log(tmp_path: Path) -> None:
    program = Program(name="grumpy", argv=("/bin/sh", "-c", "echo no luck; exit 3"), cwd=tmp_path)
    process = spawn(program, run=tmp_path, log=tmp_path / "log")
    process.wait(10)
    with pytest.raises(StackError, match=r"(?s)grumpy ended with status 3.*no luck"):
        check_alive(process, program, tmp_path / "log")
