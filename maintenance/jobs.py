"""The jobs there are. Only edges ask for them: each is bound to what the configuration says.

To add one: expose `XOptions(JobOptions)` and `perform(*, scope, options, place, progress, …)`, and return it here with
everything else of `perform` bound (`functools.partial`) to values of the configuration. A job whose work ends with
something that must not be raises a `FoundProblems`, which keeps its summary; any other error of ours fails the run
with its code. Runs, endpoints, policies, commands and tasks need nothing more.
"""

from collections.abc import Mapping

from duckmesh.kernel.config import Config
from maintenance import compaction_job
from maintenance.job import Job, Kind, Workplace
from storage.factory import StoreSettings, open_store


def jobs(_config: Config) -> Mapping[Kind, Job]:
    """Every job by its kind."""
    found = [
        Job(kind=Kind.COMPACTION, options=compaction_job.CompactionOptions, perform=compaction_job.perform),
    ]
    return {job.kind: job for job in found}


def workplace(config: Config) -> Workplace:
    """The object store, and the directory for scratch files."""
    return Workplace(store=open_store(StoreSettings.of(config)), scratch=config.home / "scratch")
