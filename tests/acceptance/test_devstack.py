"""`make up`, `down`, `status` and `reset`, by the commands the Makefile runs, in a home whose path holds spaces."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest
from django.conf import settings

from duckmesh.devstack.http import Api
from duckmesh.devstack.programs import LOOPBACK, free_port
from duckmesh.kernel.config import ROOT


@dataclass(frozen=True, kw_only=True)
class Shell:
    """A person's terminal: commands of the stack in one home."""

    home: Path
    port: int
    settings: Mapping[str, str] = field(default_factory=dict)

    @property
    def environ(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("DUCKMESH_", "DJANGO_"))}
        kept.pop("PROMETHEUS_MULTIPROC_DIR", None)
        return {
            **kept,
            "DUCKMESH_HOME": str(self.home),
            "DUCKMESH_PORT": str(self.port),
            "DUCKMESH_API_PROCESSES": "1",
            "DUCKMESH_MATERIALIZE_WORKERS": "1",
            **self.settings,
        }

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "duckmesh.devstack", *command],
            cwd=ROOT,
            env=self.environ,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=100,
        )

    def up(self) -> subprocess.CompletedProcess[str]:
        done = self.run("up")
        assert done.returncode == 0, done.stdout + done.stderr
        return done

    def credentials(self) -> dict[str, str]:
        found: dict[str, str] = json.loads((self.home / "credentials.json").read_text(encoding="utf-8"))
        return found

    def processes(self) -> list[psutil.Process]:
        """Every process that belongs to this home."""
        return [process for process in psutil.process_iter() if self._owns(process)]

    def _owns(self, process: psutil.Process) -> bool:
        try:
            return process.environ().get("DUCKMESH_HOME") == str(self.home) and process.status() != "zombie"
        except psutil.Error:
            return False

    def wait_until_empty(self) -> None:
        deadline = time.monotonic() + 10
        while left := self.processes():
            assert time.monotonic() < deadline, [process.cmdline() for process in left]
            time.sleep(0.05)


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    shell = Shell(home=tmp_path_factory.mktemp("some one's") / "100% my stack", port=free_port())
    # The stack is a daemon. If this process is killed, the other end of the pipe closes and the stack goes.
    reader, writer = os.pipe()
    command = 'read -r _; export DUCKMESH_HOME="$1"; exec "$0" -m duckmesh.devstack reset --force'
    janitor = subprocess.Popen(
        ["/bin/sh", "-c", command, sys.executable, str(shell.home)],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"]},  # without the home: it is none of the stack's processes
        stdin=reader,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    os.close(reader)
    yield shell
    os.close(writer)
    janitor.wait(60)
    shell.wait_until_empty()
    assert not shell.home.exists()


def test_up_returns_when_the_api_is_ready_and_leaves_a_key_that_works(shell: Shell) -> None:
    shell.up()
    credentials = shell.credentials()
    assert credentials.keys() == {"base_url", "tenant_id", "api_key"}
    assert credentials["tenant_id"] == "demo"
    assert credentials["base_url"] == f"http://{LOOPBACK}:{shell.port}"
    for name in ("credentials.json", "operator.json", "stack.env", "embedded.json"):
        assert (shell.home / name).stat().st_mode & 0o777 == 0o600
    with Api(credentials["base_url"], credentials["api_key"]) as api:
        assert api.call("GET", "/v1/ready").status == 200
        assert api.call("GET", "/v1/tables").json()["tenant_id"] == "demo"


def test_a_second_up_says_that_the_stack_runs(shell: Shell) -> None:
    shell.up()
    before = shell.credentials()
    assert "already running" in shell.up().stdout
    assert shell.credentials() == before


def test_status_tells_what_runs_and_where(shell: Shell) -> None:
    shell.up()
    done = shell.run("status")
    assert f"http://{LOOPBACK}:{shell.port}/v1/docs" in done.stdout
    for name in ("postgres", "redis", "runners", "api", "worker-materialize", "beat", "flower"):
        assert name in done.stdout


def test_after_a_kill_of_the_supervisor_nothing_runs_and_up_works_again(shell: Shell) -> None:
    shell.up()
    key = shell.credentials()["api_key"]
    os.kill(int((shell.home / "run" / "supervisord.pid").read_text(encoding="utf-8")), signal.SIGKILL)
    shell.wait_until_empty()
    shell.up()
    assert shell.credentials()["api_key"] == key


def test_after_a_kill_of_everything_up_works_again(shell: Shell) -> None:
    shell.up()
    for process in shell.processes():
        process.kill()
    shell.wait_until_empty()
    shell.up()


def test_down_stops_everything_and_keeps_the_data(shell: Shell) -> None:
    shell.up()
    before = shell.credentials()
    assert shell.run("down").returncode == 0
    shell.wait_until_empty()
    assert shell.run("status").returncode == 1
    assert shell.run("down").returncode == 0
    shell.up()
    assert shell.credentials() == before


def test_a_taken_port_is_named_and_nothing_is_left_half_started(tmp_path: Path) -> None:
    with socket.create_server((LOOPBACK, 0)) as squatter:
        port = squatter.getsockname()[1]
        shell = Shell(home=tmp_path / "home", port=port)
        done = shell.run("up")
    assert done.returncode == 1
    assert f"Port {port} on {LOOPBACK} is taken" in done.stderr
    assert "DUCKMESH_PORT=" in done.stderr
    assert shell.processes() == []


def test_servers_of_the_environment_take_the_embedded_ones_place(tmp_path: Path) -> None:
    config = settings.DUCKMESH  # the servers of this test run; up creates a database of its own on the first
    database_url = urlsplit(config.database_url)._replace(path="/outside").geturl()
    theirs = {"DUCKMESH_DATABASE_URL": database_url, "DUCKMESH_REDIS_URL": config.redis_url}
    shell = Shell(home=tmp_path / "home", port=free_port(), settings=theirs)
    try:
        shell.up()
        programs = {path.stem for path in (shell.home / "log").glob("*.log")} - {"supervisord"}
        assert programs.isdisjoint({"postgres", "redis"})
        assert not (shell.home / "postgres").exists()
        assert "DATABASE_URL" not in (shell.home / "stack.env").read_text(encoding="utf-8")
        with Api(shell.credentials()["base_url"], shell.credentials()["api_key"]) as api:
            assert api.call("GET", "/v1/tables").status == 200
    finally:
        assert shell.run("reset", "--force").returncode == 0
    shell.wait_until_empty()


def test_a_wrong_setting_stops_up_with_a_sentence(tmp_path: Path) -> None:
    environ = {**Shell(home=tmp_path / "home", port=1).environ, "DUCKMESH_PROT": "8081"}
    command = [sys.executable, "-m", "duckmesh.devstack", "up"]
    done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=30)
    assert done.returncode == 1
    assert "Unknown setting DUCKMESH_PROT" in done.stderr
    assert "Traceback" not in done.stderr


def test_reset_does_not_delete_what_it_cannot_ask_about(shell: Shell) -> None:
    shell.up()
    assert shell.run("reset").returncode == 1
    assert shell.credentials()["tenant_id"] == "demo"
