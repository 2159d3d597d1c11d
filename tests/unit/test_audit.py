"""What `.ci/audit` makes of what pip-audit says: nothing that could not be asked for passes as well."""

import os
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / ".ci" / "audit"
CLEAN = "No known vulnerabilities found"
SKIPPED = f"""{CLEAN}
Name       Skip Reason
---------- ----------------------------------------------------------------------------
psutil     Dependency not found on PyPI and could not be audited: psutil (7.2.2)
supervisor Dependency not found on PyPI and could not be audited: supervisor (4.3.0)"""
FOUND = """Found 1 known vulnerability in 1 package
Name   Version ID             Fix Versions
------ ------- -------------- ------------
django 5.2.1   PYSEC-2025-100 5.2.2"""
FOUND_AND_SKIPPED = FOUND + SKIPPED.removeprefix(CLEAN)
AWAY = "ERROR:pip_audit._cli:Tip: your network may be blocking this service"


@pytest.mark.parametrize(
    ("said", "ended", "status", "told"),
    [
        (CLEAN, 0, 0, "none is known to be vulnerable"),
        (SKIPPED, 0, 2, "NOT AUDITED. No advisories could be had for:\n  list.txt: 2 packages"),
        (AWAY, 1, 2, "NOT AUDITED. No advisories could be had for:\n  list.txt: all packages"),
        (FOUND, 1, 1, "known vulnerabilities in: list.txt"),
        (FOUND_AND_SKIPPED, 1, 1, "known vulnerabilities in: list.txt"),
    ],
    ids=["clean", "skipped", "away", "found", "found-and-skipped"],
)
def test_status_and_words_tell_known_from_not_known(
    tmp_path: Path, said: str, ended: int, status: int, told: str
) -> None:
    tool = tmp_path / ".duckmesh" / "audit" / "bin" / "pip-audit"
    tool.parent.mkdir(parents=True)
    tool.write_text(f"#!/bin/sh\ncat <<'END'\n{said}\nEND\nexit {ended}\n")
    tool.chmod(0o755)
    (tmp_path / "requirements").mkdir()
    (tmp_path / "requirements" / "audit.txt").touch()
    os.utime(tmp_path / "requirements" / "audit.txt", (0, 0))
    (tmp_path / ".duckmesh" / "audit" / "complete").touch()
    done = subprocess.run(
        ["sh", SCRIPT, "python", "list.txt"], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=30
    )
    assert done.returncode == status, done.stderr
    assert told in done.stdout + done.stderr
    assert CLEAN not in done.stdout
    assert ("NOT AUDITED" in done.stderr) == ("could not be audited" in said or said == AWAY)
