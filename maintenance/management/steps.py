"""Steps of a command as they are done: a line each on stderr, so that stdout is the outcome's alone."""

import sys


def tell(name: str, /, **facts: object) -> None:
    """One line: what was done, and facts about it."""
    told = " ".join(f"{key}={value}" for key, value in facts.items() if value is not None)
    print(f"{name} {told}".strip(), file=sys.stderr, flush=True)  # noqa: T201 - a command speaks to its terminal
