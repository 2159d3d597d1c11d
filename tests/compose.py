"""deploy/compose.yaml as Docker Compose reads it: merged, interpolated, one service or all of them."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from duckmesh.kernel.config import ROOT

DEPLOY = ROOT / "deploy"
_VARIABLE = re.compile(r"\$(?:\$|\{(?P<name>[A-Z0-9_]+)(?::(?P<kind>[-?])(?P<rest>[^}]*))?\})")

# What Compose's files hold is untyped.
Service = dict[str, Any]


class Missing(Exception):
    """A variable that must be set is not; the message is what the file says of it."""


def read(variables: Mapping[str, str]) -> dict[str, Any]:
    """The file with these variables in their places. Raises `Missing`."""
    found: dict[str, Any] = yaml.safe_load(_interpolated((DEPLOY / "compose.yaml").read_text(), variables))
    return found


def env_file(path: Path) -> dict[str, str]:
    """The variables of an env file."""
    return dict(line.split("=", 1) for line in path.read_text().splitlines() if "=" in line and line[0] != "#")


def _interpolated(text: str, variables: Mapping[str, str]) -> str:
    def value(match: re.Match[str]) -> str:
        if match[0] == "$$":
            return "$"
        given = variables.get(match["name"], "")
        if given or match["kind"] is None:
            return given
        if match["kind"] == "?":
            raise Missing(f"{match['name']}: {match['rest']}")
        return match["rest"]

    return _VARIABLE.sub(value, text)
