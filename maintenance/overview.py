"""What happens by itself to what: each tenant and table with the policy that holds for it, for the operator to see."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from catalog.models import TableDef
from maintenance.job import Kind
from maintenance.policies import Last, Policy, due_at, effective
from maintenance.schedule import last_runs, policies_by_name, subjects_of


@dataclass(frozen=True, kw_only=True)
class Outlook:
    """What a kind of run is about, the policy that holds for it, if any does, and when it may run next."""

    kind: Kind
    name: str
    tenant_id: str | None
    table_name: str | None
    policy: Policy | None
    last: Last | None
    next_at: datetime | None


def outlooks(*, tenant_id: str | None = None) -> Iterator[Outlook]:
    """One for everything that policies are about; of one tenant, and what is about everything, if one is named."""
    names = dict(TableDef.objects.filter(dropped_in=None).values_list("table_id", "name"))
    for (kind, name), policies in sorted(policies_by_name().items()):
        lasts = last_runs(kind, name)
        for subject in subjects_of(kind, policies):
            scope = subject.scope
            if tenant_id is not None and scope.tenant_id not in (None, tenant_id):
                continue
            policy, last = effective(policies, scope), lasts.get(scope)
            holds = policy is not None and policy.enabled
            yield Outlook(
                kind=kind,
                name=name,
                tenant_id=scope.tenant_id,
                table_name=names.get(scope.table_id) if scope.table_id is not None else None,
                policy=policy,
                last=last,
                next_at=due_at(policy, subject, last) if policy is not None and holds else None,
            )
