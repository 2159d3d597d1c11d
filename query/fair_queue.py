"""Who waits for a runner: each tenant's waiters in the order they came, and the tenants in turn. Pure."""

import threading
from collections import OrderedDict, deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from query.link import Runner

Tenant = tuple[str, str]  # who, and the directory of their files


@dataclass(kw_only=True, eq=False)
class Waiter:
    """One request that waits; `ready` is set when it has its runner or need not wait any more."""

    tenant: Tenant
    ready: threading.Event = field(default_factory=threading.Event)
    runner: Runner | None = None


class FairQueue:
    """A tenant that was served goes behind the others, however many of its requests wait."""

    def __init__(self) -> None:
        self._lines: OrderedDict[Tenant, deque[Waiter]] = OrderedDict()
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def of(self, tenant: Tenant) -> int:
        """How many of the tenant's wait."""
        return len(self._lines.get(tenant, ()))

    def add(self, waiter: Waiter) -> None:
        """The waiter is the last of its tenant's."""
        self._lines.setdefault(waiter.tenant, deque()).append(waiter)
        self._count += 1

    def heads(self) -> Iterator[Waiter]:
        """The first waiter of each tenant, beginning with the tenant whose turn it is."""
        return iter([line[0] for line in self._lines.values()])

    def served(self, waiter: Waiter) -> None:
        """The waiter is gone, and its tenant's next turn comes after everybody else's."""
        self.remove(waiter)
        if waiter.tenant in self._lines:
            self._lines.move_to_end(waiter.tenant)

    def remove(self, waiter: Waiter) -> None:
        """The waiter does not wait (any more)."""
        line = self._lines.get(waiter.tenant)
        if line is None or waiter not in line:
            return
        line.remove(waiter)
        self._count -= 1
        if not line:
            del self._lines[waiter.tenant]

    def clear(self) -> list[Waiter]:
        """Nobody waits; those who did."""
        waiters = [waiter for line in self._lines.values() for waiter in line]
        self._lines.clear()
        self._count = 0
        return waiters
