"""What a maintenance job is to whoever runs it: a scope, options, and a way to tell its progress.

A job is a plain function. It may be called again after its process died, by another process, at any moment: what it
has done it finds in the catalog, and what it wants to remember beside that it saves as its cursor.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol
from uuid import UUID

from pydantic import BaseModel, ConfigDict

from duckmesh.kernel.errors import JSON
from storage.store import ObjectStore


class Kind(StrEnum):
    """The jobs, by the names that the API, the policies and the metrics use."""

    COMPACTION = "compaction"
    RETENTION = "retention"
    INTEGRITY = "integrity"
    RESTORE_DRILL = "restore_drill"


@dataclass(frozen=True, kw_only=True)
class Scope:
    """What a run is about: a table, a tenant (no table), or everything (neither)."""

    tenant_id: str | None = None
    table_id: int | None = None


class JobOptions(BaseModel):
    """What may be asked of a run. Requests, policies and commands give the same names; an unknown one is refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dry_run: bool = False


class Progress(Protocol):
    """How a job tells where it stands, and hears that it must stop.

    `at` and `step` raise `RunCancelled` when somebody asked for that, `RunLost` when another process has taken the run
    over, and `RunPaused` when this process must give it back. A job calls them between pieces of work that each take
    seconds, never inside a transaction, lets these errors pass, and leaves nothing half-done behind.
    """

    @property
    def run_id(self) -> UUID:
        """The run's row in the table of its kind; what a job writes of its own, such as findings, names it."""

    @property
    def cursor(self) -> Mapping[str, JSON]:
        """What was saved last, by this process or one before it; empty at the beginning."""

    def at(self, phase: str, done: float) -> None:
        """The run is in this phase, and so much of all its work (0..1) is done."""

    def step(self, name: str, **facts: JSON) -> None:
        """This has been done; it stays in the run's history."""

    def save(self, cursor: Mapping[str, JSON]) -> None:
        """A process that takes the run over goes on from here."""


@dataclass(frozen=True, kw_only=True)
class Workplace:
    """What a job may use: the object store, and a directory of this machine for what it needs meanwhile."""

    store: ObjectStore
    scratch: Path


class Perform(Protocol):
    """Does the job and answers its summary; see the module."""

    def __call__(
        self, *, scope: Scope, options: Any, place: Workplace, progress: Progress
    ) -> Mapping[str, JSON]: ...  # `Any`: the options are of the job's own type


@dataclass(frozen=True, kw_only=True)
class Job:
    """A kind of run: what may be asked of it, and the function that does it, bound to what the configuration says.

    `command_only` names options that only whoever has a shell on the machine may give.
    """

    kind: Kind
    options: type[JobOptions]
    perform: Perform
    command_only: frozenset[str] = frozenset()
