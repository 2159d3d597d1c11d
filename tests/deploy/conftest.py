"""What the tests of deploy/ share: the tools that know its formats, in an environment of their own."""

import secrets
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import compose
from tests.environments import ROOT, environment

Tool = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def tools() -> Path:
    """Where the programs of requirements/deploytest.txt are."""
    return environment("deploytest", requirements=ROOT / "requirements" / "deploytest.txt") / "bin"


@pytest.fixture(scope="session")
def run_tool(tools: Path) -> Tool:
    """Runs one of them from the root of the checkout; `stdin` is what it reads."""

    def run(name: str, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        command = [tools / name, *arguments]
        return subprocess.run(command, cwd=ROOT, input=stdin, capture_output=True, text=True, check=False, timeout=120)

    return run


@pytest.fixture(scope="session")
def variables() -> dict[str, str]:
    """A value for every secret that deploy/env.example names."""
    found = compose.env_file(compose.DEPLOY / "env.example")
    return {name: secrets.token_hex(32) for name in found}
