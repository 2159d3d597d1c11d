"""Virtual environments for what is measured or served beside DuckMesh and is no part of it."""

import fcntl
import hashlib
import os
import subprocess
import sys
import venv
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def environment(name: str, *, requirements: Path) -> Path:
    """The virtual environment with these requirements, made, with hashes, if there is none for them and this Python.

    It lies in `.duckmesh` of the repository, or in the user's cache where the repository cannot be written.
    """
    wanted = hashlib.sha256(requirements.read_bytes() + sys.version.encode()).hexdigest()[:16]
    for parent in (ROOT / ".duckmesh", Path.home() / ".cache" / "duckmesh"):
        with suppress(OSError):
            (parent / name).mkdir(parents=True, exist_ok=True)
            made = parent / name / wanted
            complete = made / "complete"
            if complete.exists():
                return made
            if os.access(parent / name, os.W_OK):
                break
    else:
        raise RuntimeError(f"neither the repository's .duckmesh nor ~/.cache can be written: no place for {name}")
    with (made.parent / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not complete.exists():
            venv.create(made, clear=True, with_pip=True, symlinks=True)
            pip: list[str | Path] = [made / "bin" / "python", "-m", "pip", "--disable-pip-version-check", "--quiet"]
            subprocess.run(
                [*pip, "install", "--require-hashes", "--only-binary", ":all:", "-r", requirements], check=True
            )
            complete.touch()
    return made
