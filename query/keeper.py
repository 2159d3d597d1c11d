"""The pool's books: which runners there are, who waits for one, and the thread that fetches and buries them."""

import contextlib
import os
import select
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path

from query.link import Came, Ended, Link, Runner

LOOK_AROUND_SECONDS = 1.0
RECONNECT_SECONDS = 0.1

Tenant = tuple[str, str]  # who, and the directory of their files


@dataclass(frozen=True, kw_only=True)
class KeeperSettings:
    """The bounds; see `PoolSettings`."""

    socket: Path
    spares: int
    runner_limit: int
    concurrency: int
    max_age: float
    max_waiting: int


@dataclass(kw_only=True, eq=False)
class _Waiter:
    tenant: Tenant
    ready: threading.Event = field(default_factory=threading.Event)
    runner: Runner | None = None


class Keeper:
    """Gives out runners in the order they were asked for, as many at a time as `concurrency`.

    Whoever waits is woken alone and with its runner in hand: nobody wakes to find nothing.
    """

    def __init__(self, settings: KeeperSettings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._spares: deque[Runner] = deque()
        self._idle: deque[Runner] = deque()  # longest unused first
        self._known: dict[int, Runner] = {}
        self._waiting: deque[_Waiter] = deque()
        self._running = self._coming = 0
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

    def take(self, tenant: Tenant, *, until: float) -> Runner | None:
        """A runner of `tenant`'s, at the latest `until`; None if there was none."""
        with self._lock:
            if self._closed or len(self._waiting) >= self._settings.max_waiting:
                return None
            waiter = _Waiter(tenant=tenant)
            self._waiting.append(waiter)
            self._hand_out()
        waiter.ready.wait(max(0, until - time.monotonic()))
        with self._lock:
            if waiter.runner is None and waiter in self._waiting:
                self._waiting.remove(waiter)
        return waiter.runner

    def give_back(self, runner: Runner, *, keep: bool) -> None:
        """The runner waits for its tenant's next statement, or dies."""
        with self._lock:
            self._running -= 1
            alive = self._known.get(runner.pid) is runner and not self._closed
            if keep and alive and time.monotonic() - runner.born < self._settings.max_age:
                self._idle.append(runner)
            else:
                self._bury(runner)
            self._hand_out()

    def close(self) -> None:
        """No runner is left, and the thread has ended."""
        with self._lock:
            self._closed = True
            self._nudge()
        self._thread.join()
        with self._lock:
            for waiter in self._waiting:
                waiter.ready.set()
            self._waiting.clear()
        os.close(self._wake)
        os.close(self._waker)

    def _hand_out(self) -> None:
        for waiter in list(self._waiting):
            if self._running >= self._settings.concurrency:
                break
            runner = self._runner_for(waiter.tenant)
            if runner is not None:
                self._waiting.remove(waiter)
                self._running += 1
                waiter.runner = runner
                waiter.ready.set()

    def _runner_for(self, tenant: Tenant) -> Runner | None:
        """A runner that may be used now, the tenant's own or a spare; those that died while resting are passed over."""
        while (runner := self._next_for(tenant)) is not None:
            if runner.silent():
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
            ready = [file for file, _ in poll.poll(LOOK_AROUND_SECONDS * 1000)]
            if self._wake in ready:
                os.read(self._wake, 4096)
            if link.fileno() in ready:
                self._note(link)
            self._retire_the_old()

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
            for runner in [runner for runner in self._idle if runner.born < oldest]:
                self._idle.remove(runner)
                self._bury(runner)

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
