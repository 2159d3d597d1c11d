"""What is asked of a run, as a request, a policy or a command gives it: names and JSON values, strictly read."""

import json
from collections.abc import Mapping

from pydantic import ValidationError

from catalog.errors import TableNotFound, TenantNotFound
from catalog.mode import require_writable
from catalog.models import TableDef, Tenant
from catalog.tables import live_tables
from duckmesh.kernel.errors import JSON, Invalid
from maintenance.job import Job, JobOptions, Kind, Scope
from maintenance.runs import PAUSED_KINDS


def parse_options(job: Job, given: Mapping[str, JSON], *, from_command: bool = False) -> JobOptions:
    """The job's options. Raises `Invalid`, naming every one that is unknown or wrong."""
    refused = set() if from_command else job.command_only & set(given)
    unknown, wrong = set(refused), []
    try:
        options = job.options.model_validate_json(json.dumps(dict(given)), strict=True)
    except ValidationError as exc:
        for error in exc.errors(include_url=False, include_context=False, include_input=False):
            name = ".".join(map(str, error["loc"]))
            if error["type"] == "extra_forbidden":
                unknown.add(name[:63])
            else:
                wrong.append(f"{name or 'options'}: {error['msg'].removeprefix('Value error, ')}.")
    if unknown:
        wrong.insert(0, f"Not known here: {', '.join(sorted(unknown)[:20])}.")
    if wrong:
        raise Invalid(" ".join(wrong))
    return options


def require_mode(kind: Kind, options: JobOptions) -> None:
    """Raises `ReadOnly` if a run of this kind would have to wait for the end of read-only mode.

    For whoever waits for the run. What policies ask for may wait.
    """
    if kind in PAUSED_KINDS and not options.dry_run:
        require_writable()


def scope_of(*, tenant_id: str | None, table: str | None) -> Scope:
    """The scope that these names mean now. A table without a tenant must be the only one of its name.

    Raises `TenantNotFound`, `TableNotFound`, and `Invalid` if it is not clear which table is meant.
    """
    if tenant_id is not None and not Tenant.objects.filter(tenant_id=tenant_id).exists():
        raise TenantNotFound(f"There is no tenant {tenant_id}.", tenant_id=tenant_id)
    if table is None:
        return Scope(tenant_id=tenant_id)
    if tenant_id is not None:
        return Scope(tenant_id=tenant_id, table_id=live_tables(tenant_id=tenant_id).find(table).table_id)
    named = list(TableDef.objects.filter(name__iexact=table, dropped_in=None).values_list("tenant_id", "table_id")[:2])
    if not named:
        raise TableNotFound(f"There is no table {table}.", table_name=table)
    if len(named) > 1:
        raise Invalid(f"Several tenants have a table {table}: name one of them, too.")
    return Scope(tenant_id=named[0][0], table_id=named[0][1])
