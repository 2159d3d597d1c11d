"""Which of a service's files of metrics are this process's.

What a dead process has counted must go on counting. Files named by process numbers would do that, but each that dies
would leave its own, and every scrape would read them all. So a process takes the lowest slot that no living process of
its service holds, and goes on counting where the last one in it ended: there are as many files as there ever were
processes at one time. The kernel frees a slot when its process ends, in whatever way.
"""

import fcntl
import os
from dataclasses import dataclass
from itertools import count
from pathlib import Path

LOCKS = "slots"


@dataclass
class _Held:
    pid: int = 0
    slot: int = 0


_held = _Held()


def slot() -> int:
    """This process's own, for as long as it lives; a forked child takes another."""
    pid = os.getpid()
    if _held.pid != pid:
        # A lock of a byte is this process's alone: no child inherits it. It goes when any descriptor of the file is
        # closed, so this one is not.
        file = os.open(Path(os.environ["PROMETHEUS_MULTIPROC_DIR"]) / LOCKS, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
        _held.slot = next(number for number in count() if _taken(file, number))
        _held.pid = pid
    return _held.slot


def _taken(file: int, number: int) -> bool:
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, number)
    except (BlockingIOError, PermissionError):
        return False
    return True
