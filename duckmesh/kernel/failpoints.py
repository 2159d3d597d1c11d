"""Named places where a test makes the process die, fail or stand still.

DUCKMESH_FAILPOINTS, without which they cost one dict lookup, holds `name=action` pairs separated by commas. Actions:
`kill` (SIGKILL to this process), `raise`, `stop` (SIGSTOP to this process), `sleep:SECONDS`. An action
that ends in `@PATH` happens once: whoever creates PATH first takes it.
"""

import os
import signal
import time
from pathlib import Path

_ENV = "DUCKMESH_FAILPOINTS"


class FailpointReached(Exception):
    """A test asked this place to fail."""


def _parse(text: str) -> dict[str, str]:
    pairs = (pair.split("=", 1) for pair in text.split(",") if pair)
    return {name.strip(): action.strip() for name, action in pairs}


_ACTIONS = _parse(os.environ.get(_ENV, ""))


def failpoint(name: str) -> None:
    """Do here what DUCKMESH_FAILPOINTS says of `name`, or nothing."""
    action = _ACTIONS.get(name)
    if action is None:
        return
    action, _, once = action.partition("@")
    if once:
        try:
            Path(once).touch(exist_ok=False)
        except FileExistsError:
            return
    match action.partition(":"):
        case ("kill", _, _):
            os.kill(os.getpid(), signal.SIGKILL)
        case ("stop", _, _):
            os.kill(os.getpid(), signal.SIGSTOP)
        case ("raise", _, _):
            raise FailpointReached(name)
        case ("sleep", _, seconds):
            time.sleep(float(seconds))
        case _:
            raise ValueError(f"{_ENV}: {name} has the unknown action {action!r}")
