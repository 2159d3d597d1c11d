"""A run's progress as a test sees it: everything is recorded, and the nth call can raise."""

import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise

from duckmesh.kernel.errors import JSON, DuckMeshError


def _nothing() -> None:
    pass


@dataclass(kw_only=True)
class Recorder:
    """A `Progress` that remembers. From the call `fail_at` on (from 1, of `at` and `step`), `error` is raised.

    `beside` is what happens at each call, before that.
    """

    fail_at: int = 0
    error: DuckMeshError | None = None
    run_id: uuid.UUID = field(default_factory=uuid.uuid4)
    cursor: Mapping[str, JSON] = field(default_factory=dict)
    beside: Callable[[], None] = _nothing
    phases: list[str] = field(default_factory=list)
    shares: list[float] = field(default_factory=list)
    steps: list[tuple[str, dict[str, JSON]]] = field(default_factory=list)
    calls: int = 0
    times: list[float] = field(default_factory=list)

    @property
    def seconds(self) -> list[float]:
        """What lies between the calls."""
        return [later - earlier for earlier, later in pairwise(self.times)]

    def at(self, phase: str, done: float) -> None:
        assert 0 <= done <= 1
        self.phases.append(phase)
        self.shares.append(done)
        self._call()

    def step(self, name: str, **facts: JSON) -> None:
        self.steps.append((name, facts))
        self._call()

    def save(self, cursor: Mapping[str, JSON]) -> None:
        self.cursor = dict(cursor)

    def _call(self) -> None:
        self.beside()
        self.calls += 1
        self.times.append(time.monotonic())
        if self.error is not None and self.calls >= self.fail_at:
            raise self.error
