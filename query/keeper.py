"""The pool's books: which runners there are, who waits for one, and the thread that fetches and buries them."""

import contextlib
import os
import select
import threading
import time
from collections import Counter, deque
from dataclasses import dataclass
from pathlib import Path

from duckmesh.kernel import metrics
from query.cancel import Cancellation
from query.errors import PoolBusy, RunnersUnavailable
from query.fair_queue import FairQueue, Tenant, Waiter
from query.link import Came, Ended, Link, Runner

LOOK_AROUND_SECONDS = 1.0
LOOK_AT_RUNNING_SECONDS = 0.1
RECONNECT_SECONDS = 0.1
STRIKE_SECONDS = 10.0  # how long a tenant yields whose statement was too long, or killed its runner
LONG_SECONDS = 0.5  # of the processors' time: what has had more yields to what has just begun


@dataclass(frozen=True, kw_only=True)
class KeeperSettings:
    """The bounds; see `PoolSettings`."""

    socket: Path
    spares: int
    runner_limit: int
    concurrency: int
    max_age: float
    max_waiting: int
    tenant_concurrency: int
    tenant_max_waiting: int


class Keeper:
    """Gives out runners, as many at a time as `concurrency`, to the tenants in turn, to each in the order asked.

    Whoever waits is woken alone and with its runner in hand: nobody wakes to find nothing.
    """

    def __init__(self, settings: KeeperSettings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._spares: deque[Runner] = deque()
        self._idle: deque[Runner] = deque()  # longest unused first
        self._known: dict[int, Runner] = {}
        self._waiting = FairQueue()
        self._used: dict[Runner, float | None] = {}  # the processors' time it had had when we first looked
        self._running: Counter[Tenant] = Counter()
        self._struck: dict[Tenant, float] = {}  # until when
        self._coming = 0
        self._link: Link | None = None
        self._closed = False
        self._wake, self._waker = os.pipe()
        os.set_blocking(self._waker, False)
        self._thread = threading.Thread(target=self._keep, name="query-runners", daemon=True)
        self._thread.start()

    @property
    def connected(self) -> bool:
        """The zygote is there."""
        return self._link is not None

    def take(self, tenant: Tenant, *, until: float, cancellation: Cancellation) -> Runner | None:
        """A runner of `tenant`'s, at the latest `until`; None if there was none, or the wait was cancelled.

        Raises `PoolBusy` if too many wait who ask for the same tenant, `RunnersUnavailable` if too many wait in all.
        """
        with self._lock:
            if self._closed:
                return None
            if self._waiting.of(tenant) >= self._settings.tenant_max_waiting:
                raise PoolBusy("Too many statements of this tenant wait for their turn; try again.", retry_after=1)
            if len(self._waiting) >= self._settings.max_waiting:
                raise RunnersUnavailable("Too many statements wait for their turn; try again.", retry_after=1)
            waiter = Waiter(tenant=tenant)
            self._waiting.add(waiter)
            self._hand_out()
        with cancellation.stopping(waiter.ready.set):
            cancellation.wait(waiter.ready, until=until)
        with self._lock:
            self._waiting.remove(waiter)
        return waiter.runner

    def give_back(self, runner: Runner, *, keep: bool) -> None:
        """The runner waits for its tenant's next statement, or dies."""
        with self._lock:
            self._release(runner)
            if runner.demoted_for_length or not runner.sound:
                self._strike(runner)
            alive = self._known.get(runner.pid) is runner and not self._closed
            if (
                keep
                and not runner.demoted_for_length
                and alive
                and time.monotonic() - runner.born < self._settings.max_age
            ):
                self._idle.append(runner)
            else:
                stopped = runner.demoted_for_length or not runner.sound
                metrics.runners_ended.labels("died" if not alive else "stopped" if stopped else "retired").inc()
                self._bury(runner)
            self._hand_out()

    def close(self) -> None:
        """No runner is left, and the thread has ended."""
        with self._lock:
            self._closed = True
            self._nudge()
        self._thread.join()
        with self._lock:
            for waiter in self._waiting.clear():
                waiter.ready.set()
        os.close(self._wake)
        os.close(self._waker)

    def _hand_out(self) -> None:
        """Who waits and may run has a runner, the tenants in turn."""
        while (free := self._settings.concurrency - len(self._used)) > 0:
            for waiter in self._waiting.heads():
                if not self._may_run(waiter.tenant, free):
                    continue
                runner = self._runner_for(waiter.tenant)
                if runner is not None:
                    self._waiting.served(waiter)
                    self._used[runner] = None
                    if self._is_struck(waiter.tenant):
                        runner.demote()
                    self._running[waiter.tenant] += 1
                    waiter.runner = runner
                    waiter.ready.set()
                    break
            else:
                return

    def _may_run(self, tenant: Tenant, free: int) -> bool:
        """The tenant has less than its share, and does not take the last place that somebody without one may need."""
        running, share = self._running[tenant], self._settings.tenant_concurrency
        if share >= self._settings.concurrency:
            return True
        return running < share and (free > 1 or not running)

    def _is_struck(self, tenant: Tenant) -> bool:
        """Bombs that are short one by one must not have the processors together either."""
        return self._struck.get(tenant, 0.0) > time.monotonic()

    def _strike(self, runner: Runner) -> None:
        """The tenant's statements, those that run and those that come, leave the processors to others for a while."""
        assert runner.tenant is not None, "a runner that was used has a tenant"
        self._struck[runner.tenant] = time.monotonic() + STRIKE_SECONDS
        for other in self._used:
            if other.tenant == runner.tenant:
                other.demote()

    def _release(self, runner: Runner) -> None:
        del self._used[runner]
        assert runner.tenant is not None, "a runner that was used has a tenant"
        self._running[runner.tenant] -= 1
        if not self._running[runner.tenant]:
            del self._running[runner.tenant]

    def _runner_for(self, tenant: Tenant) -> Runner | None:
        """A runner that may be used now, the tenant's own or a spare; those that died while resting are passed over."""
        while (runner := self._next_for(tenant)) is not None:
            if runner.silent() and (not runner.demoted or self._is_struck(tenant)):
                return runner
            self._bury(runner)
        return None

    def _next_for(self, tenant: Tenant) -> Runner | None:
        for runner in reversed(self._idle):
            if runner.tenant == tenant:
                self._idle.remove(runner)
                return runner
        if not self._spares:
            return None
        if len(self._known) - len(self._spares) >= self._settings.runner_limit:
            if not self._idle:
                return None
            self._bury(self._idle.popleft())
        runner = self._spares.popleft()
        runner.tenant = tenant
        self._nudge()
        return runner

    def _bury(self, runner: Runner) -> None:
        if self._known.get(runner.pid) is runner:
            del self._known[runner.pid]
        runner.kill()

    def _nudge(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.write(self._waker, b".")

    def _keep(self) -> None:
        while not self._closed:
            try:
                link = Link(self._settings.socket)
            except OSError:
                self._rest(RECONNECT_SECONDS)
                continue
            with self._lock:
                self._link = link
            with contextlib.suppress(OSError):
                self._attend(link)
            self._lose(link)

    def _attend(self, link: Link) -> None:
        poll = select.poll()
        poll.register(link, select.POLLIN)
        poll.register(self._wake, select.POLLIN)
        while not self._closed:
            self._fetch(link)
            patience = LOOK_AT_RUNNING_SECONDS if self._used else LOOK_AROUND_SECONDS
            ready = [file for file, _ in poll.poll(patience * 1000)]
            if self._wake in ready:
                os.read(self._wake, 4096)
            if link.fileno() in ready:
                self._note(link)
            self._retire_the_old()
            self._demote_the_long()

    def _fetch(self, link: Link) -> None:
        with self._lock:
            missing = self._settings.spares - len(self._spares) - self._coming
            self._coming += max(missing, 0)
        for _ in range(missing):
            link.ask()

    def _note(self, link: Link) -> None:
        match link.hear():
            case Came(runner=None):
                self._rest(RECONNECT_SECONDS)  # the zygote has no room now
                with self._lock:
                    self._coming -= 1
            case Came(runner=runner) if runner is not None:
                with self._lock:
                    self._coming -= 1
                    self._known[runner.pid] = runner
                    self._spares.append(runner)
                    self._hand_out()
            case Ended(pid=pid, status=status):
                with self._lock:
                    self._end(pid, status)

    def _end(self, pid: int, status: int) -> None:
        runner = self._known.pop(pid, None)
        if runner is None:
            return
        runner.status = status
        runner.ended.set()
        for resting in (self._idle, self._spares):
            if runner in resting:
                resting.remove(runner)
                runner.kill()

    def _retire_the_old(self) -> None:
        with self._lock:
            oldest = time.monotonic() - self._settings.max_age
            self._struck = {tenant: until for tenant, until in self._struck.items() if self._is_struck(tenant)}
            for runner in [runner for runner in self._idle if runner.born < oldest]:
                self._idle.remove(runner)
                self._bury(runner)

    def _demote_the_long(self) -> None:
        """Statements that run for long leave the processors to those that have just begun, whosever they are."""
        with self._lock:
            for runner, before in self._used.items():
                if runner.demoted_for_length or self._known.get(runner.pid) is not runner:
                    continue
                had = runner.processor_seconds()
                if before is None:
                    self._used[runner] = had
                elif had - before > LONG_SECONDS:
                    runner.demoted_for_length = True
                    self._strike(runner)

    def _lose(self, link: Link) -> None:
        """The zygote is gone, and all it forked with it. Runners in use are noticed by those who use them."""
        with self._lock:
            self._link = None
            self._coming = 0
            for runner in (*self._idle, *self._spares):
                runner.kill()
            self._idle.clear()
            self._spares.clear()
            for runner in self._known.values():
                runner.ended.set()
            self._known.clear()
        link.close()

    def _rest(self, seconds: float) -> None:
        poll = select.poll()
        poll.register(self._wake, select.POLLIN)
        if poll.poll(seconds * 1000):
            os.read(self._wake, 4096)
