"""The file that tells a client how to reach the stack."""

import json
from dataclasses import dataclass
from pathlib import Path

from duckmesh.devstack.errors import StackError
from duckmesh.devstack.layout import Home


@dataclass(frozen=True, kw_only=True)
class Credentials:
    """How to reach the stack as its first tenant."""

    base_url: str
    tenant_id: str
    api_key: str


def read_credentials(home: Home) -> Credentials:
    """The credentials that the last `up` left in the home."""
    found = read_json(home.credentials)
    if not found:
        raise StackError(f"{home.credentials} is missing: run make up.")
    return Credentials(**found)


def read_json(path: Path) -> dict[str, str]:
    """The object in `path`; empty if there is none."""
    try:
        found: dict[str, str] = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return {}
    return found
