"""What a run of retention would do, snapshot by snapshot and object by object, and why. Asking changes nothing."""

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime, timedelta
from itertools import groupby

from catalog.collect import Unreferenced, files_named_by_none_of, forgotten_tables, unreferenced_files
from duckmesh.kernel.clock import rfc3339
from duckmesh.kernel.errors import JSON
from duckmesh.kernel.spans import spelled
from maintenance.expiry import database_time, verdicts_of
from maintenance.job import Progress
from maintenance.ladder import Verdict
from maintenance.orphans import Orphan, list_orphans
from maintenance.rules import Rules
from storage.store import ObjectStore

# The list is part of the run's row. Runs for a tenant or a table list less.
_MOST_LISTED = 20_000

Listed = dict[str, JSON]


def outlook(
    *,
    rules: Mapping[str, Rules],
    table_id: int | None,
    orphan_grace: timedelta | None,
    store: ObjectStore,
    progress: Progress,
) -> dict[str, JSON]:
    """The plan for the tenants of `rules`.

    Snapshots of one fate and reason that follow each other are told together: `from`, `to`, how many.
    """
    snapshots: list[JSON] = []
    objects: list[JSON] = []
    counts = {"snapshots_expired": 0, "files_deleted": 0, "bytes_deleted": 0, "orphans_deleted": 0, "tables_removed": 0}
    for number, (tenant_id, rule) in enumerate(rules.items()):
        done = number / len(rules)
        progress.at("plan", done)
        now = database_time()
        kept: list[int] = []
        if table_id is None:
            verdicts = list(verdicts_of(tenant_id=tenant_id, policy=rule.policy))
            kept = [verdict.snapshot_id for verdict in verdicts if verdict.kept]
            counts["snapshots_expired"] += len(verdicts) - len(kept)
            counts["tables_removed"] += len(forgotten_tables(tenant_id=tenant_id))
            snapshots += _grouped(tenant_id, verdicts)
        listed = list(_files(tenant_id, table_id, kept=kept, safety_age=rule.safety_age, now=now))
        gone = [file for file in listed if file["deleted"]]
        counts["files_deleted"] += len(gone)
        counts["bytes_deleted"] += sum(int(str(file["bytes"])) for file in gone)
        objects += listed
        if table_id is None and orphan_grace is not None:
            found = list_orphans(tenant_id=tenant_id, store=store, progress=progress, done=done)
            orphans = [_orphan(tenant_id, each, grace=orphan_grace, now=now) for each in found]
            counts["orphans_deleted"] += sum(bool(orphan["deleted"]) for orphan in orphans)
            objects += orphans
    return {
        "dry_run": True,
        "tenants": len(rules),
        **counts,
        "snapshots": snapshots,
        "objects": objects[:_MOST_LISTED],
        "objects_left_out": max(0, len(objects) - _MOST_LISTED),
    }


def _grouped(tenant_id: str, verdicts: Iterable[Verdict]) -> Iterator[Listed]:
    for (kept, reason), group in groupby(verdicts, key=lambda verdict: (verdict.kept, verdict.reason)):
        ids = [verdict.snapshot_id for verdict in group]
        yield {
            "tenant_id": tenant_id,
            "from": ids[-1],
            "to": ids[0],
            "snapshots": len(ids),
            "expires": not kept,
            "reason": reason,
        }


def _files(
    tenant_id: str, table_id: int | None, *, kept: list[int], safety_age: timedelta, now: datetime
) -> Iterator[Listed]:
    for file in unreferenced_files(tenant_id=tenant_id, table_id=table_id, unreferenced_for=safety_age):
        deleted, reason = _fate(file, now=now)
        yield _listed(tenant_id, file.path, file.size_bytes, deleted=deleted, reason=reason)
    if table_id is None:
        reason = f"named only by snapshots that expire; deleted {spelled(safety_age)} after that"
        for path, size in files_named_by_none_of(tenant_id=tenant_id, table_id=table_id, kept=kept):
            yield _listed(tenant_id, path, size, deleted=False, reason=reason)


def _fate(file: Unreferenced, *, now: datetime) -> tuple[bool, str]:
    if file.tombstoned:
        return True, f"named by no snapshot since {rfc3339(file.since)}, and tombstoned"
    if file.held_by is not None:
        return False, f"held by the {file.held_by}"
    if file.due >= now:
        return False, f"named by no snapshot since {rfc3339(file.since)}; not before {rfc3339(file.due)}"
    return True, f"named by no snapshot since {rfc3339(file.since)}"


def _orphan(tenant_id: str, orphan: Orphan, *, grace: timedelta, now: datetime) -> Listed:
    if orphan.first_seen is None:
        reason, deleted = "no row names it; seen for the first time", False
    else:
        deleted = orphan.first_seen + grace < now
        when = "" if deleted else f"; not before {rfc3339(orphan.first_seen + grace)}"
        reason = f"no row names it; first seen {rfc3339(orphan.first_seen)}{when}"
    return _listed(tenant_id, orphan.key, orphan.size_bytes, deleted=deleted, reason=reason)


def _listed(tenant_id: str, key: str, size_bytes: int, *, deleted: bool, reason: str) -> Listed:
    return {"tenant_id": tenant_id, "key": key, "bytes": size_bytes, "deleted": deleted, "reason": reason}
