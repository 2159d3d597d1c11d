"""Run a checking tool without a stack: `python -m duckmesh.devstack.isolated mypy | importlinter | manage.py …`.

The tools read Django's settings. They must give the same answer whatever the caller's environment says and whether
or not a stack runs, so they get a home that holds nothing. No server is needed.
"""

import os
import subprocess
import sys
import tempfile

from duckmesh.kernel.config import PREFIX, ROOT

TOOLS = {
    "mypy": ["-m", "mypy"],
    "importlinter": ["-c", "from importlinter.cli import lint_imports_command; lint_imports_command()"],
    "manage.py": ["-W", "ignore::RuntimeWarning", "manage.py"],  # no server runs, which it would mention
}


def main() -> int:
    """The tool's exit status."""
    tool, *arguments = sys.argv[1:]
    environ = {name: value for name, value in os.environ.items() if not name.startswith((PREFIX, "DJANGO_"))}
    with tempfile.TemporaryDirectory(prefix="duckmesh-check-") as home:
        environ |= {f"{PREFIX}HOME": home, f"{PREFIX}LOG_LEVEL": "WARNING"}
        command = [sys.executable, *TOOLS[tool], *arguments]
        return subprocess.run(command, env=environ, cwd=ROOT, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
