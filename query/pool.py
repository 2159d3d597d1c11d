"""Runners for one process of the API: who gets one, for how long, and what becomes of it afterwards.

Each runner belongs to one tenant until it dies. Warm spares wait; a background thread fetches new ones, so that a
request does not pay for a fork. At its deadline a runner is killed, not asked.

    pool = Pool(PoolSettings(socket=path))
    session = pool.session(tenant_id=tenant, tenant_dir=directory, deadline=time.monotonic() + 30)
    tables = session.inspect(sql).tables          # raises QueryForbidden, QueryInvalid
    answer = session.run(RunRequest(sql=sql, views=…))          # or session.start(…), and read piece by piece

A session holds no runner between its calls: what happens there (a barrier, the planner) costs nobody a place. The pool
is made after its process has forked, and used by any number of threads.
"""

import contextlib
import os
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from duckmesh.kernel import metrics
from query.cancel import Cancellation
from query.errors import PoolBusy, RunnersUnavailable
from query.exchange import Exchange, failed
from query.gate import Verdict
from query.keeper import Keeper, KeeperSettings
from query.link import Runner
from query.predicates import uses_from_json
from query.request import RunAnswer, RunRequest
from query.running import Running

REMEMBERED_VERDICTS = 1024
LONGEST_REMEMBERED_SQL = 16 * 1024
LEAST_CONCURRENCY = 4  # a tenant's long statement must leave room for its short ones and for the other tenants


def default_concurrency() -> int:
    """A place for each processor, and the one that is kept for a tenant that runs nothing.

    Without that one, two tenants could not both have their half, and the second to come would have the smaller part.
    """
    return max(LEAST_CONCURRENCY, os.cpu_count() or 1) + 1


@dataclass(frozen=True, kw_only=True)
class PoolSettings:
    """How many runners one process may have, and for how long each; `tenant_…` is what one tenant may have of it."""

    socket: Path
    spares: int = 2
    runner_limit: int = 8
    concurrency: int = field(default_factory=default_concurrency)
    tenant_concurrency: int = 2
    tenant_max_waiting: int = 32
    max_queries: int = 500
    max_age: float = 600.0
    keep_below_bytes: int = 384 * 2**20  # a runner that once held more is not kept
    max_waiting: int = 48
    max_queue_seconds: float = 10.0


class Session:
    """One query's dealings with the pool: its tenant, its directory of files and its deadline."""

    def __init__(
        self, pool: "Pool", *, tenant_id: str, tenant_dir: Path, deadline: float, cancellation: Cancellation
    ) -> None:
        self._pool, self._tenant, self._deadline = pool, (tenant_id, str(tenant_dir)), deadline
        self._cancellation = cancellation
        self.queue_ms = 0.0  # how long `inspect` waited for its turn

    def inspect(self, sql: str) -> Verdict:
        """What the statement reads. Raises `QueryForbidden` or `QueryInvalid` if it may not run at all."""
        verdict, queued = self._pool.inspect(self._tenant, sql, self._deadline, self._cancellation)
        self.queue_ms += queued * 1_000
        return verdict.insist()

    def start(self, request: RunRequest) -> Running:
        """The statement runs, until it is closed. `request.views` are the tables that `inspect` named; their files lie
        below the tenant's directory."""
        return self._pool.start(self._tenant, request, self._deadline, self._cancellation)

    def run(self, request: RunRequest) -> RunAnswer:
        """The rows of `start`, whole."""
        with contextlib.closing(self.start(request)) as running:
            return running.collect()


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
        self, *, tenant_id: str, tenant_dir: Path, deadline: float, cancellation: Cancellation | None = None
    ) -> contextlib.AbstractContextManager[Session]:
        """A session to use in a `with`; `deadline` is absolute, by `time.monotonic()`.

        With `cancellation`, whatever the session does can be stopped; it then fails in one way or another.
        """
        return contextlib.nullcontext(
            Session(
                self,
                tenant_id=tenant_id,
                tenant_dir=tenant_dir,
                deadline=deadline,
                cancellation=cancellation or Cancellation(),
            )
        )

    def close(self) -> None:
        """No runner of this pool is left; those who wait for one are told."""
        self._keeper.close()

    def inspect(
        self, tenant: tuple[str, str], sql: str, deadline: float, cancellation: Cancellation
    ) -> tuple[Verdict, float]:
        """See `Session.inspect`; with the verdict comes how many seconds it had to wait for a runner."""
        queued = 0.0
        key = (tenant[0], sql)  # by tenant: the verdict is the word of a process that runs this tenant's statements
        with self._verdicts_lock:
            known = self._verdicts.get(key)
            if known is not None:
                self._verdicts.move_to_end(key)
        if known is None:
            runner, queued = self._take(tenant, deadline, cancellation)
            try:
                known = _verdict(self._exchange(runner, {"do": "inspect", "sql": sql}, deadline, max_bytes=0))
            finally:
                self._give_back(runner, cancellation)
            self._remember(key, known)
        return known, queued

    def start(
        self, tenant: tuple[str, str], request: RunRequest, deadline: float, cancellation: Cancellation
    ) -> Running:
        """See `Session.start`."""
        runner, queued = self._take(tenant, deadline, cancellation)
        try:
            exchange = self._exchange(
                runner, {"do": "run", "run": request.to_json()}, deadline, max_bytes=request.max_bytes
            )
        except BaseException:
            self._give_back(runner, cancellation)
            raise
        return Running(exchange, queue_ms=queued * 1000, release=partial(self._give_back, runner, cancellation))

    def _remember(self, key: tuple[str, str], verdict: Verdict) -> None:
        if len(key[1]) > LONGEST_REMEMBERED_SQL:
            return
        with self._verdicts_lock:
            self._verdicts[key] = verdict
            while len(self._verdicts) > REMEMBERED_VERDICTS:
                self._verdicts.popitem(last=False)

    def _take(self, tenant: tuple[str, str], deadline: float, cancellation: Cancellation) -> tuple[Runner, float]:
        """A runner of the tenant's, and how long it was waited for."""
        if os.getpid() != self._made_in:
            raise RuntimeError("a pool cannot be used after a fork; make it in the process that uses it")
        started = time.monotonic()
        until = min(deadline, started + self._settings.max_queue_seconds)
        runner = self._keeper.take(tenant, until=until, cancellation=cancellation)
        if runner is None:
            if self._keeper.connected:
                raise PoolBusy("All query runners are busy; try again.", retry_after=1)
            raise RunnersUnavailable("The query runners are not available; try again.", retry_after=2)
        runner.queries += 1
        cancellation.add(runner.stop)
        queued = time.monotonic() - started
        metrics.query_queue.observe(queued * 1_000)
        return runner, queued

    def _give_back(self, runner: Runner, cancellation: Cancellation) -> None:
        """The runner waits for its tenant's next statement, unless something was odd."""
        cancellation.remove(runner.stop)
        runner.sound = runner.sound and not cancellation.asked
        self._keeper.give_back(runner, keep=runner.sound and runner.queries < self._settings.max_queries)

    def _exchange(self, runner: Runner, request: dict[str, Any], deadline: float, *, max_bytes: int) -> Exchange:
        keep_below = self._settings.keep_below_bytes
        exchange = Exchange(runner, deadline=deadline, max_bytes=max_bytes, keep_below_bytes=keep_below)
        exchange.ask(request)
        return exchange


def _verdict(exchange: Exchange) -> Verdict:
    message = exchange.frame()
    try:
        assert isinstance(message, dict), "an inspection has no data to send"
        verdict = Verdict(
            tables=frozenset(str(name) for name in message["tables"]),
            uses=uses_from_json(message["uses"]),
            code=str(message["code"]),
            message=str(message["message"]),
        )
    except (AssertionError, KeyError, TypeError, ValueError):
        raise failed() from None
    exchange.last(message)
    return verdict
