"""deploy/systemd and deploy/Procfile start what there is, as it is started everywhere."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from duckmesh.devstack import processes
from duckmesh.devstack.layout import Home
from duckmesh.kernel.config import load_config
from tests import compose

pytestmark = pytest.mark.deploy

UNITS = compose.DEPLOY / "systemd"
PYTHON = "/opt/duckmesh/.venv/bin/python"


@pytest.fixture
def known(tmp_path: Path) -> set[str]:
    """Every program that can be served."""
    config = load_config({"DUCKMESH_HOME": str(tmp_path)})
    return {program.name for program in processes.programs(config, Home(tmp_path), metrics_ports={})}


def test_the_procfile_names_every_program_once(known: set[str]) -> None:
    lines = [line for line in (compose.DEPLOY / "Procfile").read_text().splitlines() if not line.startswith("#")]
    started = dict(line.split(": ", 1) for line in lines)
    assert started.pop("release") == "python manage.py migrate --no-input"
    assert started == {name: f"python -m duckmesh.serve {name}" for name in known}


def test_the_target_wants_every_program_but_flower(known: set[str]) -> None:
    text = (UNITS / "duckmesh.target").read_text()
    [wanted] = [line for line in text.splitlines() if line.startswith("Wants=")]
    names = {
        unit.removesuffix(".service").replace("duckmesh@", "").replace("duckmesh-", "") for unit in wanted[6:].split()
    }
    assert names == known - {"flower"}


def test_systemd_takes_the_units(tmp_path: Path) -> None:
    for unit in UNITS.iterdir():
        (tmp_path / unit.name).write_text(unit.read_text().replace(PYTHON, sys.executable))
    verifier = shutil.which("systemd-analyze")
    assert verifier is not None, "these tests need systemd-analyze (Debian's package systemd)"
    names = ["duckmesh.target", "duckmesh-api.service", "duckmesh@worker-materialize.service"]
    run = subprocess.run(
        [verifier, "verify", *(tmp_path / name for name in names)], capture_output=True, text=True, check=False
    )
    ours = [line for line in run.stderr.splitlines() if "duckmesh" in line]
    assert ours == []


def test_units_wait_longer_than_the_grace_and_hold_no_privilege() -> None:
    for unit in UNITS.glob("*.service"):
        text = unit.read_text()
        assert "NoNewPrivileges=yes" in text
        assert "User=duckmesh" in text
        assert unit.name == "duckmesh-migrate.service" or "TimeoutStopSec=40" in text
    assert "EnvironmentFile" not in (UNITS / "duckmesh-runners.service").read_text()
