"""The tick: what policies say is due is asked for, and workers hear again of runs that they were told of in vain.

Two at once, none for an hour, or one that is killed: each due run is in the database once, with the moment from which
the next is reckoned, in one transaction.
"""

import uuid
from collections import defaultdict
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta

import structlog
from django.db import connection, transaction

from catalog.models import Tenant
from duckmesh.kernel.errors import Invalid
from duckmesh.kernel.failpoints import failpoint
from maintenance.asking import parse_options
from maintenance.job import Job, Kind, Scope
from maintenance.models import MaintenancePolicy, Run
from maintenance.policies import Last, Policy, Subject, Window, effective, is_due
from maintenance.runs import Poke, request_run, table_of

MOST_PER_TICK = 500
POKE_AGAIN = timedelta(seconds=30)

log = structlog.get_logger(__name__)


@transaction.atomic
def request_due(jobs: Mapping[Kind, Job]) -> list[uuid.UUID]:
    """Every run that policies of these jobs make due is queued, up to `MOST_PER_TICK`; none if another tick does it."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_try_advisory_xact_lock(hashtextextended('maintenance tick', 0)), now()")
        alone, now = cursor.fetchone()
    if not alone:
        return []
    found: list[uuid.UUID] = []
    for (kind, name), policies in sorted(policies_by_name().items()):
        if kind not in jobs or not any(policy.enabled for policy in policies):
            continue
        lasts = last_runs(kind, name)
        for subject in subjects_of(kind, policies):
            policy = effective(policies, subject.scope)
            if policy is None or not is_due(policy, subject, lasts.get(subject.scope), now=now):
                continue
            if len(found) == MOST_PER_TICK:
                return found
            run_id = _request(jobs[kind], policy, subject, now)
            if run_id is not None:
                found.append(run_id)
    failpoint("tick.before_commit")
    return found


def _request(job: Job, policy: Policy, subject: Subject, now: datetime) -> uuid.UUID | None:
    try:
        options = parse_options(job, policy.options)
    except Invalid as exc:
        log.error("policy_invalid", policy=str(policy), reason=exc.message)
        return None
    run_id = request_run(
        kind=job.kind, scope=subject.scope, options=options, requested_by=f"policy:{policy.name}", reason=str(policy)
    )
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO maintenance_schedule (kind, name, tenant_id, table_id, requested_at, run_id, seen_snapshot)"
            " VALUES (%s, %s, %s, %s, %s, %s, %s) ON CONFLICT (kind, name, tenant_id, table_id) DO UPDATE SET"
            " requested_at = excluded.requested_at, run_id = excluded.run_id, seen_snapshot = excluded.seen_snapshot",
            [job.kind.value, policy.name, subject.scope.tenant_id, subject.scope.table_id, now, run_id, subject.change],
        )
    return run_id


def policy_of(row: MaintenancePolicy) -> Policy:
    """The policy that the row holds."""
    window = None
    if row.window_start is not None and row.window_end is not None:
        window = Window(start=row.window_start, end=row.window_end)
    return Policy(
        kind=Kind(row.kind),
        name=row.name,
        scope=Scope(tenant_id=row.tenant_id, table_id=row.table_id),
        enabled=row.enabled,
        interval=row.interval,
        created_at=row.created_at,
        window=window,
        options=row.options,
    )


def policies_by_name() -> Mapping[tuple[Kind, str], list[Policy]]:
    """The policies as they are now, those of one kind and name together."""
    found = defaultdict(list)
    for row in MaintenancePolicy.objects.all():
        found[Kind(row.kind), row.name].append(policy_of(row))
    return found


_LASTS = """
SELECT s.tenant_id, s.table_id, s.requested_at, s.seen_snapshot, r.state
  FROM maintenance_schedule s LEFT JOIN {table} r ON r.run_id = s.run_id WHERE s.kind = %s AND s.name = %s
"""


def last_runs(kind: Kind, name: str) -> Mapping[Scope, Last]:
    """The last run that policies of this kind and name have asked for, by what it was about."""
    with connection.cursor() as cursor:
        cursor.execute(_LASTS.format(table=table_of(kind)), [kind.value, name])
        return {
            Scope(tenant_id=tenant_id, table_id=table_id): Last(
                requested_at=requested_at,
                change=change,
                live=state in (Run.State.QUEUED, Run.State.RUNNING),
                failed=state == Run.State.FAILED,
            )
            for tenant_id, table_id, requested_at, change, state in cursor.fetchall()
        }


_TABLES = """
SELECT tenant_id, table_id, created_at,
       (SELECT max(snapshot_id) FROM snapshot_table_watermark w WHERE w.table_id = t.table_id)
  FROM table_def t WHERE dropped_in IS NULL AND (%s::bigint[] IS NULL OR table_id = ANY (%s::bigint[]))
 ORDER BY table_id
"""


def subjects_of(kind: Kind, policies: Iterable[Policy]) -> list[Subject]:
    """What runs of this kind are about: of a compaction each table, of a drill everything, else each tenant.

    A policy for a table adds the table to what runs that look at whole tenants are about.
    """
    beginning = datetime.min.replace(tzinfo=min(policy.created_at for policy in policies).tzinfo)
    if kind == Kind.RESTORE_DRILL:
        return [Subject(scope=Scope(), since=beginning)]
    if kind == Kind.COMPACTION:
        return _tables(None)
    tenants = [
        Subject(scope=Scope(tenant_id=tenant_id), since=created_at)
        for tenant_id, created_at in Tenant.objects.order_by("tenant_id").values_list("tenant_id", "created_at")
    ]
    own = [policy.scope.table_id for policy in policies if policy.scope.table_id is not None]
    return tenants + [Subject(scope=table.scope, since=table.since) for table in (_tables(own) if own else [])]


def _tables(table_ids: list[int] | None) -> list[Subject]:
    with connection.cursor() as cursor:
        cursor.execute(_TABLES, [table_ids, table_ids])
        return [
            Subject(scope=Scope(tenant_id=tenant_id, table_id=table_id), since=created_at, change=change)
            for tenant_id, table_id, created_at, change in cursor.fetchall()
        ]


_WAITING = """
UPDATE {table} SET poked_at = clock_timestamp() WHERE run_id IN (
    SELECT run_id FROM (
        SELECT DISTINCT ON (tenant_id, table_id) run_id, state, lease_until, poked_at, requested_at
          FROM {table} WHERE state IN ('queued', 'running')
         ORDER BY tenant_id, table_id, state = 'queued', requested_at, run_id) head
     WHERE (state = 'queued' OR lease_until < clock_timestamp())
       AND (poked_at IS NULL OR poked_at < lease_until
            OR poked_at < clock_timestamp() - make_interval(secs => %(again)s))
     ORDER BY requested_at LIMIT %(most)s)
RETURNING run_id, tenant_id, (SELECT name FROM table_def t WHERE t.table_id = {table}.table_id)
"""


def waiting_runs(kinds: Iterable[Kind] = Kind) -> list[Poke]:
    """The first in line of each scope where nobody computes, unless workers were told of it a moment ago."""
    found: list[Poke] = []
    values = {"again": POKE_AGAIN.total_seconds(), "most": MOST_PER_TICK}
    for kind in kinds:
        with connection.cursor() as cursor:
            cursor.execute(_WAITING.format(table=table_of(kind)), values)
            found += [
                Poke(kind=kind, run_id=run_id, tenant_id=tenant_id, table_name=table_name)
                for run_id, tenant_id, table_name in cursor.fetchall()
            ]
    return found
