"""Runners for one process of the API: who gets one, for how long, and what becomes of it afterwards.

Each runner belongs to one tenant until it dies. Warm spares wait; a background thread fetches new ones, so that a
request does not pay for a fork. At its deadline a runner is killed, not asked.

    pool = Pool(PoolSettings(socket=path))
    session = pool.session(tenant_id=tenant, tenant_dir=directory, deadline=time.monotonic() + 30)
    tables = session.inspect(sql).tables          # raises QueryForbidden, QueryInvalid
    answer = session.run(RunRequest(sql=sql, views=…))

A session holds no runner between its calls: what happens there (a barrier, the planner) costs nobody a place. The pool
is made after its process has forked, and used by any number of threads.
"""

import contextlib
import os
import signal
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from query import wire
from query.errors import PoolBusy, QueryResourcesExceeded, QueryTimeout, RunnersUnavailable, error_of
from query.gate import Verdict
from query.keeper import Keeper, KeeperSettings
from query.link import Runner
from query.request import RunAnswer, RunRequest
from query.zygote_records import EXIT_MEMORY

REMEMBERED_VERDICTS = 1024
LONGEST_REMEMBERED_SQL = 16 * 1024
LEAST_CONCURRENCY = 4  # a tenant's long statement must leave room for its short ones and for the other tenants
SECONDS_TO_LEARN_AN_END = 0.3
DEATHS_BY_MEMORY = frozenset({signal.SIGKILL, signal.SIGABRT, signal.SIGXCPU, signal.SIGXFSZ})
_MORE_THAN_ARROW = 64 * 1024  # frames and the last message, above the limit the runner keeps itself


@dataclass(frozen=True, kw_only=True)
class PoolSettings:
    """How many runners one process may have, and for how long each; `tenant_…` is what one tenant may have of it."""

    socket: Path
    spares: int = 2
    runner_limit: int = 8
    concurrency: int = field(default_factory=lambda: max(LEAST_CONCURRENCY, os.cpu_count() or 1))
    tenant_concurrency: int = 2
    tenant_max_waiting: int = 32
    max_queries: int = 500
    max_age: float = 600.0
    keep_below_bytes: int = 384 * 2**20  # a runner that once held more is not kept
    max_waiting: int = 48
    max_queue_seconds: float = 10.0


class Session:
    """One query's dealings with the pool: its tenant, its directory of files and its deadline."""

    def __init__(self, pool: "Pool", *, tenant_id: str, tenant_dir: Path, deadline: float) -> None:
        self._pool, self._tenant, self._deadline = pool, (tenant_id, str(tenant_dir)), deadline

    def inspect(self, sql: str) -> Verdict:
        """What the statement reads. Raises `QueryForbidden` or `QueryInvalid` if it may not run at all."""
        return self._pool.inspect(self._tenant, sql, self._deadline)

    def run(self, request: RunRequest) -> RunAnswer:
        """The rows. `request.views` are the tables that `inspect` named; files lie below the tenant's directory."""
        return self._pool.run(self._tenant, request, self._deadline)


class Pool:
    """See the module. `close` kills its runners; so does the end of the process."""

    def __init__(self, settings: PoolSettings) -> None:
        self._settings = settings
        self._made_in = os.getpid()
        self._keeper = Keeper(
            KeeperSettings(
                socket=settings.socket,
                spares=settings.spares,
                runner_limit=settings.runner_limit,
                concurrency=settings.concurrency,
                max_age=settings.max_age,
                max_waiting=settings.max_waiting,
                tenant_concurrency=settings.tenant_concurrency,
                tenant_max_waiting=settings.tenant_max_waiting,
            )
        )
        self._verdicts: OrderedDict[tuple[str, str], Verdict] = OrderedDict()
        self._verdicts_lock = threading.Lock()

    def session(
        self, *, tenant_id: str, tenant_dir: Path, deadline: float
    ) -> contextlib.AbstractContextManager[Session]:
        """A session to use in a `with`; `deadline` is absolute, by `time.monotonic()`."""
        return contextlib.nullcontext(Session(self, tenant_id=tenant_id, tenant_dir=tenant_dir, deadline=deadline))

    def close(self) -> None:
        """No runner of this pool is left; those who wait for one are told."""
        self._keeper.close()

    def inspect(self, tenant: tuple[str, str], sql: str, deadline: float) -> Verdict:
        """See `Session.inspect`."""
        key = (tenant[0], sql)  # by tenant: the verdict is the word of a process that runs this tenant's statements
        with self._verdicts_lock:
            known = self._verdicts.get(key)
            if known is not None:
                self._verdicts.move_to_end(key)
        if known is None:
            with self._runner(tenant, deadline) as (runner, _):
                answer, _ = self._exchange(runner, {"do": "inspect", "sql": sql}, deadline, max_bytes=0)
                known = _verdict(answer)
            self._remember(key, known)
        return known.insist()

    def run(self, tenant: tuple[str, str], request: RunRequest, deadline: float) -> RunAnswer:
        """See `Session.run`."""
        with self._runner(tenant, deadline) as (runner, queued):
            message, arrow = self._exchange(
                runner, {"do": "run", "run": request.to_json()}, deadline, max_bytes=request.max_bytes
            )
            return _answer(message, arrow, queue_ms=queued * 1000)

    def _remember(self, key: tuple[str, str], verdict: Verdict) -> None:
        if len(key[1]) > LONGEST_REMEMBERED_SQL:
            return
        with self._verdicts_lock:
            self._verdicts[key] = verdict
            while len(self._verdicts) > REMEMBERED_VERDICTS:
                self._verdicts.popitem(last=False)

    @contextlib.contextmanager
    def _runner(self, tenant: tuple[str, str], deadline: float) -> Iterator[tuple[Runner, float]]:
        """A runner of the tenant's, and how long it was waited for. It goes back unless something was odd."""
        if os.getpid() != self._made_in:
            raise RuntimeError("a pool cannot be used after a fork; make it in the process that uses it")
        started = time.monotonic()
        runner = self._keeper.take(tenant, until=min(deadline, started + self._settings.max_queue_seconds))
        if runner is None:
            if self._keeper.connected:
                raise PoolBusy("All query runners are busy; try again.", retry_after=1)
            raise RunnersUnavailable("The query runners are not available; try again.", retry_after=2)
        runner.queries += 1
        runner.sound = False  # until an exchange has ended as it should
        try:
            yield runner, time.monotonic() - started
        except _RunnerDiedError:
            raise _why(runner) from None
        except (KeyError, TypeError, ValueError):
            runner.sound = False  # its last message is not one of ours
            raise RunnersUnavailable("The query's runner failed; try again.", retry_after=1) from None
        finally:
            self._keeper.give_back(runner, keep=runner.sound and runner.queries < self._settings.max_queries)

    def _exchange(
        self, runner: Runner, request: dict[str, Any], deadline: float, *, max_bytes: int
    ) -> tuple[dict[str, Any], bytes]:
        """The runner's last message, and the data before it. Raises what the message says went wrong."""
        left = deadline - time.monotonic()
        pieces: list[bytearray] = []
        try:
            runner.sock.settimeout(max(left, 0.001))
            if not runner.greeted:
                wire.send_message(runner.sock, {"tenant_dir": _directory(runner)})
                runner.greeted = True
            wire.send_message(runner.sock, {**request, "seconds": max(left, 0)})
            size, room = 0, max_bytes + _MORE_THAN_ARROW
            kind, body = self._frame(runner, deadline, room)
            while kind == wire.DATA:
                pieces.append(body)
                size += len(body)
                kind, body = self._frame(runner, deadline, room - size)
            message = wire.parse_message(body)
        except TimeoutError:
            raise QueryTimeout("The query was stopped at its deadline.") from None
        except (wire.WireError, OSError):
            raise _RunnerDiedError from None
        if message.get("ok") is not True:
            runner.sound = message.get("retire") is False
            raise error_of(str(message.get("code")), str(message.get("message"))[:2_000])
        peak = message.get("peak_bytes", 0)
        runner.sound = isinstance(peak, int) and peak <= self._settings.keep_below_bytes
        return message, b"".join(pieces)

    def _frame(self, runner: Runner, deadline: float, room: int) -> tuple[bytes, bytearray]:
        return wire.receive(runner.sock, until=deadline, max_message=wire.MAX_ANSWER_MESSAGE, max_data=max(room, 0))


class _RunnerDiedError(Exception):
    """The runner closed its socket, or said what no runner of ours says."""


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


def _verdict(message: dict[str, Any]) -> Verdict:
    return Verdict(
        tables=frozenset(str(name) for name in message["tables"]),
        code=str(message["code"]),
        message=str(message["message"]),
    )


def _answer(message: dict[str, Any], arrow: bytes, *, queue_ms: float) -> RunAnswer:
    return RunAnswer(
        arrow=arrow,
        column_types=tuple(str(kind) for kind in message["column_types"]),
        row_count=int(message["row_count"]),
        truncated=bool(message["truncated"]),
        engine_ms=float(message["engine_ms"]),
        queue_ms=queue_ms,
    )
