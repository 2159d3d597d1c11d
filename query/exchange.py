"""One request to a runner and the frames of its answer; what goes wrong on the way is raised as ours."""

import os
import select
import signal
import time
from pathlib import Path
from typing import Any

from duckmesh.kernel.logs import log_context
from query import wire
from query.errors import QueryResourcesExceeded, QueryTimeout, RunnersUnavailable, error_of
from query.link import Runner
from query.zygote_records import EXIT_MEMORY

SECONDS_TO_LEARN_AN_END = 0.3
DEATHS_BY_MEMORY = frozenset({signal.SIGKILL, signal.SIGABRT, signal.SIGXCPU, signal.SIGXFSZ})
_MORE_THAN_ARROW = 64 * 1024  # frames and the last message, above the limit the runner keeps itself


class Exchange:
    """What is said to a runner that is held, and what it answers. `runner.sound` says whether it ended well."""

    def __init__(self, runner: Runner, *, deadline: float, max_bytes: int, keep_below_bytes: int) -> None:
        self._runner, self._deadline, self._keep_below = runner, deadline, keep_below_bytes
        self._room = max_bytes + _MORE_THAN_ARROW
        runner.sound = False  # until the exchange has ended as it should

    def ask(self, request: dict[str, Any]) -> None:
        """The request is with the runner."""
        left = self._deadline - time.monotonic()
        try:
            self._runner.sock.settimeout(max(left, 0.001))
            if not self._runner.greeted:
                wire.send_message(self._runner.sock, {"tenant_dir": _directory(self._runner)})
                self._runner.greeted = True
            wire.send_message(self._runner.sock, {**request, "seconds": max(left, 0), "about": log_context()})
        except TimeoutError:
            raise _late() from None
        except OSError:
            raise _why(self._runner) from None

    def ready(self, seconds: float) -> bool:
        """There is something to read or to learn, at the latest after `seconds` or at the deadline."""
        poll = select.poll()
        file = self._runner.sock.fileno()
        if file < 0:
            return True  # the runner has been given back meanwhile
        poll.register(file, select.POLLIN)
        left = self._deadline - time.monotonic()
        return left <= 0 or bool(poll.poll(max(min(seconds, left), 0) * 1000)) or left <= seconds

    def frame(self) -> bytearray | dict[str, Any]:
        """The next piece of data, or a message. Raises what the message says went wrong."""
        try:
            kind, body = wire.receive(
                self._runner.sock,
                until=self._deadline,
                max_message=wire.MAX_ANSWER_MESSAGE,
                max_data=max(min(self._room, wire.MAX_DATA), 0),
            )
            if kind == wire.DATA:
                self._room -= len(body)
                return body
            message = wire.parse_message(body)
        except TimeoutError:
            raise _late() from None
        except (wire.WireError, OSError):
            raise _why(self._runner) from None
        if message.get("ok") is not True:
            self._runner.sound = message.get("retire") is False
            raise error_of(str(message.get("code")), str(message.get("message"))[:2_000])
        return message

    def last(self, message: dict[str, Any]) -> None:
        """`message` was the answer's end, and the runner may live if it has not grown too big."""
        peak = message.get("peak_bytes", 0)
        self._runner.sound = isinstance(peak, int) and peak <= self._keep_below

    def distrust(self) -> None:
        """The runner dies when it is given back."""
        self._runner.sound = False


def failed() -> RunnersUnavailable:
    """What a caller is told whose runner said what no runner of ours says."""
    return RunnersUnavailable("The query's runner failed; try again.", retry_after=1)


def _late() -> QueryTimeout:
    return QueryTimeout("The query was stopped at its deadline.")


def _directory(runner: Runner) -> str:
    assert runner.tenant is not None, "a runner that is used has a tenant"
    directory = runner.tenant[1]
    try:
        # A tenant without files has no directory yet, and the runner must be able to name it to the kernel.
        Path(directory).mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise RunnersUnavailable("The directory of data files is not available; try again.", retry_after=5) from exc
    return directory


def _why(runner: Runner) -> Exception:
    """What to tell the caller whose runner died; its end is known a moment after its socket has closed."""
    runner.ended.wait(SECONDS_TO_LEARN_AN_END)
    status = runner.status
    if status is not None:
        by_memory = os.WIFSIGNALED(status) and os.WTERMSIG(status) in DEATHS_BY_MEMORY
        if by_memory or (os.WIFEXITED(status) and os.WEXITSTATUS(status) == EXIT_MEMORY):
            return QueryResourcesExceeded("The statement needs more memory than one query may have.")
    return RunnersUnavailable("The query's runner died; try again.", retry_after=1)
