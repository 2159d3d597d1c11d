"""The jobs there are. Only edges ask for them: each is bound to what the configuration says.

To add one: expose `XOptions(JobOptions)` and `perform(*, scope, options, place, progress, …)`, and return it here with
everything else of `perform` bound (`functools.partial`) to values of the configuration. A job whose work ends with
something that must not be raises a `FoundProblems`, which keeps its summary; any other error of ours fails the run
with its code. Runs, endpoints, policies, commands and tasks need nothing more.
"""

from collections.abc import Mapping
from functools import partial

from duckmesh.kernel.config import QUERY_SLACK, Config
from duckmesh.kernel.spans import ladder
from maintenance import compaction, retention
from maintenance.drill import job as drill_job
from maintenance.drill.job import DrillOptions, DrillPolicy
from maintenance.integrity import job as integrity_job
from maintenance.integrity.job import IntegrityLimits, IntegrityOptions
from maintenance.job import Job, Kind, Workplace
from maintenance.ladder import RetentionPolicy
from maintenance.postgres.programs import find_programs
from maintenance.rules import RetentionLimits, RetentionOptions
from storage.factory import StoreSettings, open_store


def jobs(config: Config) -> Mapping[Kind, Job]:
    """Every job by its kind."""
    found = [
        Job(
            kind=Kind.COMPACTION,
            options=compaction.CompactionOptions,
            perform=partial(compaction.perform, settings=compaction.CompactionSettings.of(config)),
        ),
        _retention(config),
        _drill(config),
        _integrity(config),
    ]
    return {job.kind: job for job in found}


def _retention(config: Config) -> Job:
    policy = RetentionPolicy(
        keep_last=config.retention_keep_last,
        keep_all_for=config.retention_keep_all_for,
        rungs=ladder(config.retention_ladder),
    )
    limits = RetentionLimits(
        safety_age=config.gc_safety_age,
        least_safety_age=max(config.max_query_timeout + QUERY_SLACK, config.attempt_limit),
        orphan_grace=config.orphan_grace,
        sweep_every=config.orphan_sweep_every,
    )
    perform = partial(retention.perform, policy=policy, limits=limits)
    return Job(kind=Kind.RETENTION, options=RetentionOptions, perform=perform)


def _integrity(config: Config) -> Job:
    limits = IntegrityLimits(
        bytes_per_second=config.integrity_bytes_per_second,
        # Retention sees an orphan at its first sweep, and deletes it at the first one after the grace.
        orphan_grace=config.orphan_grace + 3 * config.orphan_sweep_every,
    )
    return Job(kind=Kind.INTEGRITY, options=IntegrityOptions, perform=partial(integrity_job.perform, limits=limits))


def _drill(config: Config) -> Job:
    policy = DrillPolicy(programs=find_programs(config.postgres_programs))
    return Job(
        kind=Kind.RESTORE_DRILL,
        options=DrillOptions,
        perform=partial(drill_job.perform, policy=policy),
        command_only=frozenset({"keep"}),
    )


def workplace(config: Config) -> Workplace:
    """The object store, and the directory for scratch files."""
    return Workplace(store=open_store(StoreSettings.of(config)), scratch=config.home / "scratch")
