"""What the commands of the jobs have: `--tenant`, `--table`, `--dry-run`, and a run in the foreground.

It is a run as any other: in the history, one at a time for its scope, and a worker's if this process dies.
"""

import time
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar
from uuid import UUID

from django.conf import settings
from django.core.management.base import CommandParser
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from catalog.management.base import Outcome, ServiceCommand
from duckmesh.kernel.errors import JSON
from maintenance.asking import parse_options, require_mode, scope_of
from maintenance.executing import Executor, execute
from maintenance.history import RunInfo, document_of, find_run
from maintenance.job import Job, Kind
from maintenance.jobs import jobs, workplace
from maintenance.models import Run
from maintenance.runs import cancel_run, request_run

_LOOK_EVERY = 0.5


class RunCommand(ServiceCommand):
    """Asks for a run of its kind, computes it here, and tells what became of it; status 1 unless it succeeded.

    With `--json` the document is the run, as `GET /v1/runs/{id}` shows it. `Any`: the parsed arguments.
    """

    kind: ClassVar[Kind]

    @abstractmethod
    def declare_options(self, parser: CommandParser) -> None:
        """Add an argument for each of the job's own options."""

    @abstractmethod
    def given(self, options: Mapping[str, Any]) -> dict[str, JSON]:
        """The job's own options, from the arguments."""

    def told(self, name: str, facts: Mapping[str, JSON]) -> None:
        """A step of the run was done; whoever shows them while they come says how."""

    @abstractmethod
    def lines(self, run: RunInfo) -> list[str]:
        """What a person reads of a run that has ended, whatever its state."""

    def declare(self, parser: CommandParser) -> None:
        """The arguments that every job has, and its own."""
        parser.add_argument("--tenant", metavar="T", help="The tenant; without it all tenants.")
        parser.add_argument("--table", metavar="N", help="The table; without it all tables.")
        parser.add_argument("--dry-run", action="store_true", help="Show what would be done, and change nothing.")
        self.declare_options(parser)

    def perform(self, options: Mapping[str, Any]) -> Outcome:
        """The run has ended, here or in a worker that was faster."""
        job = jobs(settings.DUCKMESH)[self.kind]
        asked = parse_options(job, {"dry_run": options["dry_run"], **self.given(options)}, from_command=True)
        scope = scope_of(tenant_id=options["tenant"], table=options["table"])
        require_mode(job.kind, asked)
        run_id = request_run(kind=job.kind, scope=scope, options=asked, requested_by="operator")
        try:
            with _bar(job.kind) as watch:
                run = _ended(job, run_id, watch, self.told)
        except KeyboardInterrupt:
            cancel_run(kind=job.kind, run_id=run_id, actor="operator")
            raise
        problem = None if run.state == Run.State.SUCCEEDED else f"{run.error_code}: {run.error}"
        return Outcome(document=document_of(run), lines=self.lines(run), problem=problem)


def _ended(
    job: Job, run_id: UUID, watch: Callable[[str, float], None], told: Callable[[str, Mapping[str, JSON]], None]
) -> RunInfo:
    place = workplace(settings.DUCKMESH)
    executor = Executor(lease=settings.DUCKMESH.run_lease, watch=watch, told=told)
    while True:
        execute(job=job, run_id=run_id, place=place, executor=executor)
        run = find_run(run_id=run_id)
        if not run.live:
            return run
        watch("waits for its turn" if run.state == Run.State.QUEUED else run.phase, run.progress)
        time.sleep(_LOOK_EVERY)


@contextmanager
def _bar(kind: Kind) -> Iterator[Callable[[str, float], None]]:
    """A progress bar on stderr, if that is a terminal; else nothing is shown."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f}%"))
    with Progress(
        *columns, TimeElapsedColumn(), console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task(kind.value, total=1.0)

        def watch(phase: str, done: float) -> None:
            bar.update(task, description=f"{kind.value}: {phase}", completed=done)

        yield watch
