"""docs/settings.md, written from the fields of `Config`: `python -m duckmesh.devstack.settings_page [--check]`."""

import sys
from datetime import timedelta
from pathlib import Path
from typing import get_args

from pydantic.fields import FieldInfo

from duckmesh.kernel.config import PREFIX, ROOT, Config
from duckmesh.kernel.spans import spelled

PAGE = ROOT / "docs" / "settings.md"
INTRODUCTION = """# Settings

DuckMesh is configured by environment variables. They are read once, when a process starts. An unknown name that
begins with `DUCKMESH_`, or a value that cannot be, stops the process with a sentence that says what is accepted.
`make up` writes the addresses of the embedded servers to `stack.env` in the home directory; the environment wins
over that file. A duration is written `500ms`, `30s`, `5m`, `2h` or `7d`, a size `1048576`, `64MiB` or `2GiB`, a
switch `1` or `0`.

This page is generated from `duckmesh/kernel/config.py` by `make fmt`; `make check` fails when it is out of date.

| name | default | what it does |
|---|---|---|
"""


def page() -> str:
    """The whole page."""
    return INTRODUCTION + "".join(_row(name, field) for name, field in Config.model_fields.items())


def _row(name: str, field: FieldInfo) -> str:
    return f"| `{PREFIX}{name.upper()}` | {_default(field.default)} | {field.description}{_choices(field)} |\n"


def _choices(field: FieldInfo) -> str:
    choices = [choice for choice in get_args(field.annotation) if isinstance(choice, str)]
    return f" One of {', '.join(f'`{choice}`' for choice in choices)}." if choices else ""


def _default(value: object) -> str:
    if value is None or value == "":
        return ""
    return f"`{_text(value)}`"


def _text(value: object) -> str:
    match value:
        case bool():
            return "1" if value else "0"
        case timedelta():
            return spelled(value)
        case int():
            return _size(value)
        case Path():
            return str(value.relative_to(ROOT)) if value.is_relative_to(ROOT) else str(value)
    return str(value)


def _size(value: int) -> str:
    for unit, length in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if value >= length and value % length == 0:
            return f"{value // length}{unit}"
    return str(value)


def main() -> int:
    """Write the page, or with --check say whether it is up to date."""
    if "--check" not in sys.argv[1:]:
        PAGE.write_text(page(), encoding="utf-8")
    elif not PAGE.exists() or PAGE.read_text(encoding="utf-8") != page():
        sys.stderr.write("docs/settings.md is out of date: run make fmt.\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
