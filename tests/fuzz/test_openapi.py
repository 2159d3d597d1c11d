"""schemathesis makes requests of the live OpenAPI document, good and bad ones, and holds every answer against it."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.environments import ROOT, environment
from tests.stack import Stack

pytestmark = [pytest.mark.fuzz, pytest.mark.timeout(1800)]

SECONDS = int(os.environ.get("FUZZ_SECONDS", "120"))


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    with Stack(programs=("runners", "api", "worker-materialize", "worker-maintenance")) as stack:
        yield stack


def test_no_request_gets_an_answer_that_the_document_does_not_have(stack: Stack, tmp_path: Path) -> None:
    made = environment("fuzz", requirements=ROOT / "requirements" / "fuzz.txt")
    run = subprocess.run(
        [
            made / "bin" / "schemathesis",
            f"--config-file={ROOT / 'tests' / 'fuzz' / 'schemathesis.toml'}",
            "run",
            f"{stack.base_url}/v1/openapi.json",
            f"--header=Authorization: Bearer {stack.key}",
            "--phases=coverage,fuzzing,stateful",
            f"--max-time={SECONDS}",
            "--continue-on-failure",
            "--no-color",
        ],
        cwd=tmp_path,
        env={**os.environ, "SCHEMATHESIS_HOOKS": "hooks", "PYTHONPATH": str(ROOT / "tests" / "fuzz")},
        check=False,
        capture_output=True,
        text=True,
        timeout=SECONDS + 900,
    )
    assert run.returncode == 0, run.stdout[-20_000:] + run.stderr[-2_000:]
