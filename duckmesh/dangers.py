"""Settings that are right on one's own machine and dangerous once others can reach it: a decision over values.

`duckmesh.serve` refuses to start with them, and `manage.py check` names them (duckmesh.checks).
"""

import ipaddress
from dataclasses import dataclass

from duckmesh.kernel.config import Config

SHORTEST_SECRET = 32
FEWEST_CHARACTERS = 8  # different ones, of a secret


@dataclass(frozen=True, kw_only=True)
class Danger:
    """What must not be served, and what to do about it. `id` stays the same for ever."""

    id: str
    text: str
    hint: str


def dangers(config: Config) -> list[Danger]:
    """What forbids that this configuration is served; nothing on the loopback interface."""
    if _is_loopback(config.host):
        return []
    found = [*_secrets(config), *_faults(config)]
    if not config.https and not config.plain_http:
        found.append(
            Danger(
                id="duckmesh.E107",
                text=f"DUCKMESH_HOST is {config.host}, where keys and data would be readable on their way.",
                hint="Put a proxy with TLS before it and set DUCKMESH_HTTPS=1; or say that the network is this"
                " service's alone with DUCKMESH_PLAIN_HTTP=1.",
            )
        )
    if "*" in {name.strip() for name in config.allowed_hosts.split(",")}:
        found.append(
            Danger(
                id="duckmesh.E105",
                text="DUCKMESH_ALLOWED_HOSTS is `*`: every name is believed.",
                hint="Name the hosts that callers use, separated by commas.",
            )
        )
    return found


def _secrets(config: Config) -> list[Danger]:
    hint = "Make one with: python -c 'import secrets; print(secrets.token_urlsafe(48))'"
    key = config.secret_key
    if not key:
        return [Danger(id="duckmesh.E101", text="DUCKMESH_SECRET_KEY is not set.", hint=hint)]
    if len(key) < SHORTEST_SECRET or len(set(key)) < FEWEST_CHARACTERS:
        text = f"DUCKMESH_SECRET_KEY can be guessed: it needs {SHORTEST_SECRET} random characters."
        return [Danger(id="duckmesh.E102", text=text, hint=hint)]
    return []


def _faults(config: Config) -> list[Danger]:
    found = []
    if config.debug:
        text = "DUCKMESH_DEBUG is on, and shows settings and code to whoever causes an error."
        found.append(Danger(id="duckmesh.E103", text=text, hint="Unset it, or bind DUCKMESH_HOST to 127.0.0.1."))
    if config.failpoints:
        text = "DUCKMESH_FAILPOINTS is set, which makes programs die."
        found.append(Danger(id="duckmesh.E104", text=text, hint="Unset it: it is for tests."))
    if config.allow_unsealed_sql:
        text = "DUCKMESH_ALLOW_UNSEALED_SQL is on: a tenant's statement could read what the service can."
        hint = "Unset it, and use Linux 5.13 or newer with Landlock."
        found.append(Danger(id="duckmesh.E106", text=text, hint=hint))
    return found


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
